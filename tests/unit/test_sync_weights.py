"""Weights on the wire arrive bit for bit, or not at all."""

import dataclasses

import pytest
import torch

from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.sync.weights import WeightManifest, pack, unpack


def some_weights():
    generator = torch.Generator().manual_seed(0)
    return [
        ("embed", torch.randn(7, 5, generator=generator)),
        ("half", torch.randn(3, 3, generator=generator).to(torch.bfloat16)),  # 18 bytes: what follows is unaligned
        ("scalar", torch.tensor(2.5)),
        ("large", torch.randn(100, generator=generator)),
        ("transposed", torch.randn(4, 6, generator=generator).T),
    ]


def published(chunk_bytes=128, version=3):
    *chunks, manifest = pack(iter(some_weights()), version, chunk_bytes)
    return chunks, manifest


@pytest.mark.parametrize("chunk_bytes", [1, 128, 1 << 20])
def test_parameters_arrive_bit_for_bit(chunk_bytes):
    chunks, manifest = published(chunk_bytes)
    assert manifest.version == 3
    arrived = dict(unpack(manifest, chunks))
    assert list(arrived) == [name for name, _ in some_weights()]
    for name, tensor in some_weights():
        assert arrived[name].dtype == tensor.dtype
        assert torch.equal(arrived[name], tensor)
    assert manifest.num_bytes == sum(chunk.nbytes for chunk in chunks)


def test_chunks_are_few_and_bounded():
    chunks, _ = published(chunk_bytes=200)
    assert [chunk.nbytes for chunk in chunks] == [140 + 18 + 4, 400, 96]  # only the single large one exceeds 200


def test_arrived_tensors_do_not_need_the_chunks():
    chunks, manifest = published()
    for chunk in chunks:
        chunk.flags.writeable = False  # as Ray maps them
    arrived = dict(unpack(manifest, chunks))
    arrived["embed"].add_(1.0)  # would crash on read-only memory


def test_reused_memory_of_the_publisher_does_not_leak_in():
    buffer = torch.zeros(4)

    def weights():
        for value in (1.0, 2.0):
            buffer.fill_(value)
            yield f"p{value}", buffer

    *chunks, manifest = pack(weights(), 0, 1 << 20)
    assert [tensor[0].item() for _, tensor in unpack(manifest, chunks)] == [1.0, 2.0]


def test_a_damaged_chunk_is_refused_before_anything_is_applied():
    chunks, manifest = published()
    chunks[1] = chunks[1].copy()
    chunks[1][0] ^= 1
    with pytest.raises(WeightSyncError, match="chunk 1 differs"):
        next(unpack(manifest, chunks))


def test_missing_and_swapped_chunks_are_refused():
    chunks, manifest = published()
    with pytest.raises(WeightSyncError, match="arrived"):
        next(unpack(manifest, chunks[:-1]))
    with pytest.raises(WeightSyncError, match="differs"):
        next(unpack(manifest, [chunks[1], chunks[0], *chunks[2:]]))


def test_an_entry_outside_its_chunk_is_refused():
    chunks, manifest = published()
    far = dataclasses.replace(manifest.entries[0], offset=10**6)
    with pytest.raises(WeightSyncError, match="outside"):
        list(unpack(WeightManifest(3, (far,), manifest.checksums), chunks))


def test_nothing_published_is_an_empty_manifest():
    (manifest,) = pack(iter([]), 1, 10)
    assert manifest.entries == ()
    assert list(unpack(manifest, [])) == []
