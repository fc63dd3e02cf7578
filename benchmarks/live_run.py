"""A real run in a process of its own, whose parts can be found and harmed.

The run is `pgrpo train cluster/local.yaml` with a tiny starter, so that a step takes a second or two; every part is
real. Parts are found by what Ray writes into their processes' titles, below the run's own process.
For `recovery.py`, `chaos.py` and `memory.py`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from provenance import REPOSITORY

TINY = "{sft_steps: 60, reward_model_steps: 10, train_problems: 200, heldout_problems: 64}"
PARTS = {
    "rollout worker": "ray::RolloutRole",
    "learner rank": "ray::LearnerRole",
    "execution pool": "ray::ExecutionRole",
    "reward replica": "ray::ServeReplica",
    "recorder": "ray::RecorderRole",
}
"""Part -> how the title of its process begins."""
MARK = "PGRPO_LIVE_RUN"
"""In the environment of all that a run starts, Ray's own processes too: the run's folder."""


class LiveRun:
    """One run's process and folder."""

    def __init__(self, folder: Path, overrides: Sequence[str] = (), cache: Path | None = None):
        """`folder`: of the run, which need not exist. `cache`: of starters."""
        self.folder = folder
        self.terminal = folder.with_name(f"{folder.name}.log")
        self._overrides = [
            f"run.dir={folder.parent}",
            f"run.name={folder.name}",
            "data.heldout_problems=8",
            "rollout.prompts_per_step=8",
            f"starter={TINY}",
            *overrides,
        ]
        mark = {MARK: str(folder)}
        self._environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"} | mark
        if cache is not None:
            self._environment["PGRPO_CACHE"] = str(cache)
        self.process: subprocess.Popen | None = None

    def start(self, *arguments: str) -> None:
        """Start it, in a process group of its own; `arguments` such as `--resume`."""
        command = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", "train", "cluster/local.yaml"]
        for override in self._overrides:
            command += ["--set", override]
        with self.terminal.open("ab") as terminal:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=REPOSITORY,
                env=self._environment,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
            )

    def said(self) -> str:
        """Return what it has printed."""
        return self.terminal.read_text(errors="replace") if self.terminal.exists() else ""

    def log(self) -> str:
        """Return what it has printed, without this machine's paths: for the record."""
        text = self.said()
        for path, name in ((self.folder.parent, "RUNS"), (REPOSITORY, "."), (sys.prefix, ".venv"), (Path.home(), "~")):
            text = text.replace(str(path), name)
        return text

    def steps(self) -> list[dict]:
        """Return the metrics of every step that it has taken; a line that is being written does not count."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.folder / "metrics.jsonl").read_text()
            return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return []

    def pids(self, part: str) -> list[int]:
        """Return the processes of a part, or of everything below the run with `all`; zombies do not count."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    title = " ".join(process.cmdline())
                    if process.status() != psutil.STATUS_ZOMBIE and (part == "all" or title.startswith(PARTS[part])):
                        found.append(process.pid)
        return found

    def left(self) -> list[str]:
        """Return what still lives of all that it started, whoever is its parent by now; zombies do not count."""
        mark, found = f"{MARK}={self.folder}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):  # a zombie has none any more
                    found.append(
                        f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()[:60]}"
                    )
        return found

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Wait for a condition while the run goes on; return the seconds. Raises `RuntimeError` with its last words."""
        began = time.monotonic()
        while not condition():
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the run ended with {self.process.returncode} before {what}:\n{self.said()[-4000:]}"
                )
            if time.monotonic() - began > timeout_s:
                raise RuntimeError(f"{what}: not within {timeout_s:g} s:\n{self.said()[-4000:]}")
            time.sleep(0.05)
        return time.monotonic() - began

    def end(self) -> int:
        """Interrupt it where it still runs, as Ctrl-C does; return its status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(60)
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()
