"""The loop of training: steps, held-out pairs now and then, an early end, the best weights kept.

Knows no process and no library: a `Trainer` is one process (`train.LocalTrainer`) or a group of ZeRO ranks
(`actors.rm_training`). Validation pairs choose the weights and fit the temperature; test pairs are scored by the chosen
weights only and choose nothing, so that what they say is not flattered by the choice.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pgrpo_ray.algo.preferences import rate_frac
from pgrpo_ray.errors import StageError
from pgrpo_ray.reward_model import calibration
from pgrpo_ray.reward_model.statistics import outcome


class Trainer(Protocol):
    """Something that trains a scalar score."""

    def step(self, rows: Sequence[int], rate: float) -> dict[str, float]:
        """Take one optimizer step on training rows at `rate`, in [0, 1], of the peak learning rate.

        Returns `loss` (mean per row), `grad_norm` (before clipping) and `learning_rate`; with `skipped` where the
        gradient was refused, as it was no number or a spike, and the step changed nothing.
        """

    def scores(self, numbers: Sequence[int]) -> list[float]:
        """Return the raw scores of held-out sequences, in order."""

    def save(self, folder: Path) -> None:
        """Write the weights as they are now, in Hugging Face format."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to train and how often to look."""

    steps: int
    warmup_steps: int
    eval_every: int
    patience: int
    """Looks without improvement after which training ends; 0: never."""


@dataclass(frozen=True, slots=True)
class Heldout:
    """How many pairs are held out. Sequences of pair p: 2p (better) and 2p + 1; validation pairs come first."""

    num_validation: int
    num_test: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at the validation pairs."""

    step: int
    """Optimizer steps taken before."""
    accuracy: float
    """Share of pairs ordered rightly, ties half."""
    nll: float
    """Mean -log sigmoid(better - worse), nats per pair."""
    improved: bool


@dataclass(slots=True)
class Fitted:
    """What training came to. Scores are those of the saved weights, as (better, worse)."""

    losses: list[float] = field(default_factory=list)
    skipped_steps: int = 0
    """Steps that changed nothing, for their gradient."""
    evaluations: list[Evaluation] = field(default_factory=list)
    best_step: int = 0
    stopped_early: bool = False
    validation: tuple[Sequence[float], Sequence[float]] = ((), ())
    test: tuple[Sequence[float], Sequence[float]] = ((), ())


def fit(
    trainer: Trainer,
    batches: Iterable[Sequence[int]],
    schedule: Schedule,
    heldout: Heldout,
    folder: Path,
    on_step: Callable[[dict[str, float]], None] = lambda figures: None,
) -> Fitted:
    """Train over `batches`; leave the best weights in `folder` and return the course of it.

    Better is a higher accuracy on the validation pairs, or an equal one with a lower `nll`. Raises `StageError` when
    the loss or a score is no number any more; what was best before is then in `folder`.
    """
    fitted = Fitted()
    best, looks_since = (-math.inf, -math.inf), 0
    for step, rows in enumerate(batches):
        figures = trainer.step(rows, rate_frac(step, schedule.steps, schedule.warmup_steps))
        _refuse_nan(figures["loss"], f"the loss of step {step + 1}")
        fitted.losses.append(figures["loss"])
        fitted.skipped_steps += "skipped" in figures
        done = step + 1
        if done % schedule.eval_every and done != schedule.steps:
            on_step({"step": done, **figures})
            continue
        better, worse = _pairs(trainer, 0, heldout.num_validation)
        _refuse_nan(sum(better) + sum(worse), f"a score of a held-out pair after step {done}")
        accuracy = sum(map(outcome, better, worse)) / len(better)
        nll = calibration.reliability(better, worse, 1.0).nll
        improved = (accuracy, -nll) > best
        fitted.evaluations.append(Evaluation(done, accuracy, nll, improved))
        on_step({"step": done, **figures, "heldout_accuracy": accuracy, "heldout_nll": nll})
        if improved:
            best, looks_since = (accuracy, -nll), 0
            fitted.best_step, fitted.validation = done, (better, worse)
            fitted.test = _pairs(trainer, heldout.num_validation, heldout.num_test)
            trainer.save(folder)
            continue
        looks_since += 1
        if schedule.patience and looks_since >= schedule.patience:
            fitted.stopped_early = done < schedule.steps
            break
    return fitted


def _pairs(trainer: Trainer, first: int, count: int) -> tuple[list[float], list[float]]:
    """Score `count` held-out pairs from number `first` on; return (better, worse)."""
    scores = trainer.scores(range(2 * first, 2 * (first + count)))
    return scores[0::2], scores[1::2]


def _refuse_nan(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise StageError(
            f"reward model: {what} is {value}: training has diverged. Lower learner.learning_rate, raise "
            "learner.warmup_steps, or set model.dtype=float32.",
            stage="reward learner",
        )
