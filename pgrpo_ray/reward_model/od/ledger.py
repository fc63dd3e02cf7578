"""The work folder of a pairs job: every answer so far, so that a job that was killed goes on where it was.

    config.json    what decides the answers; another config in the same folder is refused with what differs
    calls.jsonl    one JSON object per finished request, appended

Owns durability and exactly-once: a key stands in the file at most once, a torn last line (the process was killed while
it wrote) is cut off and its request asked again, and one process at a time may hold the folder. Texts stay on disk; in
memory are keys and places. Lines reach the kernel one by one, without a buffer that a full disk would leave behind, so
a killed process loses none; they are forced to the disk every `SYNC_LINES` lines or `SYNC_S` seconds, so a power cut
loses that much.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from pgrpo_ray.errors import ConfigError, DataError, EnvironmentFault
from pgrpo_ray.obs.disk import hold_name, write_whole

SYNC_LINES, SYNC_S = 64, 2.0


class Ledger:
    """Finished requests by key. A context manager; used by one thread."""

    def __init__(self, folder: Path, decides: dict[str, Any]):
        """Open or make `folder` for the settings `decides` (JSON values).

        Raises `ConfigError` when the folder belongs to other settings or is in use, `DataError` when it is damaged,
        `EnvironmentFault` when it cannot be written.
        """
        self.folder = folder
        self._file = folder / "calls.jsonl"
        self._places: dict[str, int] = {}
        self._end = 0
        self._unsynced, self._synced_at = 0, time.monotonic()
        with contextlib.ExitStack() as opened:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                busy = f"{folder}: another pairs job works in this folder. Wait for it, or set pairs.work=FOLDER."
                opened.enter_context(hold_name(folder / ".lock", busy, "pairs.work"))
                self._check_config(decides)
                self._stream = opened.enter_context(self._file.open("ab", buffering=0))
                self._read()
                self._reader = opened.enter_context(self._file.open("rb"))
            except OSError as error:
                message = f"{folder}: cannot be written ({error.strerror}). Set pairs.work=FOLDER."
                raise EnvironmentFault(message) from error
            self._opened = opened.pop_all()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._opened:
            try:
                self._sync()
            except OSError as error:
                if kind is None:  # else what is on its way says more
                    raise self._unwritable(error) from error

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def append(self, key: str, record: dict[str, Any]) -> None:
        """Keep one finished request. Raises `EnvironmentFault` when the disk is full; a key that is there stays."""
        if key in self._places:
            return
        line = json.dumps({"key": key, **record}).encode() + b"\n"
        place = self._end
        try:
            while line:  # a disk that becomes full takes a part, and refuses the next
                line = line[self._stream.write(line) :]
            self._end = self._stream.tell()
            self._unsynced += 1
            if self._unsynced >= SYNC_LINES or time.monotonic() - self._synced_at > SYNC_S:
                self._sync()
        except OSError as error:
            raise self._unwritable(error) from error
        self._places[key] = place

    def get(self, key: str) -> dict[str, Any]:
        """Return what was kept under `key`, which must be there."""
        self._reader.seek(self._places[key])
        return json.loads(self._reader.readline())

    def _unwritable(self, error: OSError) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self._file}: cannot be written ({error.strerror}). Free space and run the same command again: it goes "
            "on from what is there."
        )

    def _check_config(self, decides: dict[str, Any]) -> None:
        path = self.folder / "config.json"
        if not path.exists():
            write_whole(path, json.dumps(decides, indent=2) + "\n")
            return
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError("is damaged. Remove the folder, or set pairs.work=FOLDER.", str(path)) from error
        differs = [
            f"{name} was {before.get(name)!r} and is {decides.get(name)!r}"
            for name in sorted(before.keys() | decides.keys())
            if before.get(name) != decides.get(name)
        ]
        if differs:
            raise ConfigError(
                f"{self.folder} holds answers of another config: {'; '.join(differs)}. Set them back to go on, or give "
                "this job another folder with pairs.work=FOLDER (or another pairs.out).",
                path="pairs.work",
            )

    def _read(self) -> None:
        """Index what is there; cut off a torn last line."""
        self._end = 0
        with self._file.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    self._stream.truncate(self._end)
                    break
                try:
                    key = json.loads(raw)["key"]
                    if not isinstance(key, str):
                        raise TypeError("a key is text")
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    message = "is damaged: no record of a request. Remove this line, and its request is asked again."
                    raise DataError(message, str(self._file), number) from error
                self._places.setdefault(key, self._end)
                self._end += len(raw)

    def _sync(self) -> None:
        os.fsync(self._stream.fileno())
        self._unsynced, self._synced_at = 0, time.monotonic()
