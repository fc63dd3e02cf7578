"""The checkpoints of a run: folders that are whole or do not count.

    <root>/step-000012/
        manifest.json                            size and SHA-256 of every other file; its presence makes the checkpoint
        state.json                               what the driver knows (`data.run_state`)
        learner-00000-of-00002.safetensors, ...  what each rank holds (`learner.shards`)
        pending-000.arrow, ...                   rollouts that were done and not yet trained on

The root is a folder or a URL (`checkpoint_files`). On a disk a checkpoint grows under another name, is on the disk byte
for byte, and then takes its own; object stores know no renaming, so there the manifest is written last. Either way a
run that is killed leaves the checkpoints that it had.

Owns names, manifests and what is kept. Does not own what is in the files. One process begins, commits and prunes: the
one that claimed the root last, whose `owner.json` is there. Who finds another's has been replaced, by a resume that
took it for dead or by a second run of its name, and must stop. Any number of processes on any node put files into a
draft, if the root is storage that they share.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field

from pgrpo_ray.errors import CheckpointError, OwnershipError
from pgrpo_ray.obs.checkpoint_files import FileFacts, explain_storage, facts_of, local_copy, open_storage, put_file
from pgrpo_ray.obs.disk import first_free, fsync_folder

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 1
"""Of the manifest. A reader refuses what it does not know."""
_NAME = re.compile(r"step-\d{6,}")
OWNER = "owner.json"
_ME = f"process {os.getpid()} on {socket.gethostname()} ({secrets.token_hex(4)})"
"""This process, as the owner of a root: told to people, and no other process's."""


class Manifest(BaseModel):
    """What makes a folder a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    step: int = Field(ge=0)
    """Steps that had been taken."""
    value: float | None
    """Of the metric that the best checkpoint is chosen by; None where the step has none."""
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole."""

    folder: str
    """Path or URL."""
    manifest: Manifest

    @property
    def name(self) -> str:
        """Of the folder, such as `step-000012`."""
        return self.folder.rpartition("/")[2]

    def shards(self) -> list[str]:
        """Names of the ranks' files, in their order."""
        return sorted(name for name in self.manifest.files if name.startswith("learner-"))

    def state(self) -> str:
        """The text of the driver's state."""
        with local_copy(self.folder, STATE) as path:
            return path.read_text(encoding="utf-8")


