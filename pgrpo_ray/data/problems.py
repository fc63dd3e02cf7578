"""Sets of problems: hold some out, draw batches of them, write them down.

Everything here is a pure function of its arguments and a seed, so a resumed run meets the problems that the
uninterrupted one would have met, with no state to save but the step.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from pgrpo_ray.data.own_format import problem_to_json
from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.disk import write_whole
from pgrpo_ray.types import Problem

_SPLIT_STREAM, _EPOCH_STREAM, _MORE_STREAM = 0, 1, 2
"""First word of every seed: the split, the epochs and `more` must not share random numbers."""


def split_heldout(problems: Sequence[Problem], count: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Split by a seeded shuffle; return (training, held out), each in its old order, `count` held out.

    Raises `DataError` unless at least one problem is left to train on.
    """
    if not 0 <= count < len(problems):
        raise DataError(
            f"{count} held-out problems asked of {len(problems)}: none would be left to train on. "
            "Lower data.heldout_problems, or give data.heldout its own file."
        )
    chosen = set(np.random.default_rng([_SPLIT_STREAM, seed]).permutation(len(problems))[:count].tolist())
    training = [problem for index, problem in enumerate(problems) if index not in chosen]
    return training, [problems[index] for index in sorted(chosen)]


class ProblemSampler:
    """Endless seeded batches of distinct problems, shuffled anew each epoch.

    `batch(step)` depends on (seed, step) alone. An epoch's last problems that do not fill a batch are left out of that
    epoch (another handful each time): a batch over the border could hold a problem twice, that is two groups of one id.
    """

    def __init__(self, problems: Sequence[Problem], per_step: int, seed: int):
        """Raise `DataError` when one batch needs more problems than there are."""
        if not 1 <= per_step <= len(problems):
            raise DataError(
                f"{per_step} problems a step asked of {len(problems)}: a batch holds each problem at most once. "
                "Lower rollout.prompts_per_step or add problems."
            )
        self._problems = tuple(problems)
        self._per_step = per_step
        self._seed = seed
        self._shuffled: tuple[int, np.ndarray] | None = None  # the last epoch asked for and its order

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass."""
        return len(self._problems) // self._per_step

    def batch(self, step: int) -> tuple[Problem, ...]:
        """Return the problems of `step`, counted from 0."""
        if step < 0:
            raise ValueError(f"step must be at least 0, received {step}")
        epoch, position = divmod(step, self.steps_per_epoch)
        # A generator per epoch, not one that runs on: then step 10,000 costs no more than step 0 after a resume.
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = np.random.default_rng([_EPOCH_STREAM, self._seed, epoch]).permutation(len(self._problems))
            self._shuffled = (epoch, order)
        start = position * self._per_step
        return tuple(self._problems[index] for index in self._shuffled[1][start : start + self._per_step])

    def more(self, step: int, asked: Collection[str], count: int) -> tuple[Problem, ...]:
        """Return up to `count` further problems for `step`, none of the ids that it has `asked` already.

        Drawn from all problems, outside of the epochs' order, by (seed, step, how many were asked).
        """
        draw = np.random.default_rng([_MORE_STREAM, self._seed, step, len(asked)]).permutation(len(self._problems))
        fresh = (self._problems[index] for index in draw if self._problems[index].id not in asked)
        return tuple(islice(fresh, count))

    def __iter__(self) -> Iterator[tuple[Problem, ...]]:
        """Yield the batches of step 0, 1, 2, ... without end."""
        step = 0
        while True:
            yield self.batch(step)
            step += 1


def save_problems(path: str | Path, problems: Sequence[Problem]) -> None:
    """Write problems as our JSONL, whole or not at all. Raises `DataError` for values that JSON cannot hold."""
    path = Path(path)
    lines = []
    for problem in problems:
        try:
            lines.append(json.dumps(problem_to_json(problem), ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(f"problem {problem.id!r} cannot be written as JSON ({error}). Use JSON values.") from error
    write_whole(path, "".join(f"{line}\n" for line in lines))
