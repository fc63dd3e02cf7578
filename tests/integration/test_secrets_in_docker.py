"""A program in a container finds nothing of the secrets of who started it."""

import pytest
from planted import plant, search

from pgrpo_ray.sandbox.docker_runner import DockerRunner
from pgrpo_ray.sandbox.image import ensure_image
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.types import Problem, StdinCase, TestStyle

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]
NOTHING = Problem("nothing", "", TestStyle.STDIN, (StdinCase("", "nothing"),))


def test_a_program_finds_no_secret_of_the_environment_and_no_file_of_the_host(tmp_path, monkeypatch):
    marker = plant(monkeypatch)
    open_to_all = tmp_path / "token"
    open_to_all.write_text(marker)
    tag = ensure_image()
    pool = ExecutionPool(lambda: DockerRunner(tag, memory_mib=256), slots=1, retries=1)
    try:
        judgement = pool.judge(NOTHING, search(marker, [open_to_all]))
    finally:
        pool.close()
    assert judgement.passed, judgement
    assert judgement.sandbox == "docker"