class CheckpointStore:
    """All checkpoints of one run."""

    def __init__(self, root: str):
        """`root`: a folder or URL; it need not exist. Raises `EnvironmentFault` for a URL that nothing can open."""
        self._fs, self._path = open_storage(root)
        self._local = isinstance(self._fs, LocalFileSystem)
        self.root = self._path if self._local else root.rstrip("/")

    def claim(self) -> None:
        """Be the one process that writes here from now on."""
        with explain_storage(self.root):
            self._fs.makedirs(self._path, exist_ok=True)
            put_file(self.root, OWNER, lambda path: path.write_text(json.dumps({"owner": _ME}), "utf-8"))

    def check_owner(self) -> None:
        """Raise `OwnershipError` when another process has claimed the root since; claim one that nobody has."""
        try:
            with explain_storage(self.root), local_copy(self.root, OWNER) as path:
                owner = json.loads(path.read_text(encoding="utf-8"))["owner"]
        except FileNotFoundError:
            self.claim()
            return
        except (ValueError, KeyError):  # it is being written
            owner = "somebody"
        if owner != _ME:
            raise OwnershipError(
                f"{self.root} has been taken over by {owner}: a resume of this run, or another run of its name. This "
                "process stops and leaves the checkpoints alone. Give each run a run.name or checkpoint.dir of its own."
            )

    def names(self) -> list[str]:
        """Return the names of all checkpoints, whole or damaged, oldest first."""
        with explain_storage(self.root):
            self._fs.invalidate_cache()
            if not self._fs.exists(self._path):
                return []
            found = [Path(path).name for path in self._fs.ls(self._path, detail=False)]
            names = sorted((name for name in found if _NAME.fullmatch(name)), key=_step_of)
            if self._local:
                return names
            return [name for name in names if self._fs.exists(f"{self._path}/{name}/{MANIFEST}")]

    def begin(self, step: int) -> str:
        """Return an empty draft, to be filled by `put_file` and then committed."""
        name = _name_of(step)
        with explain_storage(self.root):
            if self._local:
                draft = Path(self._path) / f".{name}.tmp"
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
                return str(draft)
            # What an earlier attempt left must not count while it is overwritten.
            if self._fs.exists(f"{self._path}/{name}/{MANIFEST}"):
                self._fs.rm(f"{self._path}/{name}/{MANIFEST}")
            return f"{self.root}/{name}"

    def commit(self, draft: str, step: int, files: Mapping[str, FileFacts], value: float | None = None) -> str:
        """Make a draft a checkpoint; return its name. `files`: all that were put into it.

        Raises `CheckpointError` when a file is not where this process sees it, `EnvironmentFault` for a full disk.
        """
        manifest = Manifest(format=FORMAT, step=step, value=value, files=dict(files))
        name = _name_of(step)
        with explain_storage(self.root):
            self._fs.invalidate_cache()
            for file, facts in files.items():
                _check_size(self._fs, f"{open_storage(draft)[1]}/{file}", facts)
            put_file(draft, MANIFEST, lambda path: path.write_text(manifest.model_dump_json(indent=1), "utf-8"))
            if self._local:
                final, old = Path(self._path) / name, Path(self._path) / f".{name}.old"
                if final.exists():  # the step is taken a second time, after a resume from an earlier one
                    final.rename(old)
                Path(draft).rename(final)
                fsync_folder(final.parent)
                shutil.rmtree(old, ignore_errors=True)
        return name

    def drop(self, draft: str) -> None:
        """Remove a draft that will not be committed."""
        if self._local:
            shutil.rmtree(draft, ignore_errors=True)
        else:
            with contextlib.suppress(Exception):  # what could not be written may not be removed either
                self._fs.rm(open_storage(draft)[1], recursive=True)

    def open(self, name: str | None = None) -> Checkpoint:
        """Return the checkpoint of that name, or the newest, after every file was read and compared.

        Raises `CheckpointError` when there is none or it is damaged, naming the next older one that is whole.
        """
        names = self.names()
        if not names:
            raise CheckpointError(
                f"there is no checkpoint in {self.root}. Start the run without --resume; it writes one every "
                "checkpoint.every_steps."
            )
        if name is None:
            name = names[-1]
        elif name not in names:
            raise CheckpointError(f"there is no checkpoint {name!r} in {self.root}; there are: {', '.join(names)}.")
        try:
            return self._checked(name)
        except CheckpointError as error:
            older = self.newest_whole(names[: names.index(name)])
            offer = "No older one is whole."
            if older is not None:
                offer = f"The next older one that is whole: --resume-from {older.name}"
            raise CheckpointError(f"{error} {offer}") from error

    def newest_whole(self, names: list[str] | None = None) -> Checkpoint | None:
        """Return the newest of `names` (all unless given) that is whole."""
        for name in reversed(self.names() if names is None else names):
            with contextlib.suppress(CheckpointError):
                return self._checked(name)
        return None

    def supersede(self, step: int) -> list[str]:
        """Move checkpoints of later steps out of the way, as a run goes on from `step`; return their names.

        On an object store, which cannot move, only their manifests take another name.
        """
        later = [name for name in self.names() if _step_of(name) > step]
        with explain_storage(self.root):
            for name in later:
                if self._local:
                    folder = Path(self._path) / name
                    folder.rename(first_free(partial(_superseded, folder)))
                else:
                    manifest = f"{self._path}/{name}/{MANIFEST}"
                    self._fs.copy(manifest, f"{manifest}.superseded")
                    self._fs.rm(manifest)
        return later

    def prune(self, keep: int, *, highest: bool) -> list[str]:
        """Remove all but the last `keep` and the best by value; return what was removed."""
        names = self.names()
        best = self.best(names, highest=highest)
        removed = [name for name in names[:-keep] if name != best]
        with explain_storage(self.root):
            for name in removed:
                self._remove(name)
        return removed

    def best(self, names: list[str], *, highest: bool) -> str | None:
        """Return the best of `names` by value, of equals the later; None where none has a value."""
        values = {}
        for name in names:
            with contextlib.suppress(CheckpointError):
                value = self._manifest(name).value
                if value is not None:
                    values[name] = value if highest else -value
        return max(values, key=lambda name: (values[name], name), default=None)

    def _remove(self, name: str) -> None:
        path = f"{self._path}/{name}"
        if self._local:  # not half of one, should this be the last thing that the process does
            path = str(Path(path).rename(Path(self._path) / f".{name}.old"))
        else:
            self._fs.rm(f"{path}/{MANIFEST}")
        self._fs.rm(path, recursive=True)

    def _manifest(self, name: str) -> Manifest:
        where = f"{self.root}/{name}"
        try:
            with explain_storage(self.root), local_copy(where, MANIFEST) as path:
                manifest = Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise CheckpointError(f"{where} has no {MANIFEST}, so it is not whole.") from error
        except ValueError as error:  # pydantic's is one
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"{where}/{MANIFEST} cannot be read: {reason}.") from error
        if manifest.format != FORMAT:
            raise CheckpointError(
                f"{where} has format {manifest.format}, this version of pgrpo_ray reads {FORMAT}. Use the version that "
                "wrote it."
            )
        strange = [file for file in manifest.files if Path(file).name != file or file in (".", "..")]
        if strange or STATE not in manifest.files or manifest.step != _step_of(name):
            raise CheckpointError(f"{where}/{MANIFEST} is not one of ours: {strange or 'no state, or another step'}.")
        return manifest

    def _checked(self, name: str) -> Checkpoint:
        manifest, folder = self._manifest(name), f"{self.root}/{name}"
        for file, facts in manifest.files.items():
            try:
                with explain_storage(self.root), local_copy(folder, file) as path:
                    found = facts_of(path)
            except FileNotFoundError as error:
                raise CheckpointError(f"{folder}/{file} is missing.") from error
            if found != facts:
                raise CheckpointError(
                    f"{folder}/{file} is damaged: it has {found.bytes} bytes and SHA-256 {found.sha256[:12]}..., the "
                    f"manifest says {facts.bytes} and {facts.sha256[:12]}..."
                )
        return Checkpoint(folder, manifest)

    def tidy(self) -> None:
        """Undo what a process left that was killed while it wrote or pruned; for who holds the run's name."""
        if not self._local:
            with explain_storage(self.root):
                self._fs.invalidate_cache()
                for path in self._fs.ls(self._path, detail=False) if self._fs.exists(self._path) else []:
                    manifest = f"{path.rstrip('/')}/{MANIFEST}"
                    kept = self._fs.exists(manifest) or self._fs.exists(f"{manifest}.superseded")
                    if _NAME.fullmatch(Path(path).name) and not kept:
                        self._fs.rm(path, recursive=True)
            return
        with explain_storage(self.root):
            for left in Path(self._path).glob(".step-*.old"):
                name = left.name[1 : -len(".old")]
                final, draft = left.with_name(name), left.with_name(f".{name}.tmp")
                if draft.exists() and not final.exists():  # between the two renames of a commit
                    left.rename(final)
                else:
                    shutil.rmtree(left, ignore_errors=True)
            for left in Path(self._path).glob(".step-*.tmp"):
                shutil.rmtree(left, ignore_errors=True)


def _superseded(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}.superseded.{number}")


def _check_size(fs: Any, path: str, facts: FileFacts) -> None:
    try:
        found = fs.size(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} was written, but is not to be seen from the driver's node. checkpoint.dir must be storage that "
            "all nodes with learner ranks share."
        ) from error
    if found != facts.bytes:
        raise CheckpointError(f"{path} has {found} bytes, {facts.bytes} were written.")


def _name_of(step: int) -> str:
    return f"step-{step:06d}"


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))
