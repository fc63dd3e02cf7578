"""Parts of a version of weights, damaged on the way: `WeightSyncError`, or the very weights that were published."""

import dataclasses

import numpy as np
import torch
from fuzzing import fuzz
from hypothesis import example, given
from hypothesis import strategies as st

from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.sync.weights import BucketPublisher, BucketReceiver, Entry

WEIGHTS = {
    "embed": torch.arange(35.0).reshape(7, 5),
    "half": torch.arange(9.0).reshape(3, 3).to(torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "large": torch.arange(2000.0),
}
OWN = {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in WEIGHTS.items()}
PARTS = [part for version in (3, 4) for part in BucketPublisher(200).publish(iter(WEIGHTS.items()), version)]
SEEDS = [bytes(range(len(PARTS) // 2)), bytes(range(len(PARTS) // 2, len(PARTS)))]
"""Places in `PARTS`, in the order of arrival; from 128 on: damaged."""

NAMES = st.sampled_from([*WEIGHTS, "other", "", "\ud800"])
DTYPES = st.sampled_from(["float32", "bfloat16", "int8", "nn", "nonsense", "", "Tensor", "complex128"])
SHAPES = st.lists(st.sampled_from([0, 1, 3, 5, 7, 35, 2000, -1, 2**40, 2**80]), max_size=3).map(tuple)
ENTRIES = st.builds(Entry, NAMES, DTYPES, SHAPES, st.integers(0, 2**32 - 1))
ARRAYS = st.one_of(
    st.binary(max_size=40).map(lambda data: np.frombuffer(data, np.uint8)),
    st.sampled_from([np.zeros((2, 3), np.uint8), np.zeros(4), np.arange(80, dtype=np.uint8)[::2], np.zeros((),
    np.uint8)]),
)  # fmt: skip


@st.composite
def changed(draw, parts):
    """One of `parts`, or such a one with another version, index, entry or data."""
    part = draw(st.sampled_from(parts))
    match draw(st.sampled_from(["", "version", "index", "entries", "entry", "data", "flip"])):
        case "version":
            return dataclasses.replace(part, version=draw(st.integers(-1, 5)))
        case "index" if hasattr(part, "index"):
            return dataclasses.replace(part, index=draw(st.integers(-1, 5)))
        case "entries":
            return dataclasses.replace(
                part, entries=tuple(draw(st.lists(ENTRIES | st.sampled_from(part.entries), max_size=4)))
            )
        case "entry":
            changes = draw(st.fixed_dictionaries({}, optional={"name": NAMES, "dtype": DTYPES, "shape": SHAPES}))
            return dataclasses.replace(
                part, entries=(dataclasses.replace(part.entries[0], **changes), *part.entries[1:])
            )
        case "data" if hasattr(part, "data"):
            return dataclasses.replace(
                part, data=tuple(draw(st.lists(ARRAYS | st.sampled_from(part.data), max_size=3)))
            )
        case "flip" if hasattr(part, "data"):
            return flipped(part, draw(st.integers(0, 8000)))
    return part


def read(data: bytes) -> None:
    """Receive parts in the order of `data`."""
    receive([flipped(PARTS[byte % len(PARTS)], byte) if byte >= 128 else PARTS[byte % len(PARTS)] for byte in data])


def flipped(part, place):
    """A bucket with a flipped bit; a manifest without its first entry."""
    if not hasattr(part, "data"):
        return dataclasses.replace(part, entries=part.entries[1:])
    data = part.data[0].copy()
    data[place % len(data)] ^= 1
    return dataclasses.replace(part, data=(data, *part.data[1:]))


def receive(parts) -> None:
    """Have a receiver take the parts; a version that it gives out must be the one that was published."""
    receiver = BucketReceiver(OWN)
    for part in parts:
        try:
            version = receiver.receive(part)
            if version is None:
                continue
            arrived = dict(receiver.load(version))
        except WeightSyncError as error:
            assert len(str(error)) < 1000
            continue
        assert arrived.keys() == WEIGHTS.keys()
        assert all(torch.equal(arrived[name], tensor) for name, tensor in WEIGHTS.items())


@fuzz(600)
@given(st.lists(changed(PARTS), max_size=10))
@example([dataclasses.replace(PARTS[0], data=())])
@example([dataclasses.replace(PARTS[0], entries=(Entry("embed", "nonsense", (7, 5), 0), *PARTS[0].entries[1:]))])
def test_parts(parts):
    receive(parts)


@fuzz(300)
@given(st.permutations(range(len(PARTS))), st.integers(0, len(PARTS) - 1), st.data())
def test_whole_versions_with_one_change(order, at, data):
    """Every version whole and in order but for one part: the change may not be overlooked."""
    parts = list(PARTS)
    parts[at] = data.draw(changed([PARTS[at]]))
    receive(parts)
    receive([PARTS[place] for place in order])
