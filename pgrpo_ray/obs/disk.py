"""Writing so that a failure loses nothing: files that are whole or not there, names that one process holds, room.

Owns no folder: each caller says which, and what its setting is called. Every error says what to do. A name is held by a
lock on a file, which the system lets go when the process ends, however it ends; nobody waits for it.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

from pgrpo_ray.errors import ConfigError, EnvironmentFault


@contextlib.contextmanager
def explain_full_disk(folder: Path | str) -> Iterator[None]:
    """Turn an OSError about `folder` into an `EnvironmentFault` that says what to do; written files stay."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write to {folder}: {error.strerror or error}. Free space there or name another folder (run.dir in "
            "a run; for the starter's cache PGRPO_CACHE). What was written before is kept."
        ) from error


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w", *, durable: bool = False) -> Iterator[IO[Any]]:
    """Open a draft beside `path`, which takes its name when the block ends well; after an error nothing is left of it.

    `mode`: `w` (UTF-8) or `wb`. `durable`: bytes and name are on the disk on return, and survive a power cut.
    """
    draft = _draft_of(path)
    try:
        with draft.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            if durable:  # the bytes must be safe before the name points at them
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if durable:
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk: a power cut could lose a new one else."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def keep_secret(path: Path) -> None:
    """Have a secret in the file `path`, the one that is there or a fresh one, which its owner alone can read.

    Raises `OSError`.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # 0600 from its first moment
            draft.write(secrets.token_hex(32))
            draft.flush()
            with contextlib.suppress(FileExistsError):  # another process was first, and its secret serves
                os.link(draft.name, path)
    path.chmod(0o600)


def write_out(out: Path, text: str) -> None:
    """Write what `--out` names, whole or not at all. Raises `EnvironmentFault`."""
    try:
        write_whole(out, text)
    except OSError as error:
        raise EnvironmentFault(f"--out {out}: cannot be written: {error.strerror}. Name another file.") from error


def write_json(out: Path, value: Any) -> None:
    """Write the report that `--out` names, whole or not at all. Raises `EnvironmentFault`."""
    write_out(out, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def hold_name(lock: Path, busy: str, setting: str) -> IO[str]:
    """Lock the file `lock` for this process; closing what is returned lets go.

    Raises `ConfigError` with the words `busy` about `setting` when another process holds it.
    """
    file = lock.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(busy, path=setting) from error
    return file


def first_free(numbered: Callable[[int], Path]) -> Path:
    """Return the first of `numbered(1)`, `numbered(2)`, ... that does not exist."""
    return next(path for path in map(numbered, count(1)) if not path.exists())


def move_aside(folder: Path) -> Path | None:
    """Move a folder to the first free `<name>.<n>`; return where it went, None where there was none."""
    if not folder.exists():
        return None
    return folder.rename(first_free(lambda number: folder.with_name(f"{folder.name}.{number}")))


def check_out(out: Path, setting: str = "--out", inputs: Iterable[Path] = ()) -> None:
    """Prove that the file `out` can be written, before anything expensive; make its folder. Raises `EnvironmentFault`.

    `setting`: what names the file; `inputs`: files that are read, none of which it may be (`ConfigError`).
    """
    where = f"{setting} {out}: cannot be written"
    if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
        raise ConfigError(f"{where}: it is also read, and would be overwritten. Name another file.", path=setting)
    if out.exists() and not out.is_file():
        raise EnvironmentFault(f"{where}: it exists and is no regular file. Name a file to write.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _draft_of(out).touch()
        _draft_of(out).unlink()
    except OSError as error:
        raise EnvironmentFault(f"{where}: {error.strerror}. Name another file.") from error


def check_free(folder: Path, what: str, limit: str, min_free_mib: int, fix: str) -> None:
    """Raise `EnvironmentFault` when the disk of `folder` (it exists) has less than `min_free_mib` MiB free.

    `what` and `limit` name the settings that hold the folder and the bound, `fix` how to choose another folder.
    """
    free_mib = shutil.disk_usage(folder).free >> 20
    if free_mib < min_free_mib:
        raise EnvironmentFault(
            f"{what}: {folder} has {free_mib} MiB free, {limit} asks for {min_free_mib}. Free space, choose another "
            f"folder with {fix}, or lower the limit."
        )


def _draft_of(path: Path) -> Path:
    """Return the name under which a file grows; two processes do not write into each other's."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
