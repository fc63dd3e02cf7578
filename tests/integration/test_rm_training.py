"""Reward-model training on real ZeRO-3 ranks: the same numbers as one process, a learned rule, a model others load."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import ray
import torch
import yaml
from tiny_qwen3 import TOKENIZER, tiny_config
from transformers import AutoModelForSequenceClassification, Qwen3ForCausalLM

from pgrpo_ray.actors.rm_training import reward_trainer
from pgrpo_ray.algo.preferences import Objective, TokenTable, rate_frac
from pgrpo_ray.config import parse_tree
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.errors import GradientError, ModelError
from pgrpo_ray.reward_model.model import load, untrained
from pgrpo_ray.reward_model.pairs import write_pairs
from pgrpo_ray.reward_model.train import LocalTrainer, Recipe, batches, pair_accuracy, pair_rows, raw_scores, sides_of
from pgrpo_ray.types import PreferencePair

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed, pytest.mark.usefixtures("one_thread")]

STEPS, SEED = 5, 3
# The planted rule is a word that either side may begin or end with, among words of all lengths.
PAIRS = [
    PreferencePair(f"problem {n}", f"{'so ' * (n % 13)}good reason {n}", f"bad {'so ' * (n % 7)}reason {n}", "word")
    for n in range(160)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = tiny_config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """The folder of `pgrpo rm train` on two ranks, run as a user does."""
    folder = tmp_path_factory.mktemp("trained")
    write_pairs(folder / "pairs.jsonl", PAIRS)
    values = {
        "output": {"dir": str(folder), "name": "rm"},
        "data": {"pairs": str(folder / "pairs.jsonl"), "heldout_frac": 0.4},
        "model": {"base": str(base), "max_length_tokens": 128},
        "schedule": {"epochs": 5, "batch_rows": 16, "eval_every": 10},
        "learner": {"num_ranks": 2, "learning_rate": 3e-3, "micro_batch_tokens": 600},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", "rm", "train", folder / "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "rm"


def config_of(base, **learner):
    return parse_tree(
        RewardTrainingConfig,
        {
            "output": {"seed": SEED},
            "data": {"pairs": "unread"},
            "model": {"base": str(base), "max_length_tokens": 128},
            "learner": {"num_ranks": 2, "learning_rate": 1e-3, "weight_decay": 0.01, **learner},
        },
    )


def test_two_ranks_compute_what_one_process_does(base, tmp_path):
    """Fresh head, losses, gradient norms and scores; passes of few tokens, so ranks run several and some empty ones."""
    model = untrained(base, seed=SEED)
    rows = pair_rows(model.encode(sides_of(PAIRS), 128))
    heldout = TokenTable.of(model.encode(sides_of(PAIRS[:21]), 128))
    objective = Objective(margin=0.1, label_smoothing=0.05, centering=0.01)
    drawn = list(batches(rows.lengths, STEPS, 9, SEED))
    local = LocalTrainer(model, rows, objective, Recipe(STEPS, learning_rate=1e-3), heldout)
    numbers = [5, 3, 41, 0, 7, 8, 9]
    expected = [local.scores(numbers)]
    reports = [local.step(batch, rate_frac(step, STEPS, 2)) for step, batch in enumerate(drawn)]
    expected.append(local.scores(numbers))
    config = config_of(base, micro_batch_tokens=256)
    with reward_trainer(config, str(base), objective, rows, heldout) as ranks:
        scores = [ranks.scores(numbers)]
        for step, (batch, report) in enumerate(zip(drawn, reports, strict=True)):
            assert ranks.step(batch, rate_frac(step, STEPS, 2)) == pytest.approx(report, rel=1e-4, abs=1e-6)
        scores.append(ranks.scores(numbers))
        ranks.save(tmp_path / "model")
        assert ranks.step([0], 0.0)["loss"] > 0  # one row: the second rank has none at all
    assert np.abs(np.array(scores) - expected).max() < 1e-4
    assert np.abs(np.array(expected[0]) - expected[1]).max() > 0.01  # there was something to agree on
    saved = raw_scores(load(tmp_path / "model"), sides_of(PAIRS[:21]), 8, 128)
    assert [saved[number] for number in numbers] == pytest.approx(scores[1], abs=1e-5)


def test_a_gradient_that_is_no_number_changes_nothing_is_told_and_in_the_end_ends_it(base):
    """The loss stays a number: one rank's gradient is spoilt on its way back."""

    def multiply_gradient(role, factor):
        engine = role._learner.engine
        role.backward = getattr(role, "backward", engine.backward)
        engine.backward = lambda loss: role.backward(loss * factor)

    sequences = untrained(base).encode(sides_of(PAIRS[:8]), 128)
    trainer = reward_trainer(
        config_of(base, max_skipped_steps=2), str(base), Objective(), pair_rows(sequences), TokenTable.of(sequences[:8])
    )
    with trainer as ranks:

        def step(factor):
            ray.get(ranks._ranks[1].__ray_call__.remote(multiply_gradient, factor))
            return ranks.step([0, 1, 2, 3], 1.0), ranks.scores(range(8))

        _, before = step(1.0)
        figures, scores = step(math.nan)
        assert figures["skipped"] and math.isfinite(figures["loss"]) and not math.isfinite(figures["grad_norm"])
        assert scores == before
        figures, scores = step(1.0)
        assert "skipped" not in figures and scores != before
        step(math.inf)
        with pytest.raises(GradientError, match="2 optimizer steps in a row"):
            step(math.inf)


