"""Does it hold? Judges many programs while containers are killed under it, and looks for whatever grows.

    .venv/bin/python benchmarks/sandbox_soak.py --programs 20000 --slots 2

The programs have known verdicts: generated right, wrong, crashing and looping ones (`tests/integration/
test_judge_property.py`), abusers of every limit, and the hostile table (`hostile_programs.py`, its known gaps left
out). Meanwhile a thread kills a random container of the pool by label every few seconds, and now and then a process
below a warden, from outside. Every verdict is compared, every error that is left after retries counted. Along the way
and at the end: memory, threads and descriptors of this process, containers, their shims and the processes right below
those, files in the temporary folder.

Writes events and samples to `<out>.jsonl`, the summary with machine and command to `<out>.txt`. Exits with 1 on a wrong
verdict, an error, or a leak.
"""

import argparse
import collections
import dataclasses
import gc
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
from provenance import REPOSITORY, RESULTS, commit, machine, output

sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "integration")]

from hostile_programs import GAPS, PROGRAMS  # noqa: E402 - found through the line above
from test_judge_property import generate  # noqa: E402

from pgrpo_ray.sandbox.docker_runner import DockerRunner  # noqa: E402
from pgrpo_ray.sandbox.image import DEFAULT_TAG, ensure_image  # noqa: E402
from pgrpo_ray.sandbox.pool import ExecutionPool  # noqa: E402
from pgrpo_ray.types import Limits, Problem, StdinCase, TestStyle, Verdict  # noqa: E402

LABEL = "pgrpo-ray.soak"
CONTAINER_MIB = 256
RETRIES = 8
"""More than a pool has in a run: here a container dies every few seconds."""
GROWTH_MIB = 24
"""Resident memory that this process may gain after its first chunks. Ours: allocator noise, far below a leak per
program."""
SMALL = Limits(cpu_s=1.0, wall_s=1.0, memory_mib=64, output_kib=16)
ABUSERS = (
    ("x = []\nwhile True: x.append(bytearray(1 << 20))", Verdict.MEMORY_LIMIT),
    ("x = 'x'\nwhile True: x += x", Verdict.MEMORY_LIMIT),
    ("while True: print('x' * 999)", Verdict.OUTPUT_LIMIT),
    ("import sys\nwhile True: sys.stderr.write('x' * 999)", Verdict.OUTPUT_LIMIT),
    ("import time\ntime.sleep(60)", Verdict.TIME_LIMIT),
    ("import os\nos.kill(os.getpid(), 11)", Verdict.RUNTIME_ERROR),
    ("import os\nos._exit(0)", Verdict.WRONG_ANSWER),
    ("open('/tmp/big', 'wb').write(bytes(31 << 20))\nprint('ok')", Verdict.PASSED),
)


@dataclasses.dataclass(frozen=True)
class Known:
    """A program and the verdicts that are right for it."""

    name: str
    problem: Problem
    program: str
    allowed: frozenset[Verdict]


