"""Shards of a learner, read by any number of ranks: every element arrives once, in its place."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_ray.learner.shards import KINDS, Shards, Snapshot


def cut(flat, rank, ranks):
    """A rank's part as ZeRO-3 cuts it: ceil(n / ranks) elements, the last padded (here by what must not be read)."""
    size = -(-len(flat) // ranks)
    part = torch.full((size,), -7.0)
    mine = flat[rank * size : (rank + 1) * size]
    part[: len(mine)] = mine
    return part


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 6))
def test_every_number_of_ranks_reads_what_every_other_wrote(tmp_path_factory, numels, writers, readers):
    folder = tmp_path_factory.mktemp("shards")
    whole = {f"p{i}": torch.arange(numel) + 100.0 * i for i, numel in enumerate(numels)}
    names = []
    for rank in range(writers):
        parts = {
            kind: {name: cut(flat + k, rank, writers) for name, flat in whole.items()} for k, kind in enumerate(KINDS)
        }
        rng = {"cpu": torch.tensor([rank], dtype=torch.uint8)}
        snapshot = Snapshot(
            rank, writers, 5, 4.0, [0.5], 1, {name: len(flat) for name, flat in whole.items()}, parts, rng
        )
        snapshot.write(folder / snapshot.file_name)
        names.append(snapshot.file_name)
    with Shards(str(folder), names) as shards:
        assert (shards.num_steps, shards.adam_steps, shards.norms, shards.skipped_in_a_row) == (5, 4.0, [0.5], 1)
        for k, kind in enumerate(KINDS):
            for name, flat in whole.items():
                read = torch.cat([shards.part(kind, name, rank, readers) for rank in range(readers)])
                assert torch.equal(read[: len(flat)], flat + k)
                assert not read[len(flat) :].any()
        assert [shards.rng(rank).get("cpu") for rank in range(writers + 1)] == [
            *(torch.tensor([rank], dtype=torch.uint8) for rank in range(writers)),
            None,
        ]
