"""What a program in the process sandbox can read of the secrets of who runs it."""

import os
import subprocess
import sys

import pytest
from planted import plant, search

from pgrpo_ray.errors import SandboxError
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.sandbox.process_runner import ProcessRunner
from pgrpo_ray.types import Problem, StdinCase, TestStyle

NOTHING = Problem("nothing", "", TestStyle.STDIN, (StdinCase("", "nothing"),))


def judge(program):
    try:
        pool = ExecutionPool(ProcessRunner, slots=1, retries=0)
    except SandboxError as error:
        pytest.skip(str(error))
    try:
        return pool.judge(NOTHING, program)
    finally:
        pool.close()


def printed(program):
    """What it prints where nothing hides anything from it."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout


def test_a_program_inherits_no_secret(monkeypatch):
    marker = plant(monkeypatch)
    program = f"import os\nprint('found' if {marker[:20]!r} + {marker[20:]!r} in repr(os.environ) else 'nothing')"
    assert judge(program).passed
    assert printed(program) == "found\n"


def test_a_program_finds_no_secret_in_any_process(monkeypatch):
    if os.geteuid():
        pytest.skip("an ordinary user's programs run as that user here (docs/threat-model.md)")
    program = search(plant(monkeypatch), [])
    assert judge(program).passed
    assert printed(program) == "found\n"
