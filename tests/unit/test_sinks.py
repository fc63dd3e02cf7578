"""Sinks of a run's numbers: Weights & Biases as it really writes offline, and what is refused before a run."""

import json
import time

import pytest

from pgrpo_ray.config import parse
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.obs import sinks
from pgrpo_ray.obs.run_log import RunLog

MARKER = "planted-key-0123456789abcdef0123456789abcdef01"


def config(folder, **run):
    return parse({"run": {"dir": str(folder), "name": "one", "wandb": "offline", **run}})


def chunks(log, header=7, block=32768):
    """The records of a log in LevelDB's format: in blocks, each piece with CRC, length and whether it is whole (1), or
    the first (2), middle (3) or last (4) piece of a record."""
    at, whole = header, b""
    while at + 7 <= len(log):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        whole += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def records(folder):
    """What Weights & Biases wrote offline, session after session: the id, project and (step, pass_rate) of each.

    Its own process writes, on a loaded machine after `finish` has returned.
    """
    deadline = time.monotonic() + 30
    found = _read_records(folder)
    while not all(run for run, _ in found):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
        found = _read_records(folder)
    return [(run.run_id, run.project, points) for run, points in found]


def _read_records(folder):
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        run, points = None, []
        for data in chunks(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                run = record.run
            elif record.WhichOneof("record_type") == "history":
                items = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                points.append((items["step"], items.get("pass_rate")))
        found.append((run, points))
    return found


def test_offline_writes_every_step_and_a_resume_goes_on_in_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'pgrpo-ray[wandb]'")
    monkeypatch.setenv("WANDB_API_KEY", MARKER)
    log = RunLog(config(tmp_path, wandb_project="mine"))
    for step in (1, 2, 3):
        log.step(step, {"pass_rate": step / 4, "thinking_passers": float("nan")})
    log.close()
    log.close()
    again = RunLog(config(tmp_path, wandb_project="mine"), resume=True)
    again.rewind(2)
    again.step(3, {"pass_rate": 1.0})
    again.close()
    first, second = records(again.folder)
    assert first[0] == second[0] == json.loads((again.folder / "wandb-run.json").read_text())["id"]
    assert first[1] == "mine"
    assert first[2] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert second[2] == [(3, 1.0)]  # what was logged stands there, what is taken again comes after it
    holders = [file for file in again.folder.rglob("*") if file.is_file() and MARKER.encode() in file.read_bytes()]
    assert not holders
    other = RunLog(config(tmp_path))  # another run, though of the same name
    other.close()
    assert records(other.folder)[0][0] != first[0]


def test_a_run_goes_on_when_its_curves_cannot(tmp_path, caplog):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'pgrpo-ray[wandb]'")
    log = RunLog(config(tmp_path))
    (sink,) = (one for one in log._sinks if isinstance(one, sinks.WeightsAndBiases))
    sink._run.finish()  # logging to it raises from now on
    for step in (1, 2):
        log.step(step, {"pass_rate": 0.5})
    log.close()
    assert len((log.folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert caplog.text.count("shows no more of this run") == 1


def test_without_the_package_or_a_key_the_run_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    sinks.check_wandb(config(tmp_path, wandb="none"))
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        sinks.check_wandb(config(tmp_path, wandb="online"))
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'pgrpo-ray\[wandb\]'"):
        sinks.check_wandb(config(tmp_path))
    sinks.check_wandb(config(tmp_path, wandb="none"))
