"""pass@1 on held-out problems from the scalar columns of their samples."""

import numpy as np
import pytest

from pgrpo_ray.errors import StageError
from pgrpo_ray.evaluation.heldout import heldout_pass_at_1


def columns(verdicts):
    """Two samples a problem; "" stands for one that could not be judged."""
    verdict = np.array(verdicts, dtype=object)
    return {"verdict": verdict, "execution_error": np.where(verdict == "", "gone", "").astype(object)}


def test_what_could_not_be_judged_is_no_failure():
    estimate, lost = heldout_pass_at_1(columns(["passed", "", "wrong_answer", "passed", "", ""]), 2, seed=0)
    assert (estimate.value, lost) == (0.75, 3)  # 1/1 and 1/2; the third problem says nothing
    assert estimate.low <= estimate.value <= estimate.high


def test_nothing_judged_is_an_error_and_no_zero():
    with pytest.raises(StageError, match="no held-out rollout could be judged; the first: gone"):
        heldout_pass_at_1(columns(["", ""]), 2, seed=0)