@dataclasses.dataclass(frozen=True)
class Sample:
    """What may not grow, at one moment."""

    judged: int
    rss_mib: float
    threads: int
    descriptors: int
    containers: int
    shims: int
    """Of containers that were ever ours."""
    inside: int
    """Host processes whose parent is one of those shims: the wardens."""
    files: int
    """Below this process's temporary folder."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill-every", type=float, default=3.0, help="seconds between kills, on average; 0 = none")
    parser.add_argument("--process-kills", type=float, default=0.25, help="share that hits a warden's child instead")
    parser.add_argument("--chunk", type=int, default=250, help="programs handed to the pool at once")
    parser.add_argument("--out", type=Path, default=RESULTS / "sandbox-soak")
    arguments = parser.parse_args()
    ensure_image()
    with tempfile.TemporaryDirectory(prefix="pgrpo-soak-") as folder:
        tempfile.tempdir = folder  # whatever the pool forgets is then counted, and removed
        with arguments.out.with_suffix(".jsonl").open("w") as log:
            summary, sound = soak(arguments, log)
        tempfile.tempdir = None
    arguments.out.with_suffix(".txt").write_text(summary)
    print(summary, end="")
    return 0 if sound else 1


def soak(arguments: argparse.Namespace, log) -> tuple[str, bool]:
    """Run it all. Returns the summary and whether every check held."""
    owner = f"{os.getpid()}-{arguments.seed}"
    scout = Scout(owner)
    before = scout.sample(0)
    pool = ExecutionPool(
        lambda: DockerRunner(DEFAULT_TAG, memory_mib=CONTAINER_MIB, labels={LABEL: owner}), arguments.slots, RETRIES
    )
    killer = Killer(owner, arguments.kill_every, arguments.process_kills, arguments.seed)
    verdicts: collections.Counter[str] = collections.Counter()
    wrong, errors, samples, start = [], [], [], time.monotonic()
    killer.start()
    try:
        for chunk in chunks(programs(arguments.seed), arguments.programs, arguments.chunk):
            for known, judgement in zip(chunk, pool.judge_many([(k.problem, k.program) for k in chunk]), strict=True):
                verdicts[str(judgement.verdict)] += 1
                if judgement.verdict in known.allowed:
                    continue
                blamed = judgement.detail.endswith("signal 9")  # it may have been our own kill
                name = f"{known.name} (killed by signal 9)" if blamed else known.name
                (errors if judgement.verdict is None else wrong).append(name)
                event = {"name": known.name, "program": known.program, "allowed": sorted(known.allowed)}
                record(log, "wrong", {**event, "judgement": dataclasses.asdict(judgement)})
            samples.append(scout.sample(sum(verdicts.values())))
            record(log, "sample", {"seconds": round(time.monotonic() - start, 1), **dataclasses.asdict(samples[-1])})
    finally:
        killer.stop()
        pool.close()
    seconds = time.monotonic() - start
    after = scout.last()
    record(log, "after", dataclasses.asdict(after))
    leaks = grown(before, samples, after, arguments.slots)
    rows = (before, *samples, after)
    summary = summarize(arguments, verdicts, wrong, errors, leaks, killer.killed, len(scout.ours), rows, seconds)
    return summary, not (wrong or errors or leaks)


def programs(seed: int) -> Iterator[Known]:
    """Yield programs without end: of ten, about seven generated, one abuser, two hostile."""
    rng = random.Random(seed)
    generated = (known for number in range(10_000 * seed + 1000, sys.maxsize) for known in generate(number))
    # Each case of a program that must run into its time limit takes a second or more: those are drawn less often.
    hostile = [item for item in PROGRAMS if item.name not in GAPS]
    weights = [0.1 if Verdict.TIME_LIMIT in item.allowed and len(item.allowed) < 4 else 1.0 for item in hostile]
    while True:
        kind = rng.choices(["generated", "abuser", "hostile"], [7, 1, 2])[0]
        if kind == "generated":
            item = next(generated)
            yield Known("generated", item.problem, item.program, frozenset([item.verdict]))
        elif kind == "abuser":
            program, verdict = rng.choice(ABUSERS)
            problem = Problem("abuser", "", TestStyle.STDIN, (StdinCase("", "ok"), StdinCase("", "ok")), limits=SMALL)
            yield Known("abuser", problem, program, frozenset([verdict]))
        else:
            item = rng.choices(hostile, weights)[0]
            yield Known(item.name, item.problem, item.program, item.allowed)


def chunks(stream: Iterator[Known], total: int, size: int) -> Iterator[list[Known]]:
    """Cut the first `total` items into lists of `size`."""
    for start in range(0, total, size):
        yield [next(stream) for _ in range(min(size, total - start))]


class Killer(threading.Thread):
    """Kills random containers of `owner`, and now and then a process below a warden, until stopped."""

    def __init__(self, owner: str, every_s: float, process_share: float, seed: int):
        super().__init__(daemon=True)
        self.killed: collections.Counter[str] = collections.Counter()
        self._filters = {"label": f"{LABEL}={owner}"}
        self._every_s = every_s
        self._process_share = process_share
        self._rng = random.Random(seed)
        self._stopped = threading.Event()

    def run(self) -> None:
        while self._every_s and not self._stopped.wait(self._every_s * self._rng.uniform(0.5, 1.5)):
            try:
                with closing(docker.from_env()) as engine:
                    target = self._kill(engine)
            except (docker.errors.DockerException, IndexError, ProcessLookupError):
                continue  # none to be found, or gone meanwhile
            self.killed[target] += 1

    def _kill(self, engine: docker.DockerClient) -> str:
        """Kill one thing; return what it was."""
        container = self._rng.choice(engine.containers.list(filters=self._filters))
        if self._rng.random() >= self._process_share:
            container.kill()
            return "container"
        warden = container.attrs["State"]["Pid"]
        rows = container.top(ps_args="-o pid,ppid")["Processes"]
        os.kill(self._rng.choice([int(pid) for pid, parent in rows if int(parent) == warden]), signal.SIGKILL)
        return "process"

    def stop(self) -> None:
        """End the killing; returns when no kill is under way."""
        self._stopped.set()
        self.join()


class Scout:
    """Counts what a leak would make more of."""

    def __init__(self, owner: str):
        self.ours: set[str] = set()
        """Ids of all containers that ever carried the label."""
        self._filters = {"label": f"{LABEL}={owner}"}
        self._since = int(time.time())

    def sample(self, judged: int) -> Sample:
        """Look once."""
        gc.collect()
        now = int(time.time())
        # The engine remembers a few hundred events: enough from one sample to the next.
        with closing(docker.from_env()) as engine:  # afresh: a client keeps up to ten connections open
            for event in engine.events(since=self._since, until=now, filters=self._filters, decode=True):
                self.ours.add(event["Actor"]["ID"])
            containers = engine.containers.list(all=True, filters=self._filters, ignore_removed=True)
        self._since = now
        self.ours |= {container.id for container in containers}
        shims, inside = self._processes()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Sample(
            judged=judged,
            rss_mib=round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1),
            threads=len(os.listdir("/proc/self/task")),
            descriptors=len(os.listdir("/proc/self/fd")),
            containers=len(containers),
            shims=shims,
            inside=inside,
            files=sum(1 for _ in Path(tempfile.gettempdir()).rglob("*")),
        )

    def last(self) -> Sample:
        """Look until nothing is left, at most 15 seconds: the engine removes what has ended in its own time."""
        deadline = time.monotonic() + 15
        while True:
            sample = self.sample(-1)
            if time.monotonic() > deadline or not (sample.containers or sample.shims or sample.inside):
                return sample
            time.sleep(0.2)

    def _processes(self) -> tuple[int, int]:
        shims, parents = set(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                parents.append(int((folder / "stat").read_text().rpartition(")")[2].split()[1]))
            except OSError:
                continue  # ended while we looked
            if "containerd-shim" in words[0] and self.ours & set(words):
                shims.add(int(folder.name))
        return len(shims), sum(parent in shims for parent in parents)


def grown(before: Sample, samples: list[Sample], after: Sample, slots: int) -> list[str]:
    """Say what grew: during the run beyond what its slots need, or after it beyond what was there before."""
    leaks = []
    warm, end = samples[min(len(samples) - 1, len(samples) // 5)], samples[-1]
    if end.rss_mib > warm.rss_mib + GROWTH_MIB:
        leaks.append(f"resident memory grew from {warm.rss_mib} to {end.rss_mib} MiB")
    # A slot may be between two containers: its old one is going while its new one comes.
    for name, most in (("containers", 2 * slots), ("shims", 2 * slots), ("inside", 2 * slots)):
        if (most_seen := max(getattr(sample, name) for sample in samples)) > most:
            leaks.append(f"{name}: up to {most_seen}")
    for name in ("threads", "descriptors"):
        if getattr(end, name) > getattr(warm, name) + 4 * slots:
            leaks.append(f"{name} grew from {getattr(warm, name)} to {getattr(end, name)}")
    for name in ("threads", "descriptors", "containers", "shims", "inside", "files"):
        if getattr(after, name) > getattr(before, name):
            leaks.append(f"{name}: {getattr(after, name)} left, {getattr(before, name)} before")
    return leaks


def record(log, kind: str, content: dict) -> None:
    log.write(json.dumps({"event": kind, **content}, default=str) + "\n")
    log.flush()


def summarize(arguments, verdicts, wrong, errors, leaks, killed, made, samples, seconds) -> str:
    """The text for people."""
    judged = sum(verdicts.values())
    with closing(docker.from_env()) as client:
        engine = client.version()
    options = f"--programs {arguments.programs} --slots {arguments.slots} --seed {arguments.seed}"
    lines = [
        f"command: python benchmarks/sandbox_soak.py {options} --kill-every {arguments.kill_every:g} "
        f"--process-kills {arguments.process_kills:g} --chunk {arguments.chunk}",
        f"commit: {commit()}{' with changes' if output('git', 'status', '--short') else ''}",
        f"machine: {machine()}, Python {platform.python_version()}, Docker {engine['Version']}",
        f"judged: {judged} programs in {seconds:.0f} s, {judged / seconds:.1f} programs/s on {arguments.slots} slots",
        "verdicts: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()),
        f"killed from outside: {killed['container']} containers, {killed['process']} processes below a "
        f"warden; {made} containers made",
        f"wrong verdicts: {len(wrong)}{told(wrong)}",
        f"errors after {RETRIES} retries: {len(errors)}{told(errors)}",
        "leaks: " + ("; ".join(leaks) or "none"),
        "",
        "  judged  rss MiB  threads  descriptors  containers  shims  inside  files",
    ]
    before, *middle, after = samples
    shown = [("before", before), *((str(sample.judged), sample) for sample in thinned(middle, 20)), ("after", after)]
    for name, row in shown:
        lines.append(
            f"{name:>8} {row.rss_mib:>8} {row.threads:>8} {row.descriptors:>12} {row.containers:>11} {row.shims:>6} "
            f"{row.inside:>7} {row.files:>6}"
        )
    return "\n".join(lines) + "\n"


def told(names: list[str]) -> str:
    """Which, and how often."""
    counted = ", ".join(f"{count} {name}" for name, count in collections.Counter(names).most_common())
    return f": {counted}" if counted else ""


def thinned(rows: list, most: int) -> list:
    """About `most` of `rows`, evenly spaced, the last among them."""
    step = max(1, len(rows) // most)
    return rows[::-1][::step][::-1]


if __name__ == "__main__":
    sys.exit(main())
