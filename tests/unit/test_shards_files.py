"""Shards of a learner, read by any number of ranks: every element arrives once, in its place."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_ray.learner.shards import KINDS, About, Shards, Snapshot


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
    numels = {name: len(flat) for name, flat in whole.items()}
    about = {"num_steps": 5, "adam_steps": 4.0, "norms": [0.5], "skipped_in_a_row": 1, "numels": numels}
    names = []
    for rank in range(writers):
        parts = {
            kind: {name: cut(flat + k, rank, writers) for name, flat in whole.items()} for k, kind in enumerate(KINDS)
        }
        rng = {"cpu": torch.tensor([rank], dtype=torch.uint8)}
        snapshot = Snapshot(About(rank=rank, num_ranks=writers, **about), parts, rng)
        snapshot.write(folder / snapshot.file_name)
        names.append(snapshot.file_name)
    with Shards(str(folder), names) as shards:
        assert shards.about.model_dump() == {"rank": 0, "num_ranks": writers, **about}
        for k, kind in enumerate(KINDS):
            for name, flat in whole.items():
                read = torch.cat([shards.part(kind, name, rank, readers) for rank in range(readers)])
                assert torch.equal(read[: len(flat)], flat + k)
                assert not read[len(flat) :].any()
        assert [shards.rng(rank).get("cpu") for rank in range(writers + 1)] == [
            *(torch.tensor([rank], dtype=torch.uint8) for rank in range(writers)),
            None,
        ]
