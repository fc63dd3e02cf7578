"""What ranks report is held against what was planned, and the learner's policy against the engine's."""

from types import SimpleNamespace

import numpy as np
import pytest

from pgrpo_ray.data.digests import digest_of
from pgrpo_ray.errors import CorruptionError, MismatchError, StageError
from pgrpo_ray.learner.reports import check_parity, check_trained

COLUMNS = {"response_length": np.array([3, 4, 5]), "row_digest": np.array([11, 22, 33])}
ROWS = [np.array([0, 2]), np.array([1])]
"""Of each of two ranks."""
PLAN = SimpleNamespace(rows_of=lambda rank: ROWS[rank], mini_batches=[None, None])


def reports(**first):
    """Of both ranks, as they should be but for `first` of the first."""
    made = [
        {"optimizer_steps": 2, "skipped_steps": 0, "rank_tokens": tokens, "rank_digest": digest_of(digests)}
        for tokens, digests in ((8, np.array([11, 33])), (4, np.array([22])))
    ]
    made[0] |= first
    return made


def test_ranks_that_trained_on_what_was_planned_pass_and_their_own_numbers_are_taken():
    given = reports()
    check_trained(PLAN, COLUMNS, given)
    assert given == [{"optimizer_steps": 2, "skipped_steps": 0}] * 2


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"rank_tokens": 7}, StageError),
        ({"optimizer_steps": 1, "skipped_steps": 1}, StageError),  # the other rank took both
        ({"rank_digest": digest_of(np.array([33, 11]))}, CorruptionError),
    ],
)
def test_ranks_that_trained_on_anything_else_are_refused(broken, error):
    with pytest.raises(error, match="learner: "):
        check_trained(PLAN, COLUMNS, reports(**broken))


@pytest.mark.parametrize(("gap", "compared", "same"), [(0.05, 1.0, True), (0.2, 1.0, False), (0.2, 0.0, True)])
def test_engine_and_learner_must_compute_the_same_policy_where_tokens_can_be_compared(gap, compared, same):
    report = {"mismatch_mean": gap, "mismatch_max": 1.0, "current_tokens_frac": compared}
    if same:
        check_parity(report, "bfloat16", 0.1)
        return
    with pytest.raises(
        MismatchError, match=r"0\.2 nats apart .* sync\.max_mismatch is 0\.1 for policy\.dtype=bfloat16"
    ):
        check_parity(report, "bfloat16", 0.1)


def test_a_gap_that_is_no_number_is_no_small_one():
    report = {"mismatch_mean": np.nan, "mismatch_max": np.nan, "current_tokens_frac": 0.5}
    with pytest.raises(MismatchError):
        check_parity(report, "float32", 1e-3)
    check_parity(report | {"current_tokens_frac": np.nan}, "float32", 1e-3)  # nothing was trained
