"""One rank of the reward model's training: rows in, optimizer steps and raw scores out.

Owns the order of forward, backward and step. Does not own which rows go into which pass (the caller's plan), the
formula (`algo.preferences`), the partitioning (`zero3`).

Invariant: all ranks make the same calls with the same number of passes; for a pass without rows a rank runs an empty
one, because ZeRO-3 gathers parameters collectively in each.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pgrpo_ray.algo.preferences import Objective, TokenTable, TrainingRows
from pgrpo_ray.learner.zero3 import Zero3Engine


class RewardLearner:
    """Trains one rank's share of each batch of rows and scores one rank's share of the held-out sequences."""

    def __init__(self, engine: Zero3Engine, objective: Objective, training: TrainingRows, heldout: TokenTable):
        self.engine = engine
        self._objective = objective
        self._training = training
        self._heldout = heldout

    def step(self, passes: Sequence[np.ndarray], num_rows: int, rate_frac: float) -> dict[str, float]:
        """Train on this rank's `passes` (row numbers) of a batch of `num_rows`; return its figures over all ranks.

        Keys: see `fitting.Trainer.step`. Collective. Raises `GradientError` after too many refused gradients in a row.
        """
        self.engine.set_training(True)
        total = torch.zeros(1, dtype=torch.float64)
        for rows in passes:
            if len(rows) == 0:
                self._empty_pass()
                continue
            ids, mask, targets = self._training.padded(rows, self.engine.pad_token_id)
            scores = self._scores(ids, mask).view(self._training.sides, len(rows))
            losses = self._objective.losses(scores, targets.to(self.engine.device))
            self.engine.backward(losses.sum() / num_rows)
            total += losses.detach().double().sum().cpu()
        norm, rate, taken = self.engine.step(rate_frac)
        self.engine.guard.check()
        total, _ = self.engine.reduce(total, torch.zeros(1, dtype=torch.float64))
        figures = {"loss": total.item() / num_rows, "grad_norm": norm, "learning_rate": rate}
        return figures if taken else figures | {"skipped": 1.0}

    @torch.no_grad()
    def scores(self, passes: Sequence[np.ndarray]) -> list[float]:
        """Return the raw score of each held-out sequence in this rank's `passes`, in their order. Collective."""
        self.engine.set_training(False)
        scores: list[float] = []
        for numbers in passes:
            if len(numbers) == 0:
                self._empty_pass()
                continue
            scores += self._scores(*self._heldout.padded(numbers, self.engine.pad_token_id)).tolist()
        return scores

    def _scores(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Raw scalars of a pass, float32 [B]."""
        device = self.engine.device
        return self.engine.scores(ids.to(device), mask.to(device))[:, 0].float()

    def _empty_pass(self) -> None:
        """Take part in the collectives of a pass that this rank has no rows for; its gradient is zero."""
        ids = torch.zeros((1, 2), dtype=torch.int64, device=self.engine.device)
        scores = self.engine.scores(ids, torch.ones_like(ids))
        if torch.is_grad_enabled():
            self.engine.backward(scores.sum() * 0.0)
