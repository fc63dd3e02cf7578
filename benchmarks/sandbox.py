"""How fast does the execution pool judge, and against what? How fair is it under load?

    .venv/bin/python benchmarks/sandbox.py              # speed, some 15 minutes on 2 cores
    .venv/bin/python benchmarks/sandbox.py --fairness   # flips of verdict under load, some 10 minutes
    .venv/bin/python benchmarks/sandbox.py --quick      # a smoke run of either, below a minute

Speed: the pool (Docker, isolation on) and the baselines of `sandbox_baselines.py` judge the same programs in short
windows that take turns, for several rounds. Machines are noisy, so a ratio is taken within a round, and the median over
rounds is what counts. No text is judged twice (each carries a number in a comment), so that no cache answers.
The pool's rate is that of one batch, as training sends it; its latencies are those of `slots` callers with one program
at a time, as the baselines' are. Every arm's verdicts must be the known ones; exits with 1 when one is not.

Writes `OUT.json` (machine, command, every window), `OUT.txt` (the tables) and `OUT.png`; `--fairness` adds `-fairness`.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sandbox_fairness
import sandbox_report
from provenance import REPOSITORY, RESULTS
from sandbox_programs import Sample, honest, mixed, plain
from sandbox_report import ARMS, NAMES, OURS, ROLES, Window

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.sandbox.docker_runner import DockerRunner
from pgrpo_ray.sandbox.image import DEFAULT_TAG
from pgrpo_ray.sandbox.plan import make_request
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.types import Problem, TestStyle

LABEL = "pgrpo-ray.benchmark"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fairness", action="store_true", help="measure flips of verdict under load instead of speed")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4], help="of every arm; the pool adds the cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=float, default=3.0, help="of one arm in one round, seconds")
    parser.add_argument("--programs", type=int, default=300, help="of --fairness")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean nothing")
    parser.add_argument("--out", type=Path, help="path without suffix; default benchmarks/results/sandbox[-fairness]")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.slots, arguments.rounds, arguments.window, arguments.programs = [1, 2], 1, 0.4, 40
    facts = machine()
    with contextlib.ExitStack() as stack:
        if arguments.fairness:
            pool = stack.enter_context(contextlib.closing(make_pool(cores())))
            cpu_s = 0.3 if arguments.quick else 1.0
            result = sandbox_fairness.measure(pool, arguments.programs, arguments.seed, cpu_s, cores())
            text, draw, ok = sandbox_fairness.table(result), sandbox_fairness.plot, sandbox_fairness.fair(result)
        else:
            result = measure_speed(stack, arguments)
            text, draw, ok = sandbox_report.tables(result), sandbox_report.plot, not result["wrong"]
    print(text)
    save({**facts, **result}, text, draw, out_path(arguments))
    return 0 if ok else 1


def out_path(arguments: argparse.Namespace) -> Path:
    """Return where results go. A smoke run must not overwrite real ones."""
    name = "sandbox-fairness" if arguments.fairness else "sandbox"
    folder = Path(tempfile.mkdtemp(prefix="pgrpo-quick-")) if arguments.quick else RESULTS
    if arguments.out is None:
        return folder / name
    return arguments.out.with_name(f"{arguments.out.name}{'-fairness' if arguments.fairness else ''}")


def save(result: dict[str, Any], text: str, draw: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_name(f"{out.name}.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    out.with_name(f"{out.name}.txt").write_text(f"{result['machine']}\n$ {result['command']}\n\n{text}\n")
    draw(result, out.with_name(f"{out.name}.png"))
    print(f"\nwritten: {out}.json, .txt, .png")


def rounded(value: Any) -> Any:
    """Cut floats to three digits, all the way down: more is noise."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def cores() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """What a reader must know to judge the numbers; no names and no paths of this machine."""
    options = [word for word in sys.argv[1:] if not word.startswith("--out=")]
    if "--out" in options:
        del options[options.index("--out") : options.index("--out") + 2]
    docker = output("docker", "version", "--format", "{{.Server.Version}}")
    inside = output("docker", "run", "--rm", "--network", "none", DEFAULT_TAG, "python3", "--version")
    return {
        "command": " ".join(["python benchmarks/sandbox.py", *options]),
        "commit": output("git", "describe", "--always", "--dirty", "--abbrev=40"),
        "machine": f"{cores()} cores, {platform.machine()}, {platform.system()} {platform.release()}, Docker {docker}",
        "python": {"pool": platform.python_version(), "image": inside, "baselines": output(interpreter(), "--version")},
        "load_before": os.getloadavg()[0],
    }


def interpreter() -> str:
    """Return the host's Python for baselines: Debian's where there is one, as the image's is of the same build."""
    return shutil.which("python3", path="/usr/bin") or sys.executable


def output(*command: str) -> str:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def make_runner() -> DockerRunner:
    return DockerRunner(DEFAULT_TAG, memory_mib=SandboxSection().memory_mib, labels={LABEL: str(os.getpid())})


