"""pass@1 of a run on its held-out problems."""

from typing import NamedTuple

from pgrpo_ray.data.scalars import Columns
from pgrpo_ray.errors import StageError
from pgrpo_ray.evaluation.passk import pass_at_k_interval
from pgrpo_ray.types import Verdict


class Estimate(NamedTuple):
    """pass@1 on held-out problems with its 95 % interval, all in [0, 1]."""

    value: float
    low: float
    high: float


def heldout_pass_at_1(columns: Columns, samples_per_problem: int, seed: int) -> tuple[Estimate, int]:
    """Return pass@1 from the scalar columns of all samples, problem after problem, and how many could not be judged.

    Those are left out, as the machinery failed and not the policy. Raises `StageError` where none could be.
    """
    judged = (columns["execution_error"] == "").reshape(-1, samples_per_problem).sum(axis=1)
    correct = (columns["verdict"] == Verdict.PASSED).reshape(-1, samples_per_problem).sum(axis=1)
    known = judged > 0  # a problem whose every sample was lost to the machinery says nothing
    if not known.any():
        raise StageError(
            f"execution pool: no held-out rollout could be judged; the first: {columns['execution_error'][0]}",
            stage="execution pool",
        )
    estimate = Estimate(*pass_at_k_interval(correct[known], judged[known], 1, 0.95, seed))
    return estimate, int((samples_per_problem - judged).sum())
