"""The plan of an update: what must hold for any batch."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_ray.algo.batching import plan_update, row_weights

BOUND = 64


@st.composite
def batches(draw):
    """Draw the arguments of `plan_update`: groups of up to 4 with zero, dropped and real advantages."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    rows = sum(sizes)
    lengths = st.lists(st.integers(0, BOUND // 2), min_size=rows, max_size=rows)
    values = st.sampled_from([0.0, 0.0, np.nan, 1.5, -0.5])
    order = draw(st.permutations(range(rows)))
    return {
        "prompt_lengths": np.array(draw(lengths)),
        "response_lengths": np.array(draw(lengths)),
        "advantages": np.array(draw(st.lists(values, min_size=rows, max_size=rows))),
        "group_index": np.repeat(np.arange(len(sizes)) * 3, sizes)[order],
        "num_ranks": draw(st.integers(1, 4)),
        "num_mini_batches": draw(st.integers(1, 5)),
        "micro_batch_tokens": BOUND,
        "seed": draw(st.integers(0, 5)),
    }


def rows_with_gradient(batch):
    """Rows that must be trained: advantage neither zero nor NaN, and at least one response token."""
    advantages = np.nan_to_num(batch["advantages"])
    return set(np.flatnonzero((advantages != 0) & (batch["response_lengths"] > 0)).tolist())


def planned(mini_batch):
    """All rows of a mini-batch, in any order."""
    return [int(row) for rank in mini_batch.ranks for micro_batch in rank for row in micro_batch]


@given(batches())
def test_every_row_with_gradient_is_planned_exactly_once_and_no_other(batch):
    plan = plan_update(**batch)
    rows = [row for mini_batch in plan.mini_batches for row in planned(mini_batch)]
    assert sorted(rows) == sorted(rows_with_gradient(batch))
    assert plan.num_rows == len(rows)
    by_rank = [plan.rows_of(rank).tolist() for rank in range(batch["num_ranks"])]
    assert sorted(row for mine in by_rank for row in mine) == sorted(rows)


@given(batches())
def test_all_ranks_have_the_same_number_of_micro_batches_and_at_least_one_is_full(batch):
    for mini_batch in plan_update(**batch).mini_batches:
        assert len(mini_batch.ranks) == batch["num_ranks"]
        assert {len(rank) for rank in mini_batch.ranks} == {mini_batch.num_micro_batches}
        for passes in zip(*mini_batch.ranks, strict=True):
            assert any(len(rows) for rows in passes)  # a pass that is empty on every rank would be wasted


@given(batches())
def test_no_micro_batch_exceeds_its_padded_tokens(batch):
    totals = batch["prompt_lengths"] + batch["response_lengths"]
    for mini_batch in plan_update(**batch).mini_batches:
        for rank in mini_batch.ranks:
            for rows in rank:
                assert len(rows) == 0 or len(rows) * totals[rows].max() <= BOUND


@given(batches())
def test_groups_stay_whole_and_denominators_count_every_token_that_was_not_dropped(batch):
    plan = plan_update(**batch)
    kept = np.where(np.isnan(batch["advantages"]), 0, batch["response_lengths"])
    home = {}
    for number, mini_batch in enumerate(plan.mini_batches):
        groups = {int(batch["group_index"][row]) for row in planned(mini_batch)}
        assert all(home.setdefault(group, number) == number for group in groups)
        own_tokens = sum(int(kept[batch["group_index"] == group].sum()) for group in groups)
        assert mini_batch.num_tokens >= own_tokens > 0
    assert sum(mini_batch.num_tokens for mini_batch in plan.mini_batches) <= kept.sum()
    if len(plan.mini_batches) == batch["num_mini_batches"]:
        assert sum(mini_batch.num_tokens for mini_batch in plan.mini_batches) == kept.sum()
    assert len(plan.mini_batches) + plan.num_skipped == batch["num_mini_batches"]


@settings(max_examples=20)
@given(batches())
def test_the_same_arguments_give_the_same_plan(batch):
    def bare(plan):
        return [
            (m.num_tokens, m.num_sequences, [[rows.tolist() for rows in rank] for rank in m.ranks])
            for m in plan.mini_batches
        ]

    plan = plan_update(**batch)
    assert bare(plan) == bare(plan_update(**batch)) == bare(pickle.loads(pickle.dumps(plan)))


def plan_of(lengths, advantages, groups, **changes):
    """Plan with a prompt of 1 token each."""
    arguments = {"num_ranks": 1, "num_mini_batches": 1, "micro_batch_tokens": BOUND, "seed": 0, **changes}
    return plan_update(np.ones(len(lengths), dtype=int), lengths, advantages, groups, **arguments)


def test_rows_without_gradient_are_skipped_but_their_tokens_stay_in_the_denominator():
    plan = plan_of([5, 7, 11, 13], [1.0, 0.0, -1.0, np.nan], [0, 0, 1, 1])
    (mini_batch,) = plan.mini_batches
    assert planned(mini_batch) == [2, 0]
    assert mini_batch.num_tokens == 5 + 7 + 11  # the dropped row's 13 are as if never sampled


def test_a_mini_batch_without_gradient_is_left_out_and_counted():
    plan = plan_of([5, 5, 5, 5], [1.0, -1.0, 0.0, 0.0], [0, 0, 1, 1], num_mini_batches=2)
    assert (len(plan.mini_batches), plan.num_skipped) == (1, 1)
    assert plan.mini_batches[0].num_tokens == 10
    nothing = plan_of([5, 5], [0.0, 0.0], [0, 0])
    assert (nothing.mini_batches, nothing.num_skipped, nothing.num_rows) == ((), 1, 0)
    assert nothing.rows_of(0).tolist() == []
    assert plan_of([], [], []).mini_batches == ()


def test_mini_batches_hold_near_equal_numbers_of_groups_shuffled_by_the_seed():
    groups = np.repeat(np.arange(8), 2)
    plans = [plan_of([3] * 16, [1.0] * 16, groups, num_mini_batches=4, seed=seed) for seed in range(5)]
    splits = [[sorted(planned(mini_batch)) for mini_batch in plan.mini_batches] for plan in plans]
    assert all(len(rows) == 4 for split in splits for rows in split)
    assert len({str(split) for split in splits}) > 1


def test_ranks_carry_equal_tokens_where_that_is_possible():
    lengths = np.array([40, 30, 20, 10, 40, 30, 20, 10]) - 1
    plan = plan_of(lengths, [1.0] * 8, [0] * 8, num_ranks=2)
    loads = [int((lengths[plan.rows_of(rank)] + 1).sum()) for rank in range(2)]
    assert loads == [100, 100]


def test_rows_of_similar_length_share_a_micro_batch():
    # Totals 32, 8 x 8: by length, one micro-batch of 32 + 8 (2 x 32 = 64) and one of 7 x 8 = 56.
    plan = plan_of([7, 7, 7, 31, 7, 7, 7, 7, 7], [1.0] * 9, [0] * 9)
    assert [len(rows) for rows in plan.mini_batches[0].ranks[0]] == [2, 7]
    assert plan.mini_batches[0].ranks[0][0][0] == 3


def test_a_rank_with_fewer_rows_gets_empty_micro_batches():
    plan = plan_of([60], [1.0], [0], num_ranks=3)
    assert [[len(rows) for rows in rank] for rank in plan.mini_batches[0].ranks] == [[1], [0], [0]]


def test_a_rollout_that_cannot_fit_is_refused_only_when_it_would_be_trained():
    with pytest.raises(ValueError, match="micro_batch_tokens"):
        plan_of([BOUND], [1.0], [0])
    assert plan_of([BOUND], [0.0], [0]).num_rows == 0
    with pytest.raises(ValueError, match="one shape"):
        plan_of([1, 2], [1.0], [0])
    with pytest.raises(ValueError, match="at least 1"):
        plan_of([1], [1.0], [0], num_ranks=0)


def test_rows_without_an_advantage_are_planned_where_every_row_has_a_gradient():
    arguments = ([1] * 4, [2, 3, 0, 4], [0.0, 1.0, 0.0, np.nan], [0, 0, 1, 1], 1, 1, BOUND, 0)
    assert plan_update(*arguments).num_rows == 1
    (mini_batch,) = plan_update(*arguments, every_row=True).mini_batches
    assert sorted(planned(mini_batch)) == [0, 1]  # not the empty response, not the dropped one
    assert (mini_batch.num_tokens, mini_batch.num_sequences) == (5, 3)


def test_groups_that_are_left_out_whole_do_not_make_mini_batches_unequal():
    advantages = np.repeat([1.0, np.nan, np.nan], 8)  # 24 groups of one, two thirds of them left out
    plan = plan_update(np.ones(24), np.ones(24), advantages, np.arange(24), 1, 4, BOUND, 0)
    assert [mini_batch.num_sequences for mini_batch in plan.mini_batches] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", [1 / 12, 1 / 12]),
        ("sequence_mean", [1 / (3 * 2), 1 / (3 * 10)]),
        ("fixed_length", [1 / (3 * 16), 1 / (3 * 16)]),
    ],
)
def test_what_a_token_weighs(aggregation, expected):
    # Two responses of 2 and 10 tokens in a mini-batch of three; 16 is the longest allowed.
    assert row_weights([2, 10], aggregation, 12, 3, 16) == pytest.approx(expected)


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
@pytest.mark.parametrize("shape", ["uniform", "lognormal", "mostly short"])
def test_ranks_have_equal_work_on_mixed_lengths(shape, num_ranks):
    """512 rollouts in two mini-batches. A pass ends when its slowest rank does: that, and padding, is what is lost."""
    rng = np.random.default_rng(0)
    responses = {
        "uniform": rng.integers(100, 4097, 512),
        "lognormal": np.clip(rng.lognormal(6.5, 0.8, 512), 16, 4096).astype(int),
        "mostly short": np.where(rng.random(512) < 0.1, 4096, rng.integers(100, 600, 512)),
    }[shape]
    prompts, advantages, groups = np.full(512, 400), rng.normal(size=512), np.arange(512) // 8
    plan = plan_update(prompts, responses, advantages, groups, num_ranks, 2, 5120, 0)
    lengths = prompts + responses
    for mini_batch in plan.mini_batches:
        tokens = [sum(int(lengths[rows].sum()) for rows in rank) for rank in mini_batch.ranks]
        padded = np.array(
            [[len(rows) * lengths[rows].max(initial=0) for rows in rank] for rank in mini_batch.ranks]
        )  # [rank, pass]
        assert max(tokens) < 1.02 * np.mean(tokens)
        assert padded.sum(axis=1).max() < 1.03 * padded.sum(axis=1).mean()
        assert padded.max(axis=0).sum() < 1.3 * np.mean(tokens)