def make_pool(slots: int) -> ExecutionPool:
    return ExecutionPool(make_runner, slots, retries=SandboxSection().retries)


# Speed


def measure_speed(stack: contextlib.ExitStack, arguments: argparse.Namespace) -> dict[str, Any]:
    sets = {style.value: honest(style, arguments.seed) for style in (TestStyle.STDIN, TestStyle.ASSERT)}
    sets["mixed"] = mixed(arguments.seed)
    feeders = [stack.enter_context(Feeder(sets)) for _ in range(max(arguments.slots))]
    pool_slots = sorted({*arguments.slots, cores()})
    pools = {slots: stack.enter_context(contextlib.closing(make_pool(slots))) for slots in pool_slots}
    ours = {slots: Ours(pool, slots, sets) for slots, pool in pools.items()}
    windows, wrong = [], check_baselines(feeders, 2 if arguments.quick else len(sets["mixed"]))
    turns = [(name, slots, arm) for name in sets for slots in pool_slots for arm in (OURS, *ARMS)]
    turns = [
        (name, slots, arm)
        for name, slots, arm in turns
        if arm == OURS or (slots in arguments.slots and name != "mixed")
    ]
    for name, slots, _ in (turn for turn in turns if turn[2] == OURS):
        ours[slots].warm_up(name)
    for number in range(arguments.rounds):
        start = time.monotonic()
        # Every round begins elsewhere in the same order: ratios are of neighbours, and no arm always follows the same.
        for name, slots, arm in rotated(turns, number * len(turns) // arguments.rounds):
            if arm == OURS:
                row = ours[slots].window(name, arguments.window)
            else:
                row = baseline_window(feeders[:slots], arm, name, arguments.window)
            row.round = number
            windows.append(row)
            wrong += [[f"{NAMES[arm]}, {slots} slots", *case] for case in row.wrong]
        print(f"round {number + 1} of {arguments.rounds}: {time.monotonic() - start:.0f} s", flush=True)
    return {
        "wrong": wrong,
        "empty_request_ms": empty_request_ms(),
        "summary": sandbox_report.summarize(windows),
        "windows": [sandbox_report.slim(row) for row in windows],
    }


def rotated(turns: list[Any], by: int) -> list[Any]:
    return turns[by:] + turns[:by]


class Feeder:
    """One slot of the baselines: a child with nothing in it but the standard library."""

    def __init__(self, sets: dict[str, list[Sample]]):
        script = str(Path(__file__).with_name("sandbox_baselines.py"))
        command = [interpreter(), "-I", "-S", script]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        tasks = {name: [plain(sample) for sample in samples] for name, samples in sets.items()}
        self._send({"image": DEFAULT_TAG, "sets": tasks})

    def __enter__(self) -> "Feeder":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stdin.close()
        self._child.wait(60)

    def start(self, **order: Any) -> None:
        self._send(order)

    def finish(self) -> dict[str, Any]:
        """Wait for what `start` ordered. Raises when the feeder died; its reason is on our stderr."""
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"a feeder of the baselines died with status {self._child.wait()}")
        return json.loads(line)

    def _send(self, message: dict[str, Any]) -> None:
        self._child.stdin.write(json.dumps(message) + "\n")
        self._child.stdin.flush()


