"""The config tree: what it refuses, and whether its messages help."""

import re
from pathlib import Path

import pytest
import yaml

from pgrpo_ray.config import RunConfig, apply_override, derive, load, load_tree, parse
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.config.lcb_rb import LcbRbConfig
from pgrpo_ray.config.pairs import PairsConfig
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.errors import ConfigError

CLUSTER = Path(__file__).parents[2] / "cluster"
LOCAL = CLUSTER / "local.yaml"
TREES = {
    "run": RunConfig,
    "output": RewardTrainingConfig,
    "pairs": PairsConfig,
    "lcb_rb": LcbRbConfig,
    "benchmark": EvaluationConfig,
}
"""First section of a config -> the command's tree."""
RECIPE = ("qwen2.5-coder-7b-8gpu", "qwen2.5-coder-7b-2nodes", "qwen2.5-math-7b-8gpu", "reward-model-7b", "pairs-32b")
"""Configs whose values each say where they come from."""


@pytest.mark.parametrize("file", sorted(CLUSTER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_that_ships_loads(file):
    first = next(iter(yaml.safe_load(file.read_text())))
    load_tree(TREES[first], file)


@pytest.mark.parametrize("name", RECIPE)
def test_every_value_of_the_recipe_is_marked_as_the_papers_or_ours(name):
    lines = [line for line in (CLUSTER / f"{name}.yaml").read_text().splitlines() if line and line[0] != "#"]
    values = [line for line in lines if not re.fullmatch(r"\w+:", line)]
    assert len(values) > 10
    for line in values:
        assert re.fullmatch(r"  \w+: .*\S +# (paper|ours)\b.*", line), line


@pytest.mark.parametrize(("name", "gpus", "longest"), [("coder", 8, 5120), ("math", 8, 4096)])
def test_the_recipe_fills_one_node_and_its_models_positions(name, gpus, longest):
    config = load(CLUSTER / f"qwen2.5-{name}-7b-8gpu.yaml")
    assert config.gpus == gpus
    assert derive(config).max_sequence_tokens == longest


def test_the_local_config_loads_and_derives():
    config = load(
        LOCAL, ["run.steps=10", "rollout.group_size=4", "rollout.prompts_per_step=6", "algo.num_mini_batches=2"]
    )
    derived = derive(config)
    assert derived.rollouts_per_step == 24
    assert derived.rollouts_total == 240
    assert derived.optimizer_steps == 20
    assert derived.rollouts_per_mini_batch == 12
    assert derived.max_sequence_tokens == config.data.max_prompt_tokens + config.rollout.max_response_tokens


@pytest.mark.parametrize(
    ("tree", "path", "words"),
    [
        ({"rolout": {}}, "rolout", "Did you mean 'rollout'?"),
        ({"rollout": {"group_sise": 4}}, "rollout.group_sise", "Did you mean 'group_size'?"),
        ({"run": {"steps": "many"}}, "run.steps", "received 'many'"),
        ({"run": {"steps": 0}}, "run.steps", "must be at least 1"),
        ({"rollout": 3}, "rollout", "received 3"),
        ({"learner": {"learning_rate": float("inf")}}, "learner.learning_rate", "finite"),
        ({"run": {"name": "../elsewhere"}}, "run.name", "becomes a folder's name"),
        ({"run": {"steps": True}}, "run.steps", "received True"),
        ({"run": {"steps": "10"}}, "run.steps", "received '10'"),
        ({"run": {"seed": 2**40}}, "run.seed", "must be below 2147483648"),
        ({"learner": {"adam_betas": [2, -1]}}, "learner.adam_betas.0", "must be below 1"),
    ],
)
def test_wrong_trees_are_refused_with_path_and_help(tree, path, words):
    with pytest.raises(ConfigError) as caught:
        parse(tree, where="my.yaml")
    assert caught.value.path == path
    assert "my.yaml" in str(caught.value)
    assert path in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["rollout.group_size=1"], "rollout.group_size"),
        (["algo.num_mini_batches=64"], "algo.num_mini_batches"),
        (["learner.micro_batch_tokens=100"], "learner.micro_batch_tokens"),
        (["data.heldout_problems=64", "starter.heldout_problems=32"], "data.heldout_problems"),
        (["starter.train_problems=16"], "rollout.prompts_per_step"),
        (["cluster.address=auto", "sandbox.backend=process"], "sandbox.backend"),
        (["sandbox.deadline_s=1800"], "sandbox.deadline_s"),
        (["reward_model.deadline_s=1800"], "reward_model.deadline_s"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides, path):
    with pytest.raises(ConfigError) as caught:
        load(LOCAL, overrides)
    assert caught.value.path == path


def test_every_finding_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse({"run": {"steps": 0, "sede": 1}, "nonsense": {}})
    for word in ("run.steps", "run.sede", "nonsense"):
        assert word in str(caught.value)


def test_overrides_read_numbers_lists_and_nothing():
    tree = {"learner": {"learning_rate": 1.0}}
    for override in (
        "learner.learning_rate=1e-4",
        "learner.adam_betas=[0.8, 0.9]",
        "data.heldout=null",
        "run.name=a=b",
    ):
        apply_override(tree, override)
    assert tree == {
        "learner": {"learning_rate": 1e-4, "adam_betas": [0.8, 0.9]},
        "data": {"heldout": None},
        "run": {"name": "a=b"},
    }
    assert parse({"learner": tree["learner"]}).learner.adam_betas == (0.8, 0.9)


@pytest.mark.parametrize("override", ["steps", "=3", "run..steps=3", "run.steps.more=3", "run.steps={"])
def test_malformed_overrides_are_refused(override):
    with pytest.raises(ConfigError):
        apply_override({"run": {"steps": 1}}, override)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "mapping"),
        (None, "cannot be read"),
        ("run: {steps: 1}\nrun: {steps: 2}", "stands twice"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, text, words):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(file)


