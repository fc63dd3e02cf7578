"""What a node can tell of a process there: its pulse, its last log lines, its stacks, whether the kernel killed it.

Plain reading of `/proc`, cgroups, logs and `py-spy`; nothing here imports ray, and nothing here raises: what cannot be
read is unknown (0, None or empty). `postmortem` and `watchdog` run it on the node that it is about.
"""

import faulthandler
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
DUMP_SIGNAL = signal.SIGUSR2
"""On which a role's process writes its stacks to its log; vLLM takes SIGUSR1 for itself."""
LOG_LINES, LOG_BYTES, LINE_CHARS = 20, 1 << 16, 300
"""Ours: the last traceback fits, and a line that is one long object does not fill the screen."""
MAX_FRAMES, MAX_THREADS = 15, 8
"""Of a stack dump, the innermost frames and the busiest threads. Ours."""
COMMAND_TIMEOUT_S = 5.0
"""For `py-spy` (20 ms here for an idle process) and `dmesg`."""
DUMP_TRIES = 3
"""`py-spy --nonblocking` reads a running process, whose frames may change meanwhile."""
DUMP_WAIT_S = 2.0
"""For a process to write its stacks after the signal."""


@dataclass(frozen=True)
class Pulse:
    """What a role's process says when it is asked whether it lives."""

    pid: int
    node_id: str
    address: str
    resident_bytes: int
    oom_kills: int | None
    """How many processes of its cgroup the kernel has killed for want of memory so far; None where unknown."""


@dataclass(frozen=True)
class Stack:
    """The Python frames of a thread, innermost first, as `file.py:12 function`; those of Ray's own are left out."""

    thread: str
    frames: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """How a process that does not answer was found."""

    state: str
    """What it does in the kernel's eyes, as words that follow "its process is"."""
    stacks: tuple[Stack, ...]
    """The thread that holds the interpreter's lock first, then those that compute, then others."""
    note: str
    """Why there are no stacks; empty where there are."""


def pulse(node_id: str, address: str) -> Pulse:
    """Return this process's pulse."""
    return Pulse(os.getpid(), node_id, address, _status_bytes("self", "VmRSS"), oom_kills())


def write_stacks_on_signal() -> None:
    """Have this process write its stacks to its log on `DUMP_SIGNAL`, for where `py-spy` may not read it."""
    with suppress(ValueError, RuntimeError, OSError):  # standard error may be no file, as in a test's capture
        faulthandler.register(DUMP_SIGNAL, all_threads=True)


