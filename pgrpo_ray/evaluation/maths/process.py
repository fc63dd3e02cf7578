"""One maths worker as its parent sees it: a process with sympy in it, requests in, answers out, and how it ended."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pgrpo_ray
from pgrpo_ray.errors import SandboxError

_START_S = 60.0
"""For a process to import sympy: half a second on a quiet machine."""


class CpuTimeLimitError(Exception):
    """The answer used up its CPU seconds."""


class Worker:
    """A worker process. Used by one thread at a time; `kill` by any."""

    def __init__(self) -> None:
        root = str(Path(pgrpo_ray.__file__).parent.parent)
        environment = {  # nothing of the parent's secrets
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "PYTHONHASHSEED": "0",  # sympy orders by hashes: the same answer, the same verdict
            "OMP_NUM_THREADS": "1",
        }
        self._child = subprocess.Popen(
            [sys.executable, "-m", "pgrpo_ray.evaluation.maths.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        assert self._child.stdin and self._child.stdout  # pipes, both
        self._asked, self._says = self._child.stdin, self._child.stdout
        self._buffer = b""

    def wait_ready(self) -> None:
        """Wait until it has imported what it needs. Raises `SandboxError`."""
        self._read(time.monotonic() + _START_S)

    def ask(self, request: dict[str, Any], wall_s: float) -> dict[str, Any]:
        """Send one request and return its answer. Raises `CpuTimeLimitError`, or `SandboxError` when it fails."""
        try:
            self._asked.write(json.dumps(request).encode() + b"\n")
            self._asked.flush()
        except (OSError, ValueError) as error:
            raise SandboxError(f"a maths judge's process is gone ({error})") from error
        return self._read(time.monotonic() + wall_s)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def kill(self) -> None:
        """End it. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(5)

    def _read(self, end: float) -> dict[str, Any]:
        """Return the next line it says."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._says, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise SandboxError("a maths judge's process was silent beyond its deadline; the machine is busy")
                piece = os.read(self._says.fileno(), 1 << 16)
                if not piece:
                    raise self._why_ended()
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _why_ended(self) -> Exception:
        try:
            status = self._child.wait(5)
        except subprocess.TimeoutExpired:
            return SandboxError("a maths judge's process closed its output")
        if status == -signal.SIGPROF:
            return CpuTimeLimitError()
        return SandboxError(
            f"a maths judge's process ended with exit status {status}. `python -m pgrpo_ray.evaluation.maths.worker` "
            "shows whether it starts; `make setup` installs what it needs."
        )
