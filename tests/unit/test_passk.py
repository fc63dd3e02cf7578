"""pass@k and its interval."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.evaluation.passk import pass_at_k, pass_at_k_interval


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_the_product_equals_the_exact_binomial_formula(case):
    n, c, k = case
    exact = 1 - Fraction(comb(n - c, k), comb(n, k))
    assert pass_at_k([c], n, k)[0] == pytest.approx(float(exact), abs=1e-12)


def test_known_values():
    assert pass_at_k([0, 1, 2, 4], 4, 1).tolist() == pytest.approx([0, 0.25, 0.5, 1])
    assert pass_at_k([1], [4], 2)[0] == pytest.approx(0.5)  # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k([3], [4], 2)[0] == 1.0


def test_it_stays_exact_where_binomials_overflow():
    assert pass_at_k([1], 10_000, 5_000)[0] == pytest.approx(0.5)


def test_problems_may_have_different_numbers_of_samples():
    assert pass_at_k([1, 1], [2, 4], 1).tolist() == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("arguments", [([3], 2, 1), ([-1], 2, 1), ([1], 2, 3), ([1], 2, 0), ([], 2, 1)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError):
        pass_at_k(*arguments)


def test_the_interval_is_deterministic_and_surrounds_the_estimate():
    correct = np.random.default_rng(0).integers(0, 5, size=80)
    estimate, low, high = pass_at_k_interval(correct, 4, 1, 0.95, seed=1)
    assert estimate == pytest.approx(correct.mean() / 4)
    assert low < estimate < high
    assert (estimate, low, high) == pass_at_k_interval(correct, 4, 1, 0.95, seed=1)
    _, low_80, high_80 = pass_at_k_interval(correct, 4, 1, 0.80, seed=1)
    assert low < low_80 < high_80 < high


def test_samples_of_one_problem_are_a_cluster_and_add_no_certainty_about_other_problems():
    # 40 problems, half always solved: the spread is that of 40 coin flips however many samples each has.
    correct = np.array([0, 1] * 20)
    few = pass_at_k_interval(correct * 2, 2, 1, 0.95, seed=0)
    many = pass_at_k_interval(correct * 200, 200, 1, 0.95, seed=0)
    assert few == many
    normal = 1.96 * np.sqrt(0.25 / 40)
    assert few[2] - few[0] == pytest.approx(normal, rel=0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(60):
        chance = generator.beta(1, 2, size=60)  # true mean pass@1 is 1/3
        _, low, high = pass_at_k_interval(generator.binomial(4, chance), 4, 1, 0.90, seed=trial)
        hits += low <= 1 / 3 <= high
    assert 47 <= hits <= 60  # 54 expected; four standard deviations of the binomial are 9


def test_all_alike_gives_no_width_and_a_silly_confidence_is_refused():
    assert pass_at_k_interval([4, 4], 4, 1, 0.95, seed=0) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="confidence"):
        pass_at_k_interval([1], 4, 1, 95, seed=0)
