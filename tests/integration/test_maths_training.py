"""Two training steps on maths with every real part and no Docker: a tiny starter of word problems."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from pgrpo_ray import launch
from pgrpo_ray.config import load
from pgrpo_ray.data import arrow
from pgrpo_ray.preflight.disk import cache_folder
from pgrpo_ray.starter.artifacts import ensure_starter

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed]

LOCAL = Path(__file__).parents[2] / "cluster" / "local-maths.yaml"


@pytest.fixture(scope="module")
def finished(starter_cache, tmp_path_factory):
    """The run's folder, its config, the starter's paths and what the terminal said."""
    folder = tmp_path_factory.mktemp("maths")
    sizes = {"sft_steps": 100, "reward_model_steps": 10, "train_problems": 200, "heldout_problems": 16}
    overrides = {
        **{f"starter.{key}": value for key, value in sizes.items()},
        "run.dir": folder / "runs",
        "run.steps": 2,
        "data.heldout_problems": 8,
        "rollout.prompts_per_step": 8,
        "evaluation.samples_per_problem": 2,
        "sandbox.backend": "docker",
    }
    terminal = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGRPO_CACHE", str(starter_cache))
        patch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
        config = load(LOCAL, [f"{key}={value}" for key, value in overrides.items()])
        run = launch.run(config, Console(file=terminal, width=200))
        starter = ensure_starter(config.starter, cache_folder())
    return run, config, starter, terminal.getvalue()


def test_every_answer_was_judged_without_a_sandbox(finished):
    run, config, _, terminal = finished
    summary = json.loads((run / "summary.json").read_text())
    assert summary["sandbox"] == "maths"
    assert summary["heldout_problems"] == 8
    for step in (1, 2):
        rows = arrow.read_ipc(run / "rollouts" / f"step-{step:06d}.arrow").to_pylist()
        assert len(rows) == 8 * config.rollout.group_size
        for row in rows:
            assert row["execution_error"] is None
            assert row["sandbox"] == ("maths" if row["program"] is not None else None)
            assert (row["verdict"] is None) == (row["program"] is None)
            assert row["reward_outcome"] == float(row["verdict"] == "passed")
        assert any(row["verdict"] is not None for row in rows)
        assert all("mathematics" not in row["prompt"] for row in rows), "the starter's template leaves the system out"
    assert "held-out pass@1 after" in terminal


def test_verdicts_are_those_of_the_answers(finished):
    run, _, starter, _ = finished
    references = {}
    for line in starter.train.read_text().splitlines():
        record = json.loads(line)
        references[record["id"]] = int(record["tests"]["cases"][0]["answer"])
    rows = arrow.read_ipc(run / "rollouts" / "step-000001.arrow").to_pylist()
    plain = [row for row in rows if row["program"] is not None and row["program"].strip().isdigit()]
    assert plain, "a policy that was shown a hundred batches of answers writes numbers"
    for row in plain:
        right = int(row["program"]) == references[row["problem_id"]]
        assert (row["verdict"] == "passed") == right, row["program"]


def test_the_policy_moved(finished):
    run, _, starter, _ = finished
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step["issued"] for step in steps] == [64, 64]
    before = dict(AutoModelForCausalLM.from_pretrained(starter.policy, dtype=torch.float32).named_parameters())
    after = dict(AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32).named_parameters())
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
