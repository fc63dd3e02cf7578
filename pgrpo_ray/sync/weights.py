"""Weights from learner to engines, version by version: how they travel, and how it is proved that they arrived.

Owns: the wire format of the way through Ray's object store, `BucketPublisher` to `BucketReceiver`. Does not own:
gathering (learner), who is told when (`actors.weight_sync`), applying (the rollout engine), the ways from GPU to GPU
(`sync.gpu_transfer`).

Invariants:
- One call moves one bucket of about `bucket_bytes`, never one parameter.
- A publisher copies nothing that lies in host memory already: Ray writes each parameter straight into the object store,
  and a receiver's tensors lie there. So a version is copied twice: into the store, and into the engine.
- Every parameter carries its checksum, and the manifest, which comes last, lists them all. What is missing, doubled,
  out of order, damaged, or not what the engine's own model has, raises `WeightSyncError` before `load`: a receiver
  gives out a version whole or not at all.
- A receiver holds one version at most, the one that is arriving, and lets go of it when it has been loaded.
"""

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pgrpo_ray.errors import WeightSyncError

Parameters = Mapping[str, tuple[str, tuple[int, ...]]]
"""Parameters by name: torch's name of the dtype, such as `bfloat16`, and the shape."""

PAGE_WORDS = 512
"""Words of 8 bytes that are summed at a time for a checksum: 4 KiB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter of a version."""

    name: str
    dtype: str
    """torch's name, such as `bfloat16`."""
    shape: tuple[int, ...]
    checksum: int
    """Of its bytes; see `checksum`."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some whole parameters, together about `bucket_bytes` large (a single larger one has a bucket of its own)."""

    version: int
    index: int
    """Place among the version's buckets, from 0."""
    entries: tuple[Entry, ...]
    data: tuple[np.ndarray, ...]
    """Bytes of each entry, uint8 and flat, as numpy has no bfloat16. Read-only once Ray has carried them."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a whole version is. Comes after its last bucket."""

    version: int
    """Policy version: optimizer steps that these weights have seen."""
    entries: tuple[Entry, ...]
    """Of all buckets, in their order."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters together."""
        return sum(entry.num_bytes for entry in self.entries)


def checksum(data: np.ndarray) -> int:
    """Return the 32-bit checksum of flat uint8 `data`: CRC-32 of the sums of its pages, then of what is left of one.

    A page's sum is of its 64-bit words, modulo 2^64. Any change of one word shows, and so do pages that are missing,
    swapped or of another version (but for 1 in 2^32); words swapped inside one page do not, which no transport does.
    Ours, because a check that is slower than the copy that it checks would be most of a sync: on one core this ran at
    20 to 25 GB/s beside a memcpy of 8 to 15, zlib's CRC-32 of all bytes at 4, BLAKE3 at 6.
    """
    size = len(data) - len(data) % (8 * PAGE_WORDS)
    pages = data[:size].view(np.uint64).reshape(-1, PAGE_WORDS)
    return zlib.crc32(data[size:].data, zlib.crc32(pages.sum(axis=1).data))


