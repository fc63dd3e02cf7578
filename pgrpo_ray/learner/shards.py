"""What one ZeRO-3 rank holds of policy and optimizer, as files that any number of ranks can read.

    learner-00000-of-00002.safetensors
        fp32/<parameter>          this rank's part of the weights, float32, as the optimizer steps them
        exp_avg/<parameter>       Adam's running means of it, absent before the first step
        exp_avg_sq/<parameter>
        rng/cpu, rng/cuda         torch's random states, uint8
    metadata                      rank, ranks, steps taken by the engine and by Adam, elements of every parameter

ZeRO-3 flattens each parameter and gives rank r of W the elements from r x ceil(n / W) on, the last padded. So a rank of
another number of ranks finds its part as slices of a few files. DeepSpeed's own universal checkpoint does the same by
converting pickles, which takes a second copy on disk; these files are never executed, and are read where they lie.
"""

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pgrpo_ray.errors import CheckpointError
from pgrpo_ray.obs.checkpoint_files import local_copy

WEIGHTS, MEANS, SQUARES = "fp32", "exp_avg", "exp_avg_sq"
KINDS = (WEIGHTS, MEANS, SQUARES)
_ABOUT = "pgrpo_ray"
"""Key of the file's metadata."""


class About(BaseModel):
    """What a rank's file says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rank: int
    num_ranks: int
    num_steps: int
    """That the engine was asked for."""
    adam_steps: float
    """That Adam has counted; 0 before the first."""
    norms: list[float]
    """Gradient norms that the next ones are compared with (`gradient_guard`)."""
    skipped_in_a_row: int
    numels: dict[str, int]
    """Elements of each whole parameter."""


@dataclass(frozen=True)
class Snapshot:
    """One rank's state, in its host's memory."""

    about: About
    parts: dict[str, dict[str, torch.Tensor]]
    """By kind and parameter: this rank's part, float32 [ceil(n / num_ranks)]."""
    rng: dict[str, torch.Tensor]
    """Random states by device, uint8."""

    @property
    def file_name(self) -> str:
        """Of its file in a checkpoint."""
        return f"learner-{self.about.rank:05d}-of-{self.about.num_ranks:05d}.safetensors"

    def write(self, path: Path) -> None:
        """Write it. Raises `OSError`."""
        tensors = {f"{kind}/{name}": part for kind, parts in self.parts.items() for name, part in parts.items()}
        tensors |= {f"rng/{device}": state for device, state in self.rng.items()}
        try:
            save_file(tensors, path, {_ABOUT: self.about.model_dump_json()})
        except SafetensorError as error:  # its own name for a full disk
            raise OSError(errno.EIO, str(error)) from error


class _File(NamedTuple):
    """An open file of one rank."""

    tensors: Any
    about: About


class Shards:
    """The files of a checkpoint, to be read by one rank. A context manager: a remote one is copied for its length."""

    def __init__(self, folder: str, names: Sequence[str]):
        """`folder`: path or URL; `names`: of all ranks' files, in their order."""
        self._folder = folder
        self._file_names = names
        self._stack = contextlib.ExitStack()
        self._files: dict[int, _File] = {}
        self.num_ranks = len(names)

    def __enter__(self) -> "Shards":
        self.about = self._file(0).about
        """Of the first rank; but for `rank` that of all."""
        if self.about.num_ranks != self.num_ranks:
            raise CheckpointError(
                f"{self._folder} has the files of {self.num_ranks} learner ranks, {self.about.num_ranks} wrote it."
            )
        return self

    def __exit__(self, *_: Any) -> None:
        self._files.clear()
        self._stack.close()

    def check_fits(self, numels: Mapping[str, int]) -> None:
        """Raise `CheckpointError` unless a model with these parameters wrote it."""
        if self.about.numels != dict(numels):
            differing = sorted(set(self.about.numels.items()) ^ set(numels.items()))
            raise CheckpointError(
                f"{self._folder} is of another model: {len(differing)} parameters differ, such as {differing[0][0]!r}. "
                "policy.model must be what the run was started with."
            )

    def part(self, kind: str, name: str, rank: int, num_ranks: int) -> torch.Tensor:
        """Return a rank's part of a parameter, float32 [ceil(n / num_ranks)], padded by zeros."""
        numel = self.about.numels[name]
        size, old = -(-numel // num_ranks), -(-numel // self.num_ranks)
        first, end = rank * size, min((rank + 1) * size, numel)
        part = torch.zeros(size)
        for source, start, stop in _pieces(first, end, old):
            at = source * old + start - first
            with self._readable(source):
                part[at : at + stop - start] = self._file(source).tensors.get_slice(f"{kind}/{name}")[start:stop]
        return part

    def rng(self, rank: int) -> dict[str, torch.Tensor]:
        """Return the random states of a rank, by device; none where there was no such rank."""
        if rank >= self.num_ranks:
            return {}
        tensors = self._file(rank).tensors
        with self._readable(rank):
            names = [name for name in tensors.keys() if name.startswith("rng/")]  # noqa: SIM118 (not a mapping)
            return {name.removeprefix("rng/"): tensors.get_tensor(name) for name in names}

    def _file(self, rank: int) -> _File:
        if rank not in self._files:
            with self._readable(rank):
                path = self._stack.enter_context(local_copy(self._folder, self._file_names[rank]))
                tensors = self._stack.enter_context(safe_open(path, "pt"))
                about = About.model_validate_json((tensors.metadata() or {}).get(_ABOUT, ""))
            self._files[rank] = _File(tensors, about)
        return self._files[rank]

    @contextlib.contextmanager
    def _readable(self, rank: int) -> Iterator[None]:
        try:
            yield
        except (SafetensorError, ValueError, RuntimeError, OSError) as error:  # torch's for other sizes is the third
            raise CheckpointError(f"{self._folder}/{self._file_names[rank]} cannot be read: {error}") from error


def _pieces(first: int, end: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Where elements `first` to `end` lie in pieces of `size`: of each its number, and from where to where in it."""
    for number in range(first // size, -(-end // size) if first < end else 0):
        yield number, max(first - number * size, 0), min(end - number * size, size)
