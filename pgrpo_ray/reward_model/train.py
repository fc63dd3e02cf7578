"""Training the reward model in one process, and how well it orders pairs.

The loss is `algo.preferences`'s, by default the paper's: -log sigmoid(s(problem, better) - s(problem, worse)), mean
over the batch. Learning rate, schedule and batch size are not given there; the defaults here suit the starter's tiny
model, real models pass their own. ZeRO ranks do the same in `learner.reward_worker`, over batches drawn here.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pgrpo_ray.algo.preferences import Objective, TokenTable, TrainingRows, rate_frac
from pgrpo_ray.reward_model.model import RewardModel
from pgrpo_ray.types import PreferencePair

_WINDOW = 8
"""Batches per window that is sorted by length: little padding, yet batches differ from epoch to epoch."""
_SCORE_BATCH = 64
"""Sequences per forward pass where none is trained."""


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


class LocalTrainer:
    """Trains a model in this process. Implements `fitting.Trainer`, as `actors.rm_training` does on ZeRO ranks."""

    def __init__(
        self,
        model: RewardModel,
        training: TrainingRows,
        objective: Objective,
        recipe: Recipe,
        heldout: TokenTable | None = None,
    ):
        """`heldout`: the sequences that `scores` may be asked for."""
        self._model = model
        self._training = training
        self._objective = objective
        self._recipe = recipe
        self._heldout = heldout
        self._optimizer = torch.optim.AdamW(
            model.network.parameters(),
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=recipe.weight_decay,
        )

    def step(self, rows: Sequence[int], rate: float) -> dict[str, float]:
        """Train on these rows in one pass, at `rate` of the peak; see `fitting.Trainer`."""
        network = self._model.network.train()
        rate *= self._recipe.learning_rate
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        ids, mask, targets = self._training.padded(np.asarray(rows), network.config.pad_token_id)
        scores = self._model.forward(ids, mask).view(self._training.sides, len(rows))
        loss = self._objective.losses(scores, targets.to(scores.device)).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), self._recipe.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item(), "grad_norm": norm.item(), "learning_rate": rate}

    def scores(self, numbers: Sequence[int]) -> list[float]:
        """Return the raw scores of these held-out sequences."""
        table = self._heldout
        return _score(self._model, [table.ids[table.starts[n] : table.starts[n + 1]] for n in numbers], _SCORE_BATCH)

    def save(self, folder: Path) -> None:
        """Write the model as it is now."""
        self._model.save(folder)


def train(
    model: RewardModel,
    pairs: Sequence[PreferencePair],
    recipe: Recipe,
    on_progress: Callable[[float], None] = lambda done: None,
) -> float:
    """Train `model` in place on the plain loss; return its mean over the last tenth of the steps, nats per pair.

    Raises `ValueError` without pairs.
    """
    if not pairs:
        raise ValueError("a reward model cannot be trained without pairs")
    torch.manual_seed(recipe.seed)
    rows = pair_rows(model.encode(sides_of(pairs), recipe.max_length_tokens))
    trainer = LocalTrainer(model, rows, Objective(), recipe)
    losses: list[float] = []
    for step, batch in enumerate(batches(rows.lengths, recipe.steps, recipe.batch_pairs, recipe.seed)):
        rate = rate_frac(step, recipe.steps, int(recipe.steps * recipe.warmup_frac))
        losses.append(trainer.step(batch, rate)["loss"])
        on_progress((step + 1) / recipe.steps)
    model.network.eval()
    tail = losses[-max(1, recipe.steps // 10) :]
    return sum(tail) / len(tail)


def sides_of(pairs: Sequence[PreferencePair]) -> list[tuple[str, str]]:
    """Return (prompt, better) and (prompt, worse) of each pair, one pair after the other."""
    return [(pair.prompt, text) for pair in pairs for text in (pair.better, pair.worse)]


def pair_rows(sequences: Sequence[Sequence[int]]) -> TrainingRows:
    """Return rows of two sequences each, from encoded `sides_of` pairs."""
    return TrainingRows(TokenTable.of(sequences), 2, np.zeros(len(sequences) // 2, np.float32))


def pair_accuracy(
    model: RewardModel, pairs: Sequence[PreferencePair], batch_size: int = 64, max_length_tokens: int = 2048
) -> dict[str, float]:
    """Return the share of pairs ordered rightly, ties counting half, under `all` and under each kind, in [0, 1]."""
    scores = raw_scores(model, sides_of(pairs), batch_size, max_length_tokens)
    hits: dict[str, list[float]] = {"all": []}
    for number, pair in enumerate(pairs):
        better, worse = scores[2 * number], scores[2 * number + 1]
        hit = 0.5 if better == worse else float(better > worse)
        hits["all"].append(hit)
        if pair.kind:
            hits.setdefault(pair.kind, []).append(hit)
    return {kind: sum(values) / len(values) for kind, values in hits.items() if values}


def raw_scores(
    model: RewardModel, items: Sequence[tuple[str, str]], batch_size: int, max_length_tokens: int
) -> list[float]:
    """Return the raw scalar for each (problem prompt, reasoning), in order. Runs sorted by length: little padding."""
    return _score(model, model.encode(items, max_length_tokens), batch_size)


@torch.inference_mode()
def _score(model: RewardModel, encoded: Sequence[Sequence[int]], batch_size: int) -> list[float]:
    model.network.eval()
    by_length = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    scores = [0.0] * len(encoded)
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        for row, score in zip(rows, model.logits([encoded[row] for row in rows]).tolist(), strict=True):
            scores[row] = score
    return scores


def batches(
    lengths: Sequence[int],
    num_steps: int,
    batch_rows: int,
    seed: int,
    kinds: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
) -> Iterator[list[int]]:
    """Yield `num_steps` batches of row numbers, of near-equal length within a batch; every epoch anew.

    An epoch has as many rows as there are. Without `weights` it is each row once; with them it holds rows of each kind
    in proportion to its weight (`kinds` names the kind of each row), all of a kind before any of it comes again.
    """
    rng = random.Random(f"pairs/{seed}")
    epochs = _mixed_epochs(kinds, weights, rng) if weights else _plain_epochs(len(lengths), rng)
    per_window = batch_rows * _WINDOW
    done = 0
    for order in epochs:
        for start in range(0, len(order), per_window):
            window = sorted(order[start : start + per_window], key=lambda row: lengths[row])
            parts = [window[at : at + batch_rows] for at in range(0, len(window), batch_rows)]
            rng.shuffle(parts)
            for part in parts:
                if done == num_steps:
                    return
                yield part
                done += 1


def _plain_epochs(num_rows: int, rng: random.Random) -> Iterator[list[int]]:
    while True:
        yield rng.sample(range(num_rows), num_rows)


def _mixed_epochs(kinds: Sequence[str], weights: Mapping[str, float], rng: random.Random) -> Iterator[list[int]]:
    """Yield the row numbers of one epoch after another; shares are kept exactly over epochs, not only on average."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, kind in enumerate(kinds):
        if weights[kind] > 0:
            rows[kind].append(row)
    total = sum(weights[kind] for kind in rows)
    queues: dict[str, list[int]] = {kind: [] for kind in rows}
    owed = dict.fromkeys(rows, 0.0)
    while True:
        order: list[int] = []
        for kind, own in rows.items():
            owed[kind] += len(kinds) * weights[kind] / total
            for _ in range(round(owed[kind])):
                queues[kind] = queues[kind] or rng.sample(own, len(own))
                order.append(queues[kind].pop())
            owed[kind] -= round(owed[kind])
        yield rng.sample(order, len(order))
