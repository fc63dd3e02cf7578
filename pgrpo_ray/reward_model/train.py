"""Bradley-Terry training of the reward model, and how well it orders pairs.

Loss: -log sigmoid(s(problem, better) - s(problem, worse)), mean over the batch (the paper's, section on its reward
model). Learning rate, schedule and batch size are not given there; the defaults here suit the starter's tiny model,
real models pass their own.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from pgrpo_ray.reward_model.model import RewardModel
from pgrpo_ray.types import PreferencePair

_WINDOW = 8
"""Batches per window that is sorted by length: little padding, yet batches differ from epoch to epoch."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train."""

    steps: int
    learning_rate: float = 1e-3
    """Peak."""
    batch_pairs: int = 24
    """Pairs per optimizer step; the network sees twice as many sequences."""
    warmup_frac: float = 0.05
    """Share of the steps with rising rate; it falls linearly to zero after them."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_length_tokens: int = 2048
    seed: int = 0


def train(
    model: RewardModel,
    pairs: Sequence[PreferencePair],
    recipe: Recipe,
    on_progress: Callable[[float], None] = lambda done: None,
) -> float:
    """Train `model` in place; return the mean loss of the last tenth of the steps, nats per pair.

    Raises `ValueError` without pairs.
    """
    if not pairs:
        raise ValueError("a reward model cannot be trained without pairs")
    torch.manual_seed(recipe.seed)
    better = model.encode([(pair.prompt, pair.better) for pair in pairs], recipe.max_length_tokens)
    worse = model.encode([(pair.prompt, pair.worse) for pair in pairs], recipe.max_length_tokens)
    network = model.network.train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    losses: list[float] = []
    lengths = [max(len(b), len(w)) for b, w in zip(better, worse, strict=True)]
    for step, rows in enumerate(_batches(lengths, recipe)):
        scores = model.logits([better[row] for row in rows] + [worse[row] for row in rows])
        loss = bradley_terry_loss(scores[: len(rows)], scores[len(rows) :])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        on_progress((step + 1) / recipe.steps)
    network.eval()
    tail = losses[-max(1, recipe.steps // 10) :]
    return sum(tail) / len(tail)


def bradley_terry_loss(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """Return -log sigmoid(better - worse), mean over pairs; raw scores [B] each."""
    return -functional.logsigmoid(better - worse).mean()


def pair_accuracy(
    model: RewardModel, pairs: Sequence[PreferencePair], batch_size: int = 64, max_length_tokens: int = 2048
) -> dict[str, float]:
    """Return the share of pairs ordered rightly, ties counting half, under `all` and under each kind, in [0, 1]."""
    scores = raw_scores(
        model,
        [(pair.prompt, text) for pair in pairs for text in (pair.better, pair.worse)],
        batch_size,
        max_length_tokens,
    )
    hits: dict[str, list[float]] = {"all": []}
    for number, pair in enumerate(pairs):
        better, worse = scores[2 * number], scores[2 * number + 1]
        hit = 0.5 if better == worse else float(better > worse)
        hits["all"].append(hit)
        if pair.kind:
            hits.setdefault(pair.kind, []).append(hit)
    return {kind: sum(values) / len(values) for kind, values in hits.items() if values}


@torch.inference_mode()
def raw_scores(
    model: RewardModel, items: Sequence[tuple[str, str]], batch_size: int, max_length_tokens: int
) -> list[float]:
    """Return the raw scalar for each (problem prompt, reasoning), in order. Runs sorted by length: little padding."""
    encoded = model.encode(items, max_length_tokens)
    by_length = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    scores = [0.0] * len(encoded)
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        for row, score in zip(rows, model.logits([encoded[row] for row in rows]).tolist(), strict=True):
            scores[row] = score
    return scores


def _rate(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at `step`."""
    warmup = max(1, int(recipe.steps * recipe.warmup_frac))
    return (step + 1) / warmup if step < warmup else max(0.0, (recipe.steps - step) / max(1, recipe.steps - warmup))


def _batches(lengths: Sequence[int], recipe: Recipe) -> Iterator[list[int]]:
    """Yield `recipe.steps` batches of row numbers, of near-equal length within a batch; every epoch anew."""
    rng = random.Random(f"pairs/{recipe.seed}")
    per_window = recipe.batch_pairs * _WINDOW
    done = 0
    while True:
        order = rng.sample(range(len(lengths)), len(lengths))
        for start in range(0, len(order), per_window):
            window = sorted(order[start : start + per_window], key=lambda row: lengths[row])
            batches = [window[at : at + recipe.batch_pairs] for at in range(0, len(window), recipe.batch_pairs)]
            rng.shuffle(batches)
            for batch in batches:
                if done == recipe.steps:
                    return
                yield batch
                done += 1
