"""What the heavy parts of both starter families share: a process of their own, and the reward model's training.

Started by `artifacts`, so that the caller's process keeps its own thread settings and memory. Speaks JSON lines on
standard output: `{"done": 0.25}` while working, `{"report": {...}}` at the end.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgrpo_ray.config import StarterSection
from pgrpo_ray.types import PreferencePair

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

    from pgrpo_ray.reward_model.model import RewardModel
    from pgrpo_ray.starter.policy import Example
    from pgrpo_ray.starter.proofreading import Proof

Part = Callable[[Path, StarterSection], dict[str, Any]]
"""Builds a part in a folder and returns figures for the report."""


def serve(parts: Mapping[str, Part]) -> None:
    """Build the part that the command line names, `PART FOLDER SECTION_JSON`, and say how it went."""
    global _channel
    _channel = os.dup(1)
    os.dup2(2, 1)  # whatever libraries print goes to the log
    import torch

    from pgrpo_ray.starter.products import fast_in_bfloat16

    part, folder, section_json = sys.argv[1:]
    section = StarterSection.model_validate_json(section_json)
    torch.set_num_threads(section.threads)
    started = time.monotonic()
    report = parts[part](Path(folder), section) | {"bfloat16_products": fast_in_bfloat16()}
    _say({"report": {**report, f"{part}_s": round(time.monotonic() - started, 1)}})


def policy_figures(model: "Qwen2ForCausalLM", examples: Sequence["Example"], loss: float) -> dict[str, Any]:
    """Return what the report says of a trained policy."""
    lengths = sorted(len(example.response_ids) for example in examples)
    return {
        "sft_loss": loss,
        "policy_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "response_tokens_median": lengths[len(lengths) // 2],
        "response_tokens_max": lengths[-1],
        "prompt_tokens_max": max(len(example.prompt_ids) for example in examples),
    }


def train_reward_model(
    folder: Path,
    section: StarterSection,
    read: Callable[[Path], list[Any]],
    make_proofs: Callable[["RewardModel", list[Any], int, int], list["Proof"]],
    make_pairs: Callable[[list[Any], int, int], list[PreferencePair]],
) -> dict[str, Any]:
    """Train a reward model on top of the policy into `folder/reward_model`; return figures for the report.

    First it learns to proofread, and is kept as `folder/proofreader`; then to prefer. `read` reads exercises, the
    others make texts of them: how many, and from which seed.
    """
    from pgrpo_ray.reward_model.model import untrained
    from pgrpo_ray.reward_model.train import Recipe, pair_accuracy, train
    from pgrpo_ray.starter import proofreading
    from pgrpo_ray.starter.products import fast_products

    steps = section.reward_model_steps
    first = int(steps * proofreading.SHARE_FRAC)
    recipe = Recipe(steps=steps - first, learning_rate=proofreading.PREFERENCE_LEARNING_RATE, seed=section.seed)
    exercises = read(folder / "warmup.jsonl")
    model = untrained(folder / "policy", seed=section.seed)
    report: dict[str, Any] = {}
    if first:
        proofs = make_proofs(model, exercises, first * proofreading.BATCH_SIZE, section.seed)
        with fast_products(model.network):
            report["rm_proofreading_loss"] = proofreading.train(
                model, proofs, first, section.seed, lambda done: progress(done * first / steps)
            )
    model.save(folder / "proofreader")
    pairs = make_pairs(exercises, recipe.steps * recipe.batch_pairs, section.seed)
    with fast_products(model.network):
        report["rm_loss"] = train(model, pairs, recipe, lambda done: progress((first + done * recipe.steps) / steps))
    model.save(folder / "reward_model")
    heldout = make_pairs(read(folder / "heldout.jsonl"), 1000, section.seed + 1)
    return report | {"rm_pair_accuracy": pair_accuracy(model, heldout)}


_channel = 1
_last_said = 0.0


def progress(done: float) -> None:
    """Tell the parent how far this part is, at most twice a second."""
    global _last_said
    now = time.monotonic()
    if now - _last_said >= 0.5 or done >= 1:
        _last_said = now
        _say({"done": done})


def _say(message: dict[str, Any]) -> None:
    """Write one line to the parent; libraries that print must not mix with it, hence a descriptor of its own."""
    os.write(_channel, (json.dumps(message) + "\n").encode())