def oom_kills(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """How many processes of this process's cgroup the kernel has killed for want of memory.

    Not `/proc/vmstat`: it counts the sandboxes too, whose programs are killed every day.
    """
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            places = [root / path[1:] / "memory.events"]
        elif "memory" in controllers.split(","):  # cgroup v1; a container sees its own group as the root
            places = [root / "memory" / part / "memory.oom_control" for part in (path[1:], "")]
        else:
            continue
        for place in places:
            if found := re.search(r"^oom_kill (\d+)$", _read(place), re.MULTILINE):
                return int(found[1])
    return None


def kernel_kill(pid: int) -> str:
    """The kernel's line of having killed that process for want of memory; empty where there is none.

    Kernel logs may be closed to us, and within a container their process ids are the host's.
    """
    lines = [line for line in _run(["dmesg"]).splitlines() if re.search(rf"Killed process {pid}\b", line)]
    return re.sub(r"^\[[\d. ]+\] ", "", lines[-1]) if lines else ""


def log_lines(folder: Path, worker_id: str) -> list[str]:
    """The last lines that a worker's process wrote: of standard output, then of standard error.

    Ray's own marks and C frames are left out. Each has half of `LOG_LINES`, and what the other does not need.
    """
    out, err = (
        [line for path in sorted(folder.glob(f"worker-{worker_id}-*.{kind}")) for line in _tail(path)]
        for kind in ("out", "err")
    )
    of_err = min(len(err), max(LOG_LINES // 2, LOG_LINES - len(out)))
    of_out = min(len(out), LOG_LINES - of_err)
    return out[len(out) - of_out :] + err[len(err) - of_err :]


def _tail(path: Path) -> Iterator[str]:
    for line in _read(path, from_end=LOG_BYTES).splitlines():
        line = re.sub(r"\x1b\[[\d;]*m", "", line).rstrip()
        if line and not re.match(r":(job_id|actor_name|task_name):", line) and not re.search(r"\[?0x[\da-f]{8,}", line):
            yield line if len(line) <= LINE_CHARS else line[:LINE_CHARS] + " ..."


_STATES = {
    "R": "computing or ready to",
    "S": "waiting",
    "D": "waiting within the kernel (a disk, a network file system, a device's driver or swapped-out memory)",
    "T": "stopped by a signal (SIGSTOP or SIGTSTP; SIGCONT lets it go on)",
    "t": "stopped by a debugger",
    "Z": "dead, but not yet buried",
    "X": "dead",
}


def examine(pid: int, logs: Path) -> Finding:
    """Say how that process is and where each of its threads stands. `logs`: the folder of Ray's logs."""
    found = re.search(r"^State:\s+(\S)", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
    if not found:
        return Finding("gone", (), "its process is gone.")
    state = _STATES.get(found[1], f"in state {found[1]}")
    if swapped := _status_bytes(pid, "VmSwap"):
        state += f", {swapped // MIB} MiB of it swapped out"
    stacks, note = _spied(pid)
    if note and found[1] in "Tt":
        note += " A stopped process cannot write its stacks itself."
    elif note:
        stacks, second = _written(pid, logs)
        note = f"{note} {second}" if second else ""
    if not stacks and not note:
        note = "No thread of it runs Python code but Ray's."
    return Finding(state, stacks, note)


def _spied(pid: int) -> tuple[tuple[Stack, ...], str]:
    """The stacks by `py-spy`, which works for a stopped process too, and why there are none."""
    tool = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if tool is None:
        return (), "py-spy is not installed on its node."
    for _ in range(DUMP_TRIES):
        threads = _json(_run([tool, "dump", "--nonblocking", "--json", "--pid", str(pid)]))
        if threads is not None:
            break
    else:
        return (), "py-spy cannot read it (it must run as the same user, with ptrace allowed)."
    threads.sort(key=lambda thread: (not thread["owns_gil"], not thread["active"]))
    named = (
        (
            thread["thread_name"] or str(thread["os_thread_id"]),
            [(frame["filename"], frame["line"], frame["name"].rpartition(".")[2]) for frame in thread["frames"]],
        )
        for thread in threads
    )
    return _stacks(named), ""


def _written(pid: int, logs: Path) -> tuple[tuple[Stack, ...], str]:
    """The stacks as the process writes them to its log on a signal, and why there are none."""
    caught = re.search(r"^SigCgt:\s+([\da-f]+)$", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
    log = next(iter(logs.glob(f"worker-*-{pid}.err")), None)
    if not caught or not int(caught[1], 16) >> (DUMP_SIGNAL - 1) & 1 or log is None:  # else the signal would end it
        return (), f"It does not write its stacks on {DUMP_SIGNAL.name} either."
    before, deadline = log.stat().st_size, time.monotonic() + DUMP_WAIT_S
    with suppress(OSError):
        os.kill(pid, DUMP_SIGNAL)
    text = ""
    while time.monotonic() < deadline:
        time.sleep(0.1)
        with suppress(OSError):
            text = log.read_bytes()[before:].decode(errors="replace")
        if "Current thread" in text:  # faulthandler writes this thread last
            break
    threads = []
    for part in re.split(r"^(?:Current t|T)hread ", text, flags=re.MULTILINE)[1:]:
        frames = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', part, re.MULTILINE)
        threads.append((part.split(maxsplit=1)[0], [(file, int(line), name) for file, line, name in frames]))
    return _stacks(threads), "" if threads else f"It wrote no stacks within {DUMP_WAIT_S:g} s of {DUMP_SIGNAL.name}."


_STDLIB = sysconfig.get_path("stdlib") + os.sep


def _stacks(threads: Iterable[tuple[str, list[tuple[str, int, str]]]]) -> tuple[Stack, ...]:
    """Keep the threads that run more than Ray and the standard library, and of these what tells where they are."""
    stacks = []
    for name, frames in threads:
        kept = [frame for frame in frames if not re.search(r"/ray/(_private|util/tracing)/|^<frozen ", frame[0])]
        if any(not _standard(file) for file, _, _ in kept):
            shown = [f"{_short(file)}:{line} {function}" for file, line, function in kept[:MAX_FRAMES]]
            stacks.append(Stack(name, tuple(shown)))
    return tuple(stacks[:MAX_THREADS])


def _standard(file: str) -> bool:
    return "-packages/" not in file and (file.startswith(_STDLIB) or bool(re.search(r"/lib/python3\.\d+/", file)))


def _short(file: str) -> str:
    """Cut what does not tell: the path to packages, to the standard library, to this package, or all but two parts."""
    for mark in (r".*-packages/", r".*/lib/python3\.\d+/", r".*/(?=pgrpo_ray/)"):
        if found := re.match(mark, file):
            return file[found.end() :]
    return "/".join(Path(file).parts[-2:])


def _status_bytes(pid: int | str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _read(path: Path, from_end: int | None = None) -> str:
    """The text of a file, or its last bytes; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            if from_end is not None:
                file.seek(max(0, path.stat().st_size - from_end))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _run(command: list[str]) -> str:
    """What a command prints; empty where it fails or takes too long."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _json(text: str) -> list[dict] | None:
    try:
        return json.loads(text)
    except ValueError:
        return None
