"""The process sandbox: the same warden as a child process of the host, for machines without Docker.

Much weaker than Docker, and never more than a fallback for local runs. As root it drops each program to a fresh uid,
limits its number of processes and, where the kernel allows it, gives it an empty network and temporary folders of its
own. As an ordinary user it does none of that: the program runs as *you*, with your files. In both cases a seccomp
filter (`inside.doors`) leaves it no sockets but local ones; it can read every file of the host that is open to its uid,
see the host's processes, and compete with the trainer for memory and CPU: only rlimits bound it, no cgroup.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pgrpo_ray.errors import NotBegunError, SandboxError
from pgrpo_ray.sandbox import inside
from pgrpo_ray.sandbox.wire import Wire


class ProcessRunner:
    """A warden below this process. Requests of several threads are served one after another."""

    kind = "process"

    def __init__(self) -> None:
        """Start the warden. Raises `SandboxError` when it cannot be started."""
        python = _interpreter(another_uid=os.geteuid() == 0)
        self._scratch = tempfile.mkdtemp(prefix="pgrpo-sandbox-")
        # The program's uid must be able to fill the scratch. Unused where the warden gets a /tmp of its own.
        os.chmod(self._scratch, 0o1777)
        uids = _fresh_uids() if os.geteuid() == 0 else (0, 0)
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the runner
        try:
            self._process = subprocess.Popen(
                [python, *inside.command("process", self._scratch, *uids)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._stderr,
                env=inside.environment(self._scratch),
                cwd="/",
                start_new_session=True,  # the trainer's Ctrl-C is not the program's
            )
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise SandboxError(f"cannot start the process sandbox with {python}: {error}") from error
        finally:
            theirs.close()
        self._wire: Wire | None = Wire(ours, multiplexed=False)

    def run(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request, return its answer. Raise `SandboxError` when the machinery failed."""
        wire = self._wire
        if wire is None:
            raise NotBegunError("this runner is closed")
        try:
            return wire.ask(request, timeout_s)
        except NotBegunError:
            raise
        except SandboxError as error:
            raise SandboxError(f"{error}{self._last_words()}") from error

    def close(self) -> None:
        """End the warden and everything below it, remove the scratch. Idempotent; never raises."""
        wire, self._wire = self._wire, None
        if wire is None:
            return
        wire.close()
        try:
            self._process.wait(3)  # on end of file the warden kills what runs, then ends itself
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile by another thread
            self._stderr.seek(0)
            text = self._stderr.read()[-1000:].decode("utf-8", "replace").strip()
            return f"; the warden's stderr ends: {text}" if text else ""
        return ""


def _interpreter(another_uid: bool) -> str:
    """Return a base interpreter: a virtual environment would offer the trainer's packages to programs.

    With `another_uid` it must be open to every user. pyenv's and uv's below /root are not; Debian's is.
    Raises `SandboxError` when there is none.
    """
    candidates = (
        getattr(sys, "_base_executable", None) or sys.executable,
        "/usr/bin/python3",
        "/usr/local/bin/python3",
    )
    for path in (Path(candidate).resolve() for candidate in candidates):
        if path.exists() and (not another_uid or all(parent.stat().st_mode & 0o001 for parent in path.parents)):
            return str(path)
    raise SandboxError(
        f"programs run as another uid than root, which may not enter {Path(candidates[0]).parent}. Install a "
        "Python that all users can run (apt-get install python3), or run as an ordinary user, or use Docker."
    )


def _fresh_uids() -> tuple[int, int]:
    """Pick this runner's uids, first and number: beyond every account, unlikely to meet another process's runners.

    In a user namespace that maps few uids, this process's runners share out the upper part of those.
    """
    mapped = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/uid_map").read_text().splitlines():
            start, _, count = map(int, line.split())
            mapped = max(mapped, start + count)
    if mapped > 1 << 31:
        return (1 << 30) + secrets.randbelow(1 << 14) * (1 << 16), 1 << 16
    blocks = max(1, (mapped - _FIRST_OF_FEW) // _FEW)
    return _FIRST_OF_FEW + next(_BLOCKS) % blocks * _FEW, _FEW


_FIRST_OF_FEW, _FEW = 10_000, 2_000
_BLOCKS = itertools.count()
