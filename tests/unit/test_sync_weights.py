"""Weights on the wire arrive bit for bit, and whole, or no engine is touched."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.rollout.engine_loop import EngineLoop
from pgrpo_ray.rollout.worker import RolloutWorker
from pgrpo_ray.sync.weights import Bucket, BucketPublisher, BucketReceiver, Manifest, checksum
from pgrpo_ray.types import PromptRequest, SampledGroup


def some_weights(shift=0.0):
    generator = torch.Generator().manual_seed(0)
    return [
        ("embed", torch.randn(7, 5, generator=generator) + shift),
        ("half", (torch.randn(3, 3, generator=generator) + shift).to(torch.bfloat16)),  # 18 bytes, no multiple of 8
        ("scalar", torch.tensor(2.5 + shift)),
        ("large", torch.randn(2000, generator=generator) + shift),
        ("transposed", torch.randn(4, 6, generator=generator).T + shift),
    ]


OWN = {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in some_weights()}


def published(bucket_bytes=200, version=3, weights=None):
    """Parts as Ray brings them: copies, pickled with their buffers apart, which come back read-only."""
    parts = []
    for part in BucketPublisher(bucket_bytes).publish(iter(weights or some_weights()), version):
        buffers = []
        data = pickle.dumps(part, protocol=5, buffer_callback=buffers.append)
        parts.append(pickle.loads(data, buffers=[buffer.raw().tobytes() for buffer in buffers]))
    return parts


def received(parts, own=OWN):
    receiver = BucketReceiver(own)
    for part in parts[:-1]:
        assert receiver.receive(part) is None
    assert receiver.receive(parts[-1]) == parts[-1].version
    return receiver


@pytest.mark.parametrize("bucket_bytes", [1, 200, 1 << 20])
def test_parameters_arrive_bit_for_bit(bucket_bytes):
    parts = published(bucket_bytes)
    arrived = dict(received(parts).load(3))
    assert list(arrived) == [name for name, _ in some_weights()]
    for name, tensor in some_weights():
        assert arrived[name].dtype == tensor.dtype
        assert torch.equal(arrived[name], tensor)
    assert parts[-1].num_bytes == sum(data.nbytes for bucket in parts[:-1] for data in bucket.data) == 8258


def test_buckets_are_few_and_bounded():
    *buckets, _ = published(bucket_bytes=200)
    sizes = [sum(data.nbytes for data in bucket.data) for bucket in buckets]
    assert sizes == [140 + 18 + 4, 8000, 96]  # only the single large one exceeds 200


def test_what_lies_in_memory_is_copied_neither_out_nor_in():
    tensor = torch.arange(1000.0)
    bucket, _ = BucketPublisher(1 << 20).publish(iter([("a", tensor)]), 0)
    assert bucket.data[0].ctypes.data == tensor.data_ptr()
    parts = published()
    ((_, view), *_) = received(parts).load(3)
    assert view.data_ptr() == parts[0].data[0].ctypes.data
    assert not parts[0].data[0].flags.writeable


def test_memory_that_changes_before_its_bucket_is_taken_is_noticed():
    buffer = torch.zeros(4)

    def weights():
        for value in (1.0, 2.0):
            buffer.fill_(value)
            yield f"p{value}", buffer

    bucket, _ = BucketPublisher(1 << 20).publish(weights(), 0)
    with pytest.raises(WeightSyncError, match="is not what was published"):
        BucketReceiver({}).receive(bucket)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 40_000])
def test_a_checksum_sees_every_flipped_bit_and_swapped_pages(size):
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    right = checksum(data)
    assert checksum(data.copy()) == right
    for place in np.linspace(0, size - 1, 50).astype(int) if size else ():
        wrong = data.copy()
        wrong[place] ^= 1 << (place % 8)
        assert checksum(wrong) != right
    if size > 2 * 4096:
        swapped = data.copy()
        swapped[:4096], swapped[4096:8192] = data[4096:8192], data[:4096]
        assert checksum(swapped) != right
        assert checksum(data[:-1]) != right


def test_the_checksum_is_the_documented_one():
    import zlib

    data = np.arange(10_000, dtype=np.uint32).view(np.uint8)  # 9 pages and 3136 bytes
    words = [int.from_bytes(data[i : i + 8].tobytes(), "little") for i in range(0, 9 * 4096, 8)]
    sums = [sum(words[page * 512 : (page + 1) * 512]) % 2**64 for page in range(9)]
    whole = b"".join(value.to_bytes(8, "little") for value in sums) + data[9 * 4096 :].tobytes()
    assert checksum(data) == zlib.crc32(whole)


def damaged(parts):
    data = parts[1].data[0].copy()
    data[5000] ^= 1
    return [parts[0], dataclasses.replace(parts[1], data=(data,)), *parts[2:]]


def renamed(parts, **change):
    """The first parameter described in another way, everywhere."""
    entry = dataclasses.replace(parts[0].entries[0], **change)
    bucket = dataclasses.replace(parts[0], entries=(entry, *parts[0].entries[1:]))
    return [bucket, *parts[1:-1], dataclasses.replace(parts[-1], entries=(entry, *parts[-1].entries[1:]))]


BROKEN = {
    "damaged": (damaged, "large is not what was published"),
    "lost in the middle": (lambda parts: [parts[0], *parts[2:]], "bucket 2 of version 3 arrived, but bucket 1"),
    "lost at the end": (lambda parts: [*parts[:-2], parts[-1]], "5 parameters were published, 4 arrived"),
    "doubled": (lambda parts: [parts[0], parts[1], parts[1], *parts[2:]], "bucket 1 .* but bucket 2"),
    "swapped": (lambda parts: [parts[1], parts[0], *parts[2:]], "bucket 1 .* but bucket 0"),
    "of two versions": (
        lambda parts: [parts[0], *published(version=4)[1:]],
        "of version 4 arrived, but .* of version 3",
    ),
    "short": (
        lambda parts: [dataclasses.replace(parts[0], data=(parts[0].data[0][:-4], *parts[0].data[1:])), *parts[1:]],
        "embed has 136 bytes, its float32",
    ),
    "another name": (lambda parts: renamed(parts, name="other"), "missing ..embed.., unexpected ..other.."),
    "another shape": (lambda parts: renamed(parts, shape=(5, 7)), r"embed is float32 \[5, 7\], the engine's is .*7, 5"),
    "another dtype": (lambda parts: renamed(parts, dtype="int32"), "embed is int32"),
    "a parameter less": (
        lambda parts: published(weights=some_weights()[1:]),
        "missing ..embed.., unexpected .. .1 and 0",
    ),
    "a name twice": (
        lambda parts: published(weights=[*some_weights(), some_weights()[2]]),
        "1 parameters were published twice",
    ),
}


class NullEngine:
    """Holds parameters, samples one token a group, and breaks while it loads where it is told to."""

    parameters = OWN

    paused = False

    def __init__(self):
        self.held = dict(some_weights(shift=-1.0))
        self.policy_version = None
        self.breaks = False
        self.running = {}

    def load_weights(self, weights, version):
        self.policy_version = None
        for number, (name, tensor) in enumerate(weights):
            if self.breaks and number == 2:
                raise MemoryError("no room for the third")
            self.held[name] = tensor.clone()
        self.policy_version = version

    def add(self, request, group_size, temperature):
        self.running[request.problem_id] = request, group_size
        return request.problem_id

    def step(self):
        ended, self.running = self.running, {}
        spans = ((self.policy_version, 0),)
        return [
            (name, SampledGroup(request, ([5],) * size, ([-1.0],) * size, ("stop",) * size, (spans,) * size))
            for name, (request, size) in ended.items()
        ]

    def abort(self, ids):
        for name in ids:
            self.running.pop(name, None)


def worker_of(engine):
    return RolloutWorker(EngineLoop(lambda: engine), Tokenizer())


class Tokenizer:
    def decode(self, ids, skip_special_tokens=False):
        return "text"


def holds(engine, shift):
    return all(torch.equal(engine.held[name], tensor) for name, tensor in some_weights(shift))


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_whole_is_refused_and_no_engine_is_touched(name):
    breaks, words = BROKEN[name]
    engine, receiver = NullEngine(), BucketReceiver(OWN)
    worker = worker_of(engine)
    with pytest.raises(WeightSyncError, match=words):
        for part in breaks(published()):
            receiver.receive(part)
    with pytest.raises(WeightSyncError, match="3 cannot be loaded: it is not confirmed"):
        worker.load_weights(receiver.load(3), 3)
    assert holds(engine, -1.0)
    for part in published(version=4):  # and it can take the next one
        receiver.receive(part)
    worker.load_weights(receiver.load(4), 4)
    assert holds(engine, 0.0)


def test_only_a_confirmed_version_is_given_out_and_once():
    receiver = BucketReceiver(OWN)
    for part in published()[:-1]:
        receiver.receive(part)
    with pytest.raises(WeightSyncError, match="none is"):
        receiver.load(3)
    receiver = received(published())
    with pytest.raises(WeightSyncError, match=r"version 4 cannot be loaded: .* \(3 is\)"):
        receiver.load(4)
    assert len(dict(receiver.load(3))) == 5
    with pytest.raises(WeightSyncError, match="3 cannot be loaded"):
        receiver.load(3)


def test_a_version_takes_the_place_of_one_that_was_never_loaded():
    receiver = received(published(version=3))
    parts = published(version=4, weights=some_weights(1.0))
    receiver.receive(parts[0])
    with pytest.raises(WeightSyncError):
        receiver.load(3)
    for part in parts:
        receiver.receive(part)
    assert torch.equal(dict(receiver.load(4))["embed"], some_weights(1.0)[0][1])


def test_a_worker_samples_with_no_older_version_than_it_is_believed_to_have():
    worker = worker_of(engine := NullEngine())
    request = PromptRequest("p", (1, 2), 0)
    with pytest.raises(WeightSyncError, match="policy version 0, but the engine has no published one"):
        next(worker.generate([request], 1, 1.0, version=0))
    worker.load_weights(received(published()).load(3), 3)
    with pytest.raises(WeightSyncError, match="policy version 4, but the engine has version 3"):
        next(worker.generate([request], 1, 1.0, version=4))
    for version in (2, 3):  # a newer one than was asked for is as good
        (table,) = worker.generate([request], 1, 1.0, version=version)
        assert table["policy_version"].to_pylist() == [3]
    engine.breaks = True
    with pytest.raises(MemoryError):
        worker.load_weights(received(published(version=4)).load(4), 4)
    for version in (3, 4):
        with pytest.raises(WeightSyncError):
            next(worker.generate([request], 1, 1.0, version=version))


def test_nothing_published_is_an_empty_version():
    (manifest,) = BucketPublisher(10).publish(iter([]), 1)
    assert manifest == Manifest(1, ())
    assert list(received([manifest], own={}).load(1)) == []
    assert isinstance(next(BucketPublisher(10).publish(iter(some_weights()), 1)), Bucket)