def test_a_tilde_means_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = parse({"policy": {"model": "~/model"}, "run": {"dir": "~/runs"}})
    assert (config.policy.model, config.run.dir) == ("/home/ada/model", "/home/ada/runs")


def test_a_loaded_config_cannot_be_changed():
    config = load(LOCAL)
    with pytest.raises(ValueError, match="frozen"):
        config.run.steps = 5


ON_GPUS = {"rollout": {"gpus_per_worker": 1, "num_workers": 2}, "learner": {"gpus_per_rank": 1, "num_ranks": 2}}
SHARED = {"rollout": ON_GPUS["rollout"] | {"kv_cache_mib": 1024}, "cluster": {"colocate": True}}


@pytest.mark.parametrize(
    ("values", "path", "words"),
    [
        ({"cluster": {"colocate": True}}, "cluster.colocate", "gpus_per_rank and rollout.gpus_per_worker 1"),
        (SHARED | {"learner": {"gpus_per_rank": 1, "num_ranks": 1}}, "cluster.colocate", r"\(1\) and .* \(2\) must be"),
        (ON_GPUS | {"cluster": {"colocate": True}}, "rollout.kv_cache_mib", "cannot take what is free"),
        ({"sync": {"transport": "nccl"}}, "sync.transport", "each with one role"),
        (ON_GPUS | SHARED | {"sync": {"transport": "nccl"}}, "sync.transport", "cluster.colocate=false"),
        (ON_GPUS | {"sync": {"transport": "ipc"}}, "sync.transport", "cluster.colocate=true"),
    ],
)
def test_gpus_that_cannot_be_shared_or_connected_are_refused(values, path, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse(values).check()
    assert caught.value.path == path


def test_gpus_that_can_be_are_counted_once():
    split, shared = ON_GPUS | {"sync": {"transport": "nccl"}}, ON_GPUS | SHARED | {"sync": {"transport": "ipc"}}
    for values, gpus in ((split, 4), (shared, 2)):
        config = parse(values)
        config.check()
        assert config.gpus == gpus


def test_a_run_is_resumed_with_what_made_it_and_on_whatever_there_is():
    first = parse({"run": {"steps": 10}, "learner": {"num_ranks": 2}})
    before = first.model_dump(mode="json")
    parse(
        {"run": {"steps": 20, "name": "moved"}, "learner": {"num_ranks": 4}, "cluster": {"address": "auto"}}
    ).check_resumes(before)
    with pytest.raises(ConfigError, match=r"algo.reward \(was 'posterior', is 'linear'\), run.seed \(was 0, is 7\)"):
        parse({"run": {"seed": 7}, "algo": {"reward": "linear"}}).check_resumes(before)
