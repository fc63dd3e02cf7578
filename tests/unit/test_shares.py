"""Rank shares address the same rows as the plan, with only the needed groups fetched."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_ray.algo.batching import plan_update
from pgrpo_ray.learner.shares import Places, share_of


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    num_ranks=st.integers(1, 3),
    num_mini_batches=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_shares_of_all_ranks_cover_every_row_with_gradient_once(sizes, num_ranks, num_mini_batches, seed):
    rng = np.random.default_rng(seed)
    group_index = np.repeat(np.arange(len(sizes)), sizes)
    total = len(group_index)
    advantages = rng.choice([0.0, 1.0, -2.0, np.nan], size=total)
    lengths = rng.integers(1, 20, size=total)
    plan = plan_update(lengths, lengths, advantages, group_index, num_ranks, num_mini_batches, 80, seed)
    # Groups came in tables of one to three, in another order than the batch's, some beside groups that are not in it.
    table_of = rng.permutation(len(sizes)) // rng.integers(1, 4)
    tables = [[] for _ in range(table_of.max() + 1)]
    first_row = np.zeros(len(sizes), int)
    for group in rng.permutation(len(sizes)):
        table = tables[table_of[group]]
        table += [-1] * int(rng.integers(0, 3))  # a stranger's
        first_row[group] = len(table)
        table += np.flatnonzero(group_index == group).tolist()
    places = Places(table_of, first_row, np.array(sizes), np.array([len(table) for table in tables]))
    assert np.concatenate(tables)[places.in_all()].tolist() == list(range(total))
    seen = []
    for rank in range(num_ranks):
        share = share_of(plan, rank, advantages, lengths, places, "sequence_mean", 99, 0)
        fetched = np.concatenate([tables[table] for table in share.tables] or [[]])
        needed = set()
        for step, mini_batch in zip(share.steps, plan.mini_batches, strict=True):
            for local, advantage, weights in step.passes():
                rows = fetched[local].astype(int)
                assert np.array_equal(advantage, advantages[rows].astype(np.float32))
                expected = 1 / (mini_batch.num_sequences * lengths[rows])
                assert np.array_equal(weights, expected.astype(np.float32))
                seen += rows.tolist()
                needed |= set(table_of[group_index[rows]].tolist())
        assert needed == set(share.tables)  # nothing is fetched in vain
    wanted = np.flatnonzero(~np.isnan(advantages) & (advantages != 0)).tolist()
    assert sorted(seen) == wanted
