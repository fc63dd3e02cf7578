"""Weight publication and loading: full parameters packed into a few large byte chunks, with version and checksum.

Owns: the wire format. Does not own: gathering (learner), transport (actors: Ray's object store), applying (engine).

Invariants:
- One call moves one chunk of about `chunk_bytes`, never one parameter.
- The manifest comes last and names every parameter, its dtype, shape and place; each chunk carries a CRC. A chunk that
  is missing, doubled, reordered or damaged raises `WeightSyncError` before the parameter reaches the engine.
- numpy has no bfloat16, so parameters travel as bytes.
"""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pgrpo_ray.errors import WeightSyncError


@dataclass(frozen=True, slots=True)
class ParameterEntry:
    """Where one parameter lies."""

    name: str
    dtype: str
    """torch's name, such as `bfloat16`."""
    shape: tuple[int, ...]
    chunk: int
    """Index of the chunk that holds it; a parameter never spans two."""
    offset: int
    """Bytes from the chunk's start."""


@dataclass(frozen=True, slots=True)
class WeightManifest:
    """What a full set of chunks means. Published by learner rank 0, read by every rollout worker."""

    version: int
    """Policy version: optimizer steps that these weights have seen."""
    entries: tuple[ParameterEntry, ...]
    checksums: tuple[int, ...]
    """CRC-32 of each chunk."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters together."""
        return sum(_num_bytes(entry.dtype, entry.shape) for entry in self.entries)


def pack(
    weights: Iterable[tuple[str, torch.Tensor]], version: int, chunk_bytes: int
) -> Iterator[np.ndarray | WeightManifest]:
    """Yield uint8 chunks, then the manifest.

    A chunk holds whole parameters and exceeds `chunk_bytes` only where a single one does. Tensors are copied before
    the next one is asked for, so the caller may reuse their memory.
    """
    entries: list[ParameterEntry] = []
    checksums: list[int] = []
    parts: list[np.ndarray] = []
    filled = 0
    for name, tensor in weights:
        data = _to_bytes(tensor)
        if parts and filled + data.nbytes > chunk_bytes:
            chunk = np.concatenate(parts)
            checksums.append(zlib.crc32(chunk))
            yield chunk
            parts, filled = [], 0
        entries.append(
            ParameterEntry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), len(checksums), filled)
        )
        parts.append(data)
        filled += data.nbytes
    if parts:
        chunk = np.concatenate(parts)
        checksums.append(zlib.crc32(chunk))
        yield chunk
    yield WeightManifest(version, tuple(entries), tuple(checksums))


def unpack(manifest: WeightManifest, chunks: Sequence[np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) after checking every chunk; each tensor owns its memory.

    Raises `WeightSyncError` when a chunk is missing or damaged.
    """
    if len(chunks) != len(manifest.checksums):
        raise WeightSyncError(
            f"version {manifest.version}: {len(chunks)} chunks arrived, {len(manifest.checksums)} were published."
        )
    for index, (chunk, checksum) in enumerate(zip(chunks, manifest.checksums, strict=True)):
        if zlib.crc32(chunk) != checksum:
            raise WeightSyncError(f"version {manifest.version}: chunk {index} differs from what was published.")
    for entry in manifest.entries:
        size = _num_bytes(entry.dtype, entry.shape)
        data = chunks[entry.chunk][entry.offset : entry.offset + size]
        if data.nbytes != size:
            raise WeightSyncError(f"version {manifest.version}: {entry.name} lies outside its chunk.")
        yield entry.name, _from_bytes(data, entry.dtype, entry.shape)


def _to_bytes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().copy()


def _from_bytes(data: np.ndarray, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    # Copied, because Ray maps chunks read-only and an offset need not be a multiple of the item size.
    return torch.from_numpy(data.copy()).view(getattr(torch, dtype)).reshape(shape)


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * getattr(torch, dtype).itemsize
