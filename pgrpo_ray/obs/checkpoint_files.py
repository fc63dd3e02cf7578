"""A checkpoint's files where they lie: a folder, or any URL that fsspec knows (`s3://`, `gs://`).

Owns the way of one file there and back, with its size and hash: on a disk it is written in place and synced, at a URL
it is staged on local disk first. Does not own which files make a checkpoint (`checkpoints`).
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field

from pgrpo_ray.errors import EnvironmentFault, PgrpoError
from pgrpo_ray.obs.disk import explain_full_disk


class FileFacts(BaseModel):
    """What a manifest says of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def open_storage(root: str) -> tuple[Any, str]:
    """Return the file system of a folder or URL, and its path there. Raises `EnvironmentFault`."""
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(root)
        return found
    except (ImportError, ValueError) as error:
        raise EnvironmentFault(
            f"checkpoint.dir: {root} cannot be opened: {error}. Give a folder, or install what fsspec needs for this "
            "kind of URL (s3fs for s3://, gcsfs for gs://)."
        ) from error


@contextlib.contextmanager
def explain_storage(root: str) -> Iterator[None]:
    """Turn what a disk or an object store raises into an `EnvironmentFault`, but for a file that is not there."""
    try:
        with explain_full_disk(root):
            yield
    except EnvironmentFault as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise
    except (PgrpoError, ValueError):
        raise
    except Exception as error:  # clients of object stores raise errors of their own
        if "://" not in root:
            raise
        raise EnvironmentFault(f"{root}: {type(error).__name__}: {error}") from error


def put_file(folder: str, name: str, write: Callable[[Path], Any]) -> tuple[str, FileFacts]:
    """Have `write` make the file `name`, and bring it into a draft; return it with its facts once it is safe there.

    Raises `EnvironmentFault` for a full disk.
    """
    fs, path = open_storage(folder)
    with explain_storage(folder):
        if isinstance(fs, LocalFileSystem):
            target = Path(path) / name
            write(target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
            return name, facts_of(target)
        with tempfile.TemporaryDirectory(prefix="pgrpo-checkpoint-") as stage:
            staged = Path(stage) / name
            write(staged)
            facts = facts_of(staged)
            fs.put_file(str(staged), f"{path}/{name}")
            return name, facts


@contextlib.contextmanager
def local_copy(folder: str, name: str) -> Iterator[Path]:
    """A checkpoint's file as one on this machine: itself, or a copy for the length of the block. Raises `OSError`."""
    fs, path = open_storage(folder)
    if isinstance(fs, LocalFileSystem):
        yield Path(path) / name
        return
    with tempfile.TemporaryDirectory(prefix="pgrpo-checkpoint-") as stage:
        copy = Path(stage) / name
        fs.get_file(f"{path}/{name}", str(copy))
        yield copy


def facts_of(path: Path) -> FileFacts:
    """Read a file; return its size and hash."""
    with path.open("rb") as file:
        return FileFacts(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=file.tell())
