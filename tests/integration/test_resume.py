"""A real run that is killed at every kind of moment, and goes on as if nothing had happened, to the last bit.

vLLM, Docker, DeepSpeed ZeRO-3 and Ray; one run that nobody harmed is what the others are compared with.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import docker
import pytest
import torch
from transformers import AutoModelForCausalLM

from pgrpo_ray.data import arrow
from pgrpo_ray.data.ledger import audit
from pgrpo_ray.sandbox.runners import LABEL

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from live_run import LiveRun

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed, pytest.mark.docker]

STEPS = 4
MEASURED = {"duration_ms", "cpu_ms", "peak_mib"}
"""Columns that are clocks' and no results."""


@pytest.fixture(scope="module")
def start(docker_engine, tiny_section, starter_cache, tiny_starter, tmp_path_factory):
    folder, started = tmp_path_factory.mktemp("resume"), []

    def start(name, *arguments, **overrides):
        settings = {
            "run.steps": STEPS,
            "data.heldout_problems": 0,
            "checkpoint.every_steps": 1,
            "checkpoint.keep": 9,
            "sandbox.backend": "docker",
            "starter": tiny_section.model_dump_json(),
        }
        run = LiveRun(folder / name, [f"{k}={v}" for k, v in (settings | overrides).items()], starter_cache)
        run.start(*arguments)
        started.append(run)
        return run

    yield start
    for run in started:
        run.end()


@pytest.fixture(scope="module")
def unharmed(start):
    run = start("unharmed")
    assert run.process.wait(300) == 0, run.said()
    return run


def weights(run):
    model = AutoModelForCausalLM.from_pretrained(run.folder / "model", dtype=torch.float32)
    return dict(model.named_parameters())


def assert_same(run, unharmed, *, weights_too=True):
    """The same problems in the same order, each rollout once, the same tokens, rewards and weights."""
    assert audit(run.folder / "ledger") == audit(unharmed.folder / "ledger")
    assert [step["step"] for step in run.steps()] == list(range(1, STEPS + 1))
    for step in range(1, STEPS + 1):
        one, other = (arrow.read_ipc(each.folder / "rollouts" / f"step-{step:06d}.arrow") for each in (run, unharmed))
        for name in set(arrow.BATCH_SCHEMA.names) - MEASURED:
            assert one[name].to_pylist() == other[name].to_pylist(), (step, name)
    if weights_too:
        found, expected = weights(run), weights(unharmed)
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_killed_with_all_of_ray_while_it_writes_a_checkpoint_a_run_ends_with_the_same_bits(start, unharmed):
    run = start("killed")
    draft = run.folder / "checkpoints" / ".step-000002.tmp"
    run.wait(draft.exists, 240, "the second checkpoint has begun")
    family = run.pids("all")
    for pid in [run.process.pid, *family]:
        os.kill(pid, signal.SIGKILL)
    run.process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert docker.from_env().containers.list(all=True, filters={"label": LABEL}) == []
    again = start("killed", "--resume")
    assert again.process.wait(240) == 0, again.said()
    assert "going on after step " in again.said()
    assert_same(again, unharmed)


def test_a_learner_rank_that_is_killed_costs_time_and_no_bit(start, unharmed):
    run = start("killed-rank")
    run.wait(lambda: len(run.steps()) == 2 and (run.folder / "checkpoints" / "step-000001").exists(), 240, "two steps")
    os.kill(run.pids("learner rank")[1], signal.SIGKILL)
    assert run.process.wait(240) == 0, run.said()
    assert "learner rank" in run.said() and "died: " in run.said()
    assert "all roles are started again" in run.said()
    assert_same(run, unharmed)


def test_another_number_of_ranks_goes_on_and_damage_is_refused(start, unharmed, tmp_path):
    """From step 3 of the unharmed run: the last step's rollouts are the same, as they are sampled before it."""
    folder = unharmed.folder.with_name("fewer")
    shutil.copytree(unharmed.folder, folder)
    shard = folder / "checkpoints" / "step-000004" / "learner-00000-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (folder / "summary.json").unlink()
    refused = start("fewer", "--resume")
    assert refused.process.wait(240) == 2, refused.said()
    assert "step-000004/learner-00000-of-00002.safetensors is damaged" in refused.said()
    assert "--resume-from step-000003" in refused.said()
    again = start("fewer", "--resume-from", "step-000003", **{"learner.num_ranks": 1})
    assert again.process.wait(240) == 0, again.said()
    assert_same(again, unharmed, weights_too=False)
    found, expected = weights(again), weights(unharmed)
    assert max((found[name] - expected[name]).abs().max().item() for name in expected) < 1e-4