def test_a_planted_rule_is_learned_on_two_ranks(trained):
    report = json.loads((trained / "report.json").read_text())
    assert report["test_accuracy"]["all"]["value"] > 0.95
    model = load(trained / "model")
    assert pair_accuracy(model, PAIRS)["all"] > 0.95
    assert model.calibration.temperature == report["calibration"]["stored"]["temperature"] != 1.0


def test_the_starters_proofreader_learns_to_prefer(tiny_section, tiny_starter, starter_cache, tmp_path):
    """Of a tiny starter, so far below what the shipped config comes to; chance is one half."""
    values = {
        "output": {"dir": str(tmp_path), "name": "rm"},
        "data": {"pairs": "starter", "starter_pairs": 3000, "heldout_frac": 0.2},
        "model": {"base": "starter", "max_length_tokens": 256},
        "schedule": {"epochs": 1, "batch_rows": 24, "eval_every": 50},
        "learner": {"num_ranks": 2, "learning_rate": 1e-3, "warmup_steps": 5},
        "starter": tiny_section.model_dump(),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", "rm", "train", tmp_path / "config.yaml"]
    environment = os.environ | {"PGRPO_CACHE": str(starter_cache)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "rm" / "report.json").read_text())
    assert report["test_accuracy"]["all"]["value"] > 0.58
    assert report["test_accuracy"]["all"]["low"] > 0.5


def test_plain_transformers_loads_the_result_and_gives_the_same_raw_scores(trained):
    ours = load(trained / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    assert plain.config.num_labels == 1
    for item, score in zip(sides_of(PAIRS[:4]), raw_scores(ours, sides_of(PAIRS[:4]), 4, 128), strict=True):
        with torch.no_grad():
            assert plain(torch.tensor(ours.encode([item], 128))).logits.item() == pytest.approx(score, abs=1e-5)


@pytest.mark.vllm
def test_vllm_loads_the_result_and_gives_the_same_raw_scores(trained):
    """In a process of its own: the engine takes its settings from the environment when it is imported."""
    items = sides_of(PAIRS[:6])
    ours = load(trained / "model")
    tokens = ours.encode(items, 128)
    code = (
        "import json, sys\n"
        "from vllm import LLM, PoolingParams\n"
        "model, tokens = sys.argv[1], json.loads(sys.argv[2])\n"
        "engine = LLM(model, runner='pooling', dtype='float32', enforce_eager=True, max_model_len=128,\n"
        "             kv_cache_memory_bytes=64 << 20)\n"
        "prompts = [{'prompt_token_ids': ids} for ids in tokens]\n"
        "outputs = engine.classify(prompts, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)\n"
        "print('SCORES', json.dumps([output.outputs.probs[0] for output in outputs]))\n"
    )
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(trained / "model"), json.dumps(tokens)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SCORES")]
    assert json.loads(line.removeprefix("SCORES")) == pytest.approx(raw_scores(ours, items, 6, 128), abs=1e-3)


def test_a_damaged_checkpoint_is_a_model_error_of_the_ranks(base, tmp_path):
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    rows = pair_rows(untrained(base).encode(sides_of(PAIRS[:4]), 128))
    config = config_of(tmp_path, num_ranks=1)
    with (
        pytest.raises(ModelError, match="cannot be loaded"),
        reward_trainer(config, str(tmp_path), Objective(), rows, rows.tokens),
    ):
        pass
