"""The chaos of `benchmarks/chaos.py` in its short form: a rollout worker is stopped, then the driver killed and the run
resumed. The long one's log is in `benchmarks/results`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed, pytest.mark.docker]

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def test_a_harmed_run_ends_like_an_unharmed_one_and_leaves_nothing(docker_engine, starter_cache, tmp_path):
    out = tmp_path / "chaos.json"
    command = [sys.executable, str(CHAOS), "--steps", "14", "--harms", "2", "--seed", "74"]
    ended = subprocess.run(
        [*command, "--cache", str(starter_cache), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=540,
    )
    logs = "\n".join(path.read_text()[-3000:] for path in tmp_path.glob("chaos-*.log"))
    assert out.exists(), f"{ended.stdout}\n{logs}"
    findings = json.loads(out.read_text())["findings"]
    assert [name for name, holds in findings.items() if not holds] == [], f"{ended.stdout}\n{logs}"
