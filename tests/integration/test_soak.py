"""The soak of `benchmarks/sandbox_soak.py` in its short form; the long one's log is in `benchmarks/results`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]
SOAK = Path(__file__).parents[2] / "benchmarks" / "sandbox_soak.py"


def test_kills_lose_no_program_and_nothing_grows(tmp_path):
    out = tmp_path / "soak"
    options = ["--programs", "600", "--slots", "2", "--chunk", "100", "--kill-every", "4", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SOAK), *options], capture_output=True, text=True, check=False)
    log = out.with_suffix(".jsonl")
    wrong = [line for line in log.read_text().splitlines() if '"event": "wrong"' in line] if log.exists() else []
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *wrong])
