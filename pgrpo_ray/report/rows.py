"""The scalar columns of all rollouts of a run, place by place, without tokens and texts.

A place is where rollouts lie: a training step or an evaluation. 100,000 rollouts are some 20 MB here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgrpo_ray.data.arrow import list_lengths
from pgrpo_ray.data.recorded_run import RecordedRun, group_starts

_JUDGED = (
    *("problem_id", "sample_index", "policy_version", "response_ids", "finish_reason", "format_ok", "verdict"),
    *("tests_passed", "tests_total", "first_failed", "duration_ms", "execution_error"),
)
_REWARDED = (
    *("thinking_reward", "thinking_error", "reward_format", "reward_outcome", "reward_thinking", "reward_other"),
    *("reward", "advantage", "dropped", "masked"),
)


@dataclass(frozen=True)
class Place:
    """Rollouts of one training step or one evaluation, group after group."""

    kind: Literal["training", "heldout"]
    name: str
    """Such as `step 12`; the evaluation's own."""
    step: int
    """After which training step an evaluation was made, 0 before the first; the step itself."""
    table: pa.Table
    """Scalar columns of `data.arrow`; `response_tokens` and `failed` (the machinery, under the rollout) in place of
    tokens and messages."""
    starts: np.ndarray
    """First row of each group, and the number of rows behind the last, int64 [groups + 1]."""

    @property
    def group_index(self) -> np.ndarray:
        """Which group each row belongs to, int64 [B]."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def numbers(self, name: str) -> np.ndarray:
        """Return a column of numbers, float64 [B], NaN where it is null."""
        return self.table[name].cast(pa.float64()).to_numpy()

    def texts(self, name: str) -> np.ndarray:
        """Return a column of texts, object [B], "" where it is null."""
        return np.array(self.table[name].fill_null("").to_pylist(), dtype=object)


def read_places(run: RecordedRun) -> list[Place]:
    """Return the training steps in their order, then the evaluations. Raises `DataError` for damaged files."""
    training = [
        _place("training", f"step {step}", step, run.rollouts(step, (*_JUDGED, *_REWARDED))) for step in run.steps
    ]
    last = run.metrics[-1]["step"] if run.metrics else 0
    heldout = [
        _place("heldout", name, _made_after(name, last), run.evaluation(name, _JUDGED)) for name in run.evaluations
    ]
    return [*training, *heldout]


def _made_after(name: str, last: int) -> int:
    number = name.removeprefix("step-")
    return int(number) if number.isdecimal() else {"before": 0}.get(name, last)


def _place(kind: Literal["training", "heldout"], name: str, step: int, table: pa.Table) -> Place:
    scalars = table.drop_columns(["response_ids", "execution_error"])
    scalars = scalars.append_column("response_tokens", pa.array(list_lengths(table["response_ids"])))
    scalars = scalars.append_column("failed", pc.is_valid(table["execution_error"]))
    return Place(kind, name, step, scalars, group_starts(table))
