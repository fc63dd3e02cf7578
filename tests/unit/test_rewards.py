"""R = R^f + R^o + R^o * R^t and what failed machinery does to it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.algo.rewards import compose

NAN = np.nan


def test_the_composition_of_every_kind_of_rollout_by_hand():
    #                 bad format, wrong, passed, passed, passed
    terms = compose(
        format_ok=np.array([False, True, True, True, True]),
        passed=np.array([False, False, True, True, True]),
        thinking=np.array([NAN, NAN, 0.0, 0.25, 1.0]),
        failed=np.zeros(5, dtype=bool),
    )
    assert terms.reward.tolist() == [0.0, 1.0, 2.0, 2.25, 3.0]
    assert terms.format.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert terms.outcome.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert terms.thinking.tolist() == [0.0, 0.0, 0.0, 0.25, 1.0]
    assert not terms.dropped.any()


def test_reasoning_earns_nothing_for_a_program_that_fails():
    with_score = compose([True], [False], [0.99], [False])
    without = compose([True], [False], [NAN], [False])
    assert with_score.reward.tolist() == without.reward.tolist() == [1.0]


def test_failed_machinery_drops_a_rollout_instead_of_scoring_it_zero():
    # The first was never judged; the second passed and has no score; the third is sound.
    terms = compose([True] * 3, [False, True, True], [NAN, NAN, 0.5], [True, False, False])
    assert terms.dropped.tolist() == [True, True, False]
    assert np.isnan(terms.reward).tolist() == [True, True, False]
    assert np.isnan(terms.outcome).tolist() == np.isnan(terms.thinking).tolist() == [True, True, False]
    assert terms.format.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([False], [True], [0.5], [False]), "format is wrong"),
        (([True], [True], [0.5], [True]), "no verdict"),
        (([True], [True], [1.01], [False]), r"\[0, 1\]"),
        (([True], [True], [-0.1], [False]), r"\[0, 1\]"),
        (([True], [True], [np.inf], [False]), r"\[0, 1\]"),
        (([True], [True, True], [0.5], [False]), "one shape"),
        (([True], [0.7], [0.5], [False]), "all or nothing"),
    ],
)
def test_impossible_inputs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose(*arguments)


def test_an_empty_batch_has_empty_rewards():
    assert compose([], [], [], []).reward.shape == (0,)


@given(st.lists(st.tuples(st.sampled_from(["bad", "wrong", "passed", "failed"]), st.floats(0, 1)), max_size=30))
def test_a_failing_program_never_outranks_a_passing_one(rows):
    kinds = np.array([kind for kind, _ in rows], dtype=object)
    scores = np.array([score for _, score in rows], dtype=float)
    terms = compose(kinds != "bad", kinds == "passed", scores, kinds == "failed")
    passing, failing = terms.reward[kinds == "passed"], terms.reward[(kinds == "wrong") | (kinds == "bad")]
    assert ((passing >= 2) & (passing <= 3)).all()
    assert (failing <= 1).all()
    assert np.isnan(terms.reward[kinds == "failed"]).all()
