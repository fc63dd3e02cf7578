"""What several test folders share: where the real data lies, whether Docker answers, a starter of the smallest size."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("pgrpo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pgrpo")  # how fast examples come says how loaded the machine is, not how right the code is

SHARED = Path(os.environ.get("PGRPO_TEST_DATA") or Path(__file__).parents[2] / "shared")
"""Real data for tests: `datasets/` and `hostile.jsonl`, beside a checkout where they exist; no part of the project."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; skips with the reason where it is absent."""
    if not (SHARED / "hostile.jsonl").is_file():
        pytest.skip(f"real data is absent: no {SHARED / 'hostile.jsonl'}; PGRPO_TEST_DATA names another folder")
    return SHARED


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Skip with the engine's own reason where no Docker answers; fail instead where PGRPO_REQUIRE_DOCKER=1 (CI)."""
    from pgrpo_ray.sandbox.docker_runner import engine_problem

    if reason := engine_problem():
        if os.environ.get("PGRPO_REQUIRE_DOCKER") == "1":
            pytest.fail(f"no Docker engine: {reason}")
        pytest.skip(f"no Docker engine: {reason}")


@pytest.fixture(scope="session")
def tiny_section():
    """Settings of a starter that is made in seconds; it writes half-well-formed nonsense, enough for a gradient."""
    from pgrpo_ray.config import StarterSection

    return StarterSection(sft_steps=60, reward_model_steps=10, train_problems=200, heldout_problems=64)


@pytest.fixture(scope="session")
def starter_cache(pytestconfig) -> Path:
    """One cache for all sessions of a checkout, so that a tiny starter is made once; its name says what it is of."""
    return pytestconfig.cache.mkdir("starter")


@pytest.fixture(scope="session")
def tiny_starter(tiny_section, starter_cache):
    """Paths of the tiny starter's artifacts."""
    from pgrpo_ray.starter.artifacts import ensure_starter

    return ensure_starter(tiny_section, starter_cache)


@pytest.fixture(scope="module")
def one_thread():
    """One thread for torch: with more of them than free cores, they wait for each other, and a tiny model crawls."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def local_ray():
    """A real local Ray for the tests of a file."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
