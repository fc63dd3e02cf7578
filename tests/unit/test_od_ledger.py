"""The work folder: nothing lost, nothing twice, no two configs in one."""

import json
import os
import re
import subprocess
import sys

import pytest

from pgrpo_ray.errors import ConfigError, DataError, EnvironmentFault
from pgrpo_ray.reward_model.od.ledger import Ledger

DECIDES = {"model": "m", "seed": 0}


def test_what_is_kept_is_there_again(tmp_path):
    with Ledger(tmp_path / "deep" / "work", DECIDES) as ledger:
        for number in range(200):
            ledger.append(f"k{number}", {"text": f"line\n{number} \u2028 é"})
        assert ledger.get("k7")["text"] == "line\n7 \u2028 é"
        ledger.append("k200", {"text": "after a read"})
    with Ledger(tmp_path / "deep" / "work", DECIDES) as ledger:
        assert len(ledger) == 201 and "k199" in ledger and "k201" not in ledger
        assert ledger.get("k200") == {"key": "k200", "text": "after a read"}


def test_a_key_is_kept_once(tmp_path):
    with Ledger(tmp_path, DECIDES) as ledger:
        ledger.append("k", {"text": "first"})
        ledger.append("k", {"text": "second"})
        assert ledger.get("k")["text"] == "first"
    assert (tmp_path / "calls.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("torn", [b'{"key": "c", "text": "half', b'{"key": "c", "text": "whole"}', b"{", b"\xc3"])
def test_a_torn_last_line_is_asked_again(tmp_path, torn):
    with Ledger(tmp_path, DECIDES) as ledger:
        ledger.append("a", {"text": "1"})
        ledger.append("b", {"text": "2"})
    file = tmp_path / "calls.jsonl"
    file.write_bytes(file.read_bytes() + torn)
    with Ledger(tmp_path, DECIDES) as ledger:
        assert len(ledger) == 2 and "c" not in ledger
        ledger.append("c", {"text": "3"})
        assert (ledger.get("b")["text"], ledger.get("c")["text"]) == ("2", "3")
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["a", "b", "c"]


def test_damage_before_the_end_is_named_not_skipped(tmp_path):
    with Ledger(tmp_path, DECIDES) as ledger:
        ledger.append("a", {"text": "1"})
    file = tmp_path / "calls.jsonl"
    file.write_text("rubbish\n" + file.read_text())
    with pytest.raises(DataError, match=r"calls\.jsonl:1: is damaged"):
        Ledger(tmp_path, DECIDES)


def test_another_config_is_refused_with_what_differs(tmp_path):
    with Ledger(tmp_path, DECIDES):
        pass
    with pytest.raises(ConfigError, match=r"seed was 0 and is 1\. Set them back") as caught:
        Ledger(tmp_path, DECIDES | {"seed": 1})
    assert "model" not in str(caught.value)
    with pytest.raises(ConfigError, match="new was None and is 'x'"):
        Ledger(tmp_path, DECIDES | {"new": "x"})


def test_two_jobs_do_not_share_a_folder(tmp_path):
    with Ledger(tmp_path, DECIDES), pytest.raises(ConfigError, match="another pairs job works in this folder"):
        Ledger(tmp_path, DECIDES)
    with Ledger(tmp_path, DECIDES):
        pass


def test_every_line_is_with_the_kernel_at_once(tmp_path):
    """A killed process loses nothing: another reader sees each line as soon as `append` returns."""
    with Ledger(tmp_path, DECIDES) as ledger:
        for number in range(3):
            ledger.append(str(number), {"text": "x"})
            assert os.path.getsize(tmp_path / "calls.jsonl") > 0
            assert (tmp_path / "calls.jsonl").read_text().count("\n") == number + 1


ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.reward_model.od.ledger import Ledger
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # a write beyond fails in the middle, as on a full disk
try:
    with Ledger(Path(sys.argv[1]), {decides!r}) as ledger:
        for number in range(5):
            ledger.append(str(number), {{"text": "y" * 1000}})
except EnvironmentFault as fault:
    print(type(fault.__cause__).__name__, fault)
"""
"""In a process of its own: the limit would hold for a log of the tests as well."""


def test_a_full_disk_is_one_clear_fault_and_what_was_kept_stays(tmp_path):
    with Ledger(tmp_path, DECIDES) as ledger:
        ledger.append("a", {"text": "x" * 1000})
    command = [sys.executable, "-c", ON_A_FULL_DISK.format(decides=DECIDES), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.match(r"OSError .*calls\.jsonl: cannot be written .*same command again", said), said
    with Ledger(tmp_path, DECIDES) as ledger:
        assert len(ledger) == 2 and ledger.get("0")["text"] == "y" * 1000 and "1" not in ledger


def test_a_disk_that_fails_at_the_end_is_a_fault_but_hides_no_other(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EnvironmentFault, match="No space left"), Ledger(tmp_path, DECIDES):
        pass
    with pytest.raises(KeyError, match="mine"), Ledger(tmp_path, DECIDES):
        raise KeyError("mine")