def check_baselines(feeders: list[Feeder], most: int) -> list[list[str]]:
    """Hold the baselines that judge whole programs to the known verdicts, on right and wrong programs."""
    wrong = []
    for arm in ("docker_run", "docker_exec", "fork_manager", "fork_pipe"):
        row = baseline_window(feeders, arm, "mixed", 600.0, most=-(-most // len(feeders)))
        wrong += [[f"{NAMES[arm]}, mixed", *case] for case in row.wrong]
    return wrong


def baseline_window(feeders: list[Feeder], arm: str, name: str, window_s: float, most: int = 1 << 30) -> Window:
    for first, feeder in enumerate(feeders):
        feeder.start(arm=arm, set=name, first=first, step=len(feeders), window_s=window_s, most=most)
    answers = [feeder.finish() for feeder in feeders]
    # A slow program may outlast the window in one slot while the others have stopped: each slot has a rate of its own.
    rate = sum(len(answer["latencies_ms"]) / answer["seconds"] for answer in answers)
    latencies = [latency for answer in answers for latency in answer["latencies_ms"]]
    wrong = [case for answer in answers for case in answer["wrong"]]
    return Window(0, name, arm, len(feeders), len(latencies), rate, latencies, wrong)


class Ours:
    """The pool's arm."""

    def __init__(self, pool: ExecutionPool, slots: int, sets: dict[str, list[Sample]]):
        self._pool = pool
        self._slots = slots
        self._sets = sets
        self._serial = itertools.count()
        self._rates: dict[str, float] = {}

    def _next(self, name: str) -> tuple[Sample, str]:
        serial = next(self._serial)
        sample = self._sets[name][serial % len(self._sets[name])]
        return sample, f"{sample.program}\n# {self._slots} {serial}"

    def warm_up(self, name: str) -> None:
        """Learn how large a batch fills a window."""
        self._batch(name, 10 * self._slots)

    def window(self, name: str, window_s: float) -> Window:
        """Judge one batch for half of the window, then one program at a time for the other."""
        containers = container_pids()
        before = cpu_ms(containers)
        programs, wrong = self._batch(name, max(4 * self._slots, round(self._rates[name] * window_s / 2)))
        used = {role: (ms - before[role]) / programs for role, ms in cpu_ms(containers).items()}
        row = Window(0, name, OURS, self._slots, programs, self._rates[name], [], wrong, cpu_ms_per_program=used)
        slots = [
            threading.Thread(target=self._one_at_a_time, args=(name, window_s / 2, row)) for _ in range(self._slots)
        ]
        row.one_at_a_time_per_s = 0.0
        for thread in slots:
            thread.start()
        for thread in slots:
            thread.join()
        return row

    def _batch(self, name: str, count: int) -> tuple[int, list[Sequence[str | None]]]:
        items = [self._next(name) for _ in range(count)]
        start = time.perf_counter()
        judgements = self._pool.judge_many([(sample.problem, program) for sample, program in items])
        self._rates[name] = count / (time.perf_counter() - start)
        return count, [
            (sample.problem.id, judgement.verdict or judgement.error, sample.verdict)
            for (sample, _), judgement in zip(items, judgements, strict=True)
            if judgement.verdict is not sample.verdict
        ]

    def _one_at_a_time(self, name: str, window_s: float, row: Window) -> None:
        """Be one caller; appends to `row`, which the other callers share."""
        begin = end = time.perf_counter()
        count = 0
        while end - begin < window_s:
            sample, program = self._next(name)
            start = time.perf_counter()
            (judgement,) = self._pool.judge_many([(sample.problem, program)])
            end = time.perf_counter()
            count += 1
            row.latencies_ms.append((end - start) * 1000)
            row.sandbox_ms.append(judgement.duration_ms)
            if judgement.verdict is not sample.verdict:
                row.wrong.append((sample.problem.id, judgement.verdict or judgement.error, sample.verdict))
        row.one_at_a_time_per_s += count / (end - begin)


def empty_request_ms() -> float | None:
    """Return the median round trip of a request without cases: channel and engine, no program. None if refused."""
    request = make_request(Problem("empty", "", TestStyle.STDIN, ()), "", "empty")
    runner = make_runner()
    trips = []
    try:
        for _ in range(200):
            start = time.perf_counter()
            runner.run(request, 10.0)
            trips.append((time.perf_counter() - start) * 1000)
    except Exception as error:  # what a warden makes of a request that the pool never sends is its own matter
        print(f"the round trip of an empty request cannot be measured: {error}")
        return None
    finally:
        runner.close()
    return statistics.median(trips)


def container_pids() -> list[int]:
    """Return the first process of each of our containers, as the host numbers it."""
    containers = output("docker", "ps", "--quiet", "--filter", f"label={LABEL}={os.getpid()}").split()
    command = ["docker", "inspect", "--format", "{{.State.Pid}}", *containers]
    # Unchecked: a container may be replaced meanwhile.
    return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True).stdout.split()]


def cpu_ms(containers: list[int]) -> dict[str, float]:
    """Return the CPU time that each role has used since it began.

    Call it while no program runs: what then lives below a warden is its zygote, and `programs` is all that these two
    have waited for. A fork counts for the one who forks.
    """
    processes = dict(read_processes())
    parents = {pid: process[1] for pid, process in processes.items()}
    shims = {parents.get(pid) for pid in containers}
    used = dict.fromkeys(ROLES, 0.0)
    for pid, (name, _, own, waited) in processes.items():
        if pid == os.getpid():
            used["python host"] += own
        elif pid in containers:
            used["warden"] += own
            used["programs"] += waited
        elif pid in shims:
            used["shim"] += own
        elif name in ("dockerd", "containerd"):
            used[name] += own
        elif any(ancestor in containers for ancestor in ancestors(pid, parents)):
            used["zygote"] += own
            used["programs"] += waited
    return used


def read_processes() -> Iterator[tuple[int, tuple[str, int, float, float]]]:
    """Yield (pid, (name, parent, own CPU time, CPU time of children waited for)); proc(5), times in ms."""
    tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended while we looked
            head, _, tail = Path("/proc", entry, "stat").read_text().rpartition(")")
            words = tail.split()
            own, waited = int(words[11]) + int(words[12]), int(words[13]) + int(words[14])
            yield int(entry), (head.partition("(")[2], int(words[1]), own * tick_ms, waited * tick_ms)


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


if __name__ == "__main__":
    sys.exit(main())
