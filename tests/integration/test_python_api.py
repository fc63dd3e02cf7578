"""docs/python.md, run from top to bottom in one process, as its reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed, pytest.mark.docker]

REPOSITORY = Path(__file__).parents[2]


def test_the_walk_through_runs_as_it_stands(tmp_path, starter_cache, tiny_section, tiny_starter, docker_engine):
    text = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    cells = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for key, value in tiny_section.model_dump(exclude_defaults=True).items():  # that starter is there already
        assert f'"starter.{key}": {value},' in cells[0]
    (problem,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (tmp_path / "problems.jsonl").write_text(problem)
    (tmp_path / "cluster").symlink_to(REPOSITORY / "cluster")
    (tmp_path / "walk.py").write_text("\n".join(cells))
    environment = os.environ | {"PGRPO_CACHE": str(starter_cache), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "walk.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=420
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert any(re.fullmatch(r"0\.\d+ 0\.\d+|[01]\.0 .*|0\.\d+ [01]\.0", line) for line in lines), lines
    assert any(re.fullmatch(r"Verdict\.PASSED|passed", line.strip()) for line in lines), lines
    score = float(re.fullmatch(r"\[(\d\.\d+(?:e-\d+)?)\]", lines[-1])[1])
    assert 0 < score < 1
    rewards = re.search(r"^\[(-?\d.*), (-?\d.*)\]$", done.stdout, re.MULTILINE)
    assert all(-0.2 <= float(reward) <= 2 for reward in rewards.groups()), "the rule's own range"
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == ["try"]
