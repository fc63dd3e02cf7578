"""Which gradient norms become steps, against rules worked out by hand."""

import math

import pytest

from pgrpo_ray.errors import GradientError
from pgrpo_ray.learner.gradient_guard import FIRST, RECENT, GradientGuard


def guard_after(norms, factor=10.0, max_skipped=3):
    guard = GradientGuard(factor, max_skipped)
    assert all(guard.accepts(norm) for norm in norms)
    return guard


@pytest.mark.parametrize("norm", [math.nan, math.inf])
@pytest.mark.parametrize("factor", [10.0, None])
def test_what_is_no_number_is_refused_from_the_first_step_on(norm, factor):
    guard = GradientGuard(factor, 3)
    assert not guard.accepts(norm)
    assert guard.why == "its gradient is no finite number"


def test_a_spike_is_refused_once_enough_is_known_and_leaves_no_trace():
    guard = guard_after([1.0, 9.0, 200.0] + [1.0] * (FIRST - 4))  # too little is known to call the 200 a spike
    assert guard.accepts(1.0)
    assert not guard.accepts(10.1)  # of the median 1, whatever the largest was
    assert "10.1 times the median 1 of the last 8 steps" in guard.why
    assert guard.accepts(10.0)
    assert 10.1 not in guard.norms


def test_steps_without_a_gradient_do_not_make_every_other_one_a_spike():
    guard = guard_after([0.0] * 2 * RECENT + [0.5] * FIRST)
    assert guard.accepts(4.0)


def test_the_median_follows_a_run_whose_gradients_grow():
    guard = guard_after([1.0] * RECENT)
    assert not guard.accepts(20.0)
    assert all(guard.accepts(4.0) for _ in range(RECENT))
    assert guard.accepts(20.0)


def test_so_many_in_a_row_end_the_run_and_one_good_step_between_them_does_not():
    guard = guard_after([1.0] * FIRST, max_skipped=2)
    for _ in range(5):
        guard.accepts(math.nan)
        guard.check()
        assert guard.accepts(1.0)
    guard.accepts(math.nan)
    guard.accepts(99.0)
    with pytest.raises(GradientError, match=r"2 optimizer steps in a row.*norm is 99, 99 times .*p3, sample 1"):
        guard.check("No numbers have the logprobs of p3, sample 1. ")
