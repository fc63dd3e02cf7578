"""A Ray cluster of several nodes on this machine, as an administrator starts one: `ray start`, a token, a dashboard.

Each node is a process tree of its own, which can be killed as a machine can be lost. One address serves them all.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

START_S = 90
QUICK = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
"""So that a node's loss is seen in two seconds instead of fifteen."""


class RayNodes:
    """The nodes; `close` ends all that they started. `env` is theirs and, with the token, for whoever joins."""

    def __init__(self, folder: Path, env: Mapping[str, str]):
        """`folder`: short, as Ray puts sockets into it."""
        self._folder = folder
        self.port, self.dashboard_port = free_port(), free_port()
        self.env = dict(os.environ | env) | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard_port}",
            "RAY_USAGE_STATS_ENABLED": "0",
            # After a node's loss the head of Ray 2.60 and its agent compute without end, here on the run's own cores.
            "RAY_enable_metrics_collection": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self._nodes: list[subprocess.Popen] = []

    def head(self, cpus: int, resources: Mapping[str, float]) -> None:
        """Start the head, with its dashboard."""
        ports = ["--head", f"--port={self.port}", f"--dashboard-port={self.dashboard_port}"]
        self._start([*ports, f"--temp-dir={self._folder}", f"--system-config={json.dumps(QUICK)}"], cpus, resources)

    def add(self, cpus: int, resources: Mapping[str, float]) -> int:
        """Start another node; return its place for `lose`."""
        # With the head's folder they would unpack what a job uploads over each other.
        own = self._folder.with_name(f"{self._folder.name}{len(self._nodes)}")
        own.mkdir()
        self._start([f"--address=127.0.0.1:{self.port}", f"--temp-dir={own}"], cpus, resources)
        return len(self._nodes) - 1

    def _start(self, arguments: list[str], cpus: int, resources: Mapping[str, float]) -> None:
        command = ["ray", "start", "--block", "--disable-usage-stats", f"--num-cpus={cpus}", *arguments]
        log = (self._folder.parent / f"{self._folder.name}-node-{len(self._nodes)}.log").open("w+")
        node = subprocess.Popen(
            [*command, f"--resources={json.dumps(resources)}"], env=self.env, stdout=log, stderr=log
        )
        self._nodes.append(node)
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in (said := Path(log.name).read_text()):
            assert node.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)

    def lose(self, node: int) -> None:
        """Kill everything of a node at once."""
        tree = [psutil.Process(self._nodes[node].pid)]
        tree += tree[0].children(recursive=True)
        for process in tree:
            process.send_signal(signal.SIGSTOP)  # or one would see another's end and act on it
        for process in tree:
            process.kill()

    def processes(self, title: str) -> list[psutil.Process]:
        """Living processes of all nodes whose title begins so, such as `ray::RolloutRole`."""
        found = []
        for node in self._nodes:
            if node.poll() is None:
                for process in psutil.Process(node.pid).children(recursive=True):
                    if process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()).startswith(title):
                        found.append(process)
        return found

    def uploads(self) -> list[Path]:
        """Folders in which the head keeps what jobs have uploaded."""
        return [path for path in self._folder.glob("session_*/runtime_resources/working_dir_files/*") if path.is_dir()]

    def run(self, *command: str, cwd: Path | None = None, timeout_s: float = 240) -> subprocess.CompletedProcess:
        """Run a command as somebody who has the token does."""
        return subprocess.run(command, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)

    def close(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self._nodes):
            if node.poll() is None:
                tree = psutil.Process(node.pid).children(recursive=True)
                node.terminate()
                try:
                    node.wait(30)
                except subprocess.TimeoutExpired:
                    node.kill()
                for process in psutil.wait_procs(tree, timeout=10)[1]:
                    process.kill()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
