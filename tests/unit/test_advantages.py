"""Group-relative advantages."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.algo.advantages import term_advantages, variance_shares
from pgrpo_ray.algo.rewards import RULES, Signals, compose

FLOOR = 1e-6


def group_advantages(rewards, group_index, std_floor, estimator="grpo"):
    """The advantage of each rollout where the reward is one term."""
    return term_advantages({"reward": rewards}, group_index, std_floor, estimator)["reward"]


def test_a_group_by_hand_uses_the_sample_standard_deviation():
    # Rewards 1, 1, 2, 3: mean 7/4; squared deviations 9/16, 9/16, 1/16, 25/16 sum to 44/16; over n - 1 = 3: 11/12.
    std = math.sqrt(11 / 12)
    expected = [-0.75 / std, -0.75 / std, 0.25 / std, 1.25 / std]
    assert group_advantages([1, 1, 2, 3], [0, 0, 0, 0], FLOOR) == pytest.approx(expected, abs=1e-12)


def test_groups_are_independent_and_may_be_interleaved():
    rewards, group = np.array([0.0, 10.0, 1.0, 30.0]), np.array([7, 3, 7, 3])
    half = 1 / math.sqrt(2)  # two members: deviation d/2, sample std d/sqrt(2)
    assert group_advantages(rewards, group, FLOOR) == pytest.approx([-half, -half, half, half])


def test_dropped_members_count_neither_in_mean_nor_in_std_and_get_zero():
    whole = group_advantages([1.0, 2.0, 3.0], [0, 0, 0], FLOOR)
    holed = group_advantages([1.0, np.nan, 2.0, 3.0], [0, 0, 0, 0], FLOOR)
    assert holed.tolist() == [whole[0], 0.0, whole[1], whole[2]]


@pytest.mark.parametrize("rewards", [[5.0], [np.nan, 2.0], [np.nan, np.nan], []])
def test_fewer_than_two_valid_members_give_zeros(rewards):
    assert group_advantages(rewards, np.zeros(len(rewards), dtype=int), FLOOR).tolist() == [0.0] * len(rewards)


def test_equal_rewards_give_exactly_zero_despite_rounding_of_the_mean():
    rewards = np.full(6, 2.3)
    assert np.add.accumulate(rewards)[-1] / 6 != 2.3  # so the naive difference is a residue, not zero
    assert not group_advantages(rewards, np.zeros(6, dtype=int), 1e-12).any()


def test_the_floor_keeps_tiny_differences_small_and_leaves_ordinary_groups_alone():
    tiny = group_advantages([2.50, 2.51], [0, 0], std_floor=0.1)
    assert tiny == pytest.approx([-0.05, 0.05])  # 0.005 / 0.1
    assert group_advantages([1.0, 2.0], [0, 0], 0.1) == pytest.approx(group_advantages([1.0, 2.0], [0, 0], FLOOR))


def test_it_agrees_with_torch_std_as_verl_and_trl_use_it():
    rewards = np.random.default_rng(0).uniform(0, 3, size=(5, 8))
    tensor = torch.from_numpy(rewards)
    expected = (tensor - tensor.mean(1, keepdim=True)) / tensor.std(1, keepdim=True)
    got = group_advantages(rewards.ravel(), np.repeat(np.arange(5), 8), FLOOR).reshape(5, 8)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.just(np.nan), st.floats(0, 3))), min_size=1, max_size=40))
def test_advantages_of_a_group_sum_to_zero_and_keep_the_order_of_rewards(rows):
    group, rewards = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    advantages = group_advantages(rewards, group, FLOOR)
    assert np.isfinite(advantages).all()
    for label in set(group.tolist()):
        mine = (group == label) & ~np.isnan(rewards)
        # The tolerance is rounding of a mean of rewards up to 3 (1e-15) over the floor (1e-6).
        assert abs(advantages[mine].sum()) < 1e-7
        order = np.argsort(rewards[mine], kind="stable")
        assert (np.diff(advantages[mine][order]) >= 0).all()


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        group_advantages([1.0], [0, 0], FLOOR)
    with pytest.raises(ValueError, match="above 0"):
        group_advantages([1.0], [0], 0.0)
    with pytest.raises(ValueError, match="infinite"):
        group_advantages([np.inf], [0], FLOOR)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    # Two groups, rewards 1, 2, 6 and 0, 4: means 3 and 2.
    [
        ("dr_grpo", [-2, -1, 3, -2, 2]),
        ("rloo", [1 - 4, 2 - 3.5, 6 - 1.5, 0 - 4, 4 - 0]),  # minus the mean of the others
        # Batch mean 13/5; squared distances 2.56 + 0.36 + 11.56 + 6.76 + 1.96 = 23.2, over 4.
        ("reinforce_pp", [value / math.sqrt(5.8) for value in (-1.6, -0.6, 3.4, -2.6, 1.4)]),
        # Squared distances from the groups' means 4 + 1 + 9 + 4 + 4 = 22, over 4.
        ("reinforce_pp_baseline", [value / math.sqrt(5.5) for value in (-2, -1, 3, -2, 2)]),
    ],
)
def test_each_estimator_by_hand(estimator, expected):
    got = group_advantages([1, 2, 6, 0, 4], [0, 0, 0, 1, 1], FLOOR, estimator)
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"])
def test_the_terms_contributions_add_up_to_the_advantage_of_their_sum(estimator):
    random = np.random.default_rng(1)
    terms = {name: random.uniform(size=12) for name in ("outcome", "thinking")}
    terms["outcome"][3] = terms["thinking"][3] = np.nan
    group = np.repeat(np.arange(3), 4)
    parts = term_advantages(terms, group, 0.1, estimator)
    whole = group_advantages(terms["outcome"] + terms["thinking"], group, 0.1, estimator)
    np.testing.assert_allclose(parts["outcome"] + parts["thinking"], whole, atol=1e-12)
    assert whole[3] == 0


def test_variance_shares_by_hand():
    # A = (1, -1): parts (3/4, -3/4) and (1/4, -1/4) own 3/4 and 1/4 of it.
    parts = {"outcome": np.array([0.75, -0.75]), "thinking": np.array([0.25, -0.25])}
    assert variance_shares(parts) == pytest.approx({"outcome": 0.75, "thinking": 0.25})
    assert math.isnan(variance_shares({"outcome": np.zeros(2)})["outcome"])


def test_a_term_apart_is_normalised_among_passers_and_reaches_nobody_else():
    # Three of four passed, with thinking rewards 0.2, 0.4, 0.9: mean 0.5, squared distances 0.26, over 2: 0.13.
    outcome, thinking = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.2, 0.4, 0.9, 0.0])
    passed = outcome == 1
    parts = term_advantages(
        {"outcome": outcome, "thinking": thinking}, [0] * 4, FLOOR, apart=("thinking",), among=passed
    )
    assert parts["thinking"] == pytest.approx(
        [-0.3 / math.sqrt(0.13), -0.1 / math.sqrt(0.13), 0.4 / math.sqrt(0.13), 0]
    )
    assert parts["outcome"] == pytest.approx([0.5, 0.5, 0.5, -1.5])  # mean 3/4, sample std 1/2


@pytest.mark.parametrize(("rule", "moved"), [("posterior", True), ("outcome_only", False)])
def test_a_group_of_passers_has_a_gradient_under_posterior_and_none_under_outcome_only(rule, moved):
    yes, no = np.ones(4, bool), np.zeros(4, bool)
    signals = Signals(yes, yes, np.ones(4), np.array([0.1, 0.2, 0.3, 0.4]), np.zeros(4, int), no)
    parts = term_advantages(compose(RULES[rule], signals).terms, [0] * 4, 0.1)
    assert sum(parts.values()).any() == moved


@pytest.mark.parametrize(("rule", "owed"), [("posterior", False), ("decoupled", False), ("linear", True)])
def test_what_a_model_thinks_of_failing_rollouts_moves_them_only_without_the_gate(rule, owed):
    yes, no = np.ones(2, bool), np.zeros(2, bool)
    signals = Signals(yes, no, np.zeros(2), np.array([0.1, 0.9]), np.zeros(2, int), no)
    rewards = compose(RULES[rule], signals)
    parts = term_advantages(rewards.terms, [0, 0], FLOOR, apart=RULES[rule].apart, among=signals.passed)
    assert parts["thinking"].any() == owed