class BucketPublisher:
    """The learner's side. Implements `protocols.WeightPublisher`."""

    def __init__(self, bucket_bytes: int):
        self._bucket_bytes = bucket_bytes

    def publish(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> Iterator[Bucket | Manifest]:
        """Yield buckets, then the manifest.

        A contiguous tensor in host memory is not copied: it must keep its values until its bucket has been taken,
        that is until the next thing is asked of this iterator (if it does not, its checksum will tell).
        """
        everything: list[Entry] = []
        entries: list[Entry] = []
        data: list[np.ndarray] = []
        index = filled = 0
        for name, tensor in weights:
            arrived = _to_bytes(tensor)
            if data and filled + arrived.nbytes > self._bucket_bytes:
                yield Bucket(version, index, tuple(entries), tuple(data))
                entries, data, filled = [], [], 0
                index += 1
            dtype = str(tensor.dtype).removeprefix("torch.")
            entries.append(Entry(name, dtype, tuple(tensor.shape), checksum(arrived)))
            everything.append(entries[-1])
            data.append(arrived)
            filled += arrived.nbytes
        if data:
            yield Bucket(version, index, tuple(entries), tuple(data))
        yield Manifest(version, tuple(everything))


class BucketReceiver:
    """A rollout worker's side. Implements `protocols.WeightReceiver`. One thread at a time."""

    def __init__(self, own: Parameters):
        """`own`: the parameters of the engine's model; a version that has others is refused."""
        self._own = own
        self._buckets: list[Bucket] = []
        self._confirmed: int | None = None

    def receive(self, part: Bucket | Manifest) -> int | None:
        """Take the next part of a version and check it; return the version when it is whole, None before.

        The first part of a version takes the place of any that was arriving, or was never loaded. Raises
        `WeightSyncError`; what has arrived of that version is then let go, and it must be published again from its
        first part.
        """
        try:
            if isinstance(part, Manifest):
                self._confirm(part)
                return part.version
            self._take(part)
        except WeightSyncError:
            self.discard()
            raise
        return None

    def load(self, version: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the parameters of a confirmed version, and let go of it.

        The tensors are only to be read: they lie in the object store, and writing to one ends the process. Raises
        `WeightSyncError`, at the call, where `version` was not confirmed; nothing has been touched then.
        """
        if self._confirmed != version:
            held = "none is" if self._confirmed is None else f"{self._confirmed} is"
            raise WeightSyncError(f"version {version} cannot be loaded: it is not confirmed as whole ({held}).")
        buckets = self._buckets
        self.discard()
        return _tensors(buckets)

    def discard(self) -> None:
        """Let go of whatever has arrived."""
        self._buckets, self._confirmed = [], None

    def _take(self, bucket: Bucket) -> None:
        if bucket.index == 0:
            self.discard()
        arriving = self._buckets[0].version if self._buckets else bucket.version
        due = len(self._buckets)
        if self._confirmed is not None or (bucket.version, bucket.index) != (arriving, due):
            raise WeightSyncError(
                f"bucket {bucket.index} of version {bucket.version} arrived, but bucket {due} of version {arriving} "
                "was due."
            )
        if len(bucket.entries) != len(bucket.data):
            raise WeightSyncError(
                f"version {bucket.version}: bucket {bucket.index} names {len(bucket.entries)} parameters and has "
                f"{len(bucket.data)}."
            )
        for entry, data in zip(bucket.entries, bucket.data, strict=True):
            if not isinstance(getattr(torch, entry.dtype, None), torch.dtype):
                raise WeightSyncError(f"version {bucket.version}: {entry.name} is of {entry.dtype!r}, no dtype.")
            if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
                raise WeightSyncError(f"version {bucket.version}: {entry.name} did not arrive as bytes.")
            if data.nbytes != entry.num_bytes:
                raise WeightSyncError(
                    f"version {bucket.version}: {entry.name} has {data.nbytes} bytes, its {entry.dtype} "
                    f"{list(entry.shape)} needs {entry.num_bytes}."
                )
            if checksum(data) != entry.checksum:
                raise WeightSyncError(
                    f"version {bucket.version}: {entry.name} is not what was published: its checksum differs."
                )
        self._buckets.append(bucket)

    def _confirm(self, manifest: Manifest) -> None:
        arrived = [entry for bucket in self._buckets for entry in bucket.entries]
        versions = {bucket.version for bucket in self._buckets} - {manifest.version}
        if versions or arrived != list(manifest.entries):
            raise WeightSyncError(
                f"version {manifest.version}: {len(manifest.entries)} parameters were published, {len(arrived)} arrived"
                f"{f', of version {versions.pop()}' if versions else ''}, and they differ."
            )
        parameters = {entry.name: (entry.dtype, entry.shape) for entry in manifest.entries}
        if doubled := len(manifest.entries) - len(parameters):
            raise WeightSyncError(f"version {manifest.version}: {doubled} parameters were published twice.")
        check_fits(manifest.version, parameters, self._own)
        self._confirmed = manifest.version


def check_fits(version: int, published: Parameters, own: Parameters) -> None:
    """Raise `WeightSyncError` where a version does not have exactly `own` parameters: names, dtypes and shapes."""
    missing, extra = sorted(own.keys() - published.keys()), sorted(published.keys() - own.keys())
    cause = "Learner and engine were started from different models."
    if missing or extra:
        raise WeightSyncError(
            f"version {version}: parameters missing {missing[:5]}, unexpected {extra[:5]} ({len(missing)} and "
            f"{len(extra)} in all). {cause}"
        )
    for name, (dtype, shape) in published.items():
        if (dtype, shape) != own[name]:
            raise WeightSyncError(
                f"version {version}: {name} is {dtype} {list(shape)}, the engine's is {own[name][0]} "
                f"{list(own[name][1])}. {cause}"
            )


def _to_bytes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _tensors(buckets: list[Bucket]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter as a view of its bytes; each bucket is let go of when the last of them has been taken."""
    while buckets:
        bucket = buckets.pop(0)
        for entry, data in zip(bucket.entries, bucket.data, strict=True):
            yield entry.name, _view(data).view(getattr(torch, entry.dtype)).reshape(entry.shape)


def _view(data: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():  # that they must not be written to is said in `load`
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(data)
