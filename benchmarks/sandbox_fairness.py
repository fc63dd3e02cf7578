"""Do verdicts flip with load? Judges the same programs idle, then under four busy processes per core.

Most programs are right and take 30 to 85 % of their CPU limit; others exceed it, sleep below or above the wall limit,
answer wrongly, crash, or do not compile. How much work that is, is measured here at the start, inside the sandbox. So
a program means the same on a slow and on a fast machine. Part of `sandbox.py --fairness`.
"""

import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from sandbox_programs import Sample

from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.types import AssertCase, CallCase, Judgement, Limits, Problem, StdinCase, TestStyle, Verdict

OVERSUBSCRIPTION = 4
"""Busy processes per core."""
SHARES = {
    "heavy": 0.45,
    "light": 0.15,
    "wrong": 0.10,
    "sleeps": 0.08,
    "crashes": 0.08,
    "over the CPU limit": 0.08,
    "sleeps too long": 0.03,
    "does not compile": 0.03,
}
"""Of all programs."""
_BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6):\n        pass"
"""Ends also when we are killed before we can end it."""
_FACTOR, _STEP, _MODULUS = 1103515245, 12345, 1 << 31
_WORK = f"""def f(n):
    x = 1
    for _ in range(n):
        x = (x * {_FACTOR} + {_STEP}) % {_MODULUS}
    return x
"""
"""A linear congruential generator: `n` steps cost what they cost, yet their end is known without taking them."""


def worked(steps: int) -> int:
    """Return what `_WORK` returns, by squaring the step."""
    value, factor, step = 1, _FACTOR, _STEP
    while steps:
        if steps & 1:
            value = (value * factor + step) % _MODULUS
        factor, step = factor * factor % _MODULUS, (factor * step + step) % _MODULUS
        steps >>= 1
    return value


def measure(pool: ExecutionPool, count: int, seed: int, cpu_s: float, cores: int) -> dict[str, Any]:
    """Judge `count` programs idle and loaded. The wall limit keeps the proportion that the defaults have."""
    limits = Limits(cpu_s=cpu_s, wall_s=cpu_s * Limits().wall_s / Limits().cpu_s)
    steps_per_s = calibrate(pool)
    samples = make_samples(count, seed, limits, steps_per_s)
    items = [(sample.problem, sample.program) for _, sample in samples]
    print(
        f"{count} programs of {cpu_s:g} s CPU and {limits.wall_s:g} s wall at most; {steps_per_s / 1e6:.1f} M steps/s"
    )
    idle, idle_s = timed(lambda: pool.judge_many(items))
    print(f"idle: {idle_s:.0f} s", flush=True)
    with busy(OVERSUBSCRIPTION * cores):
        loaded, loaded_s = timed(lambda: pool.judge_many(items))
    print(f"loaded: {loaded_s:.0f} s", flush=True)
    pairs = zip(samples, idle, loaded, strict=True)
    return {
        "cpu_limit_s": limits.cpu_s,
        "wall_limit_s": limits.wall_s,
        "busy_processes": OVERSUBSCRIPTION * cores,
        "slots": cores,
        "million_steps_per_s": steps_per_s / 1e6,
        "idle_s": idle_s,
        "loaded_s": loaded_s,
        "programs": [row(kind, sample, calm, hurried) for (kind, sample), calm, hurried in pairs],
    }


def timed(action: Callable[[], list[Judgement]]) -> tuple[list[Judgement], float]:
    start = time.monotonic()
    result = action()
    return result, time.monotonic() - start


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` processes spinning; they are gone when the block is left, in whatever way."""
    processes = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", _BUSY], stdin=subprocess.DEVNULL))
        time.sleep(1.0)  # all are past their start
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def calibrate(pool: ExecutionPool) -> float:
    """Return how many steps of `_WORK` a second of CPU takes, one program at a time on an idle machine."""
    rates = []
    for attempt in range(5):
        used = {}
        for steps in (0, 4_000_000):
            problem = problem_of(TestStyle.CALL, f"calibrate-{attempt}", steps, worked(steps), Limits(30.0, 60.0))
            (judgement,) = pool.judge_many([(problem, f"{_WORK}# {attempt}\n")])
            if not judgement.passed:
                raise RuntimeError(f"the calibration was judged {judgement}")
            used[steps] = cpu_ms_of(judgement) / 1000
        rates.append(4_000_000 / (used[4_000_000] - used[0]))
    return statistics.median(rates)


def cpu_ms_of(judgement: Judgement) -> float:
    """Return the program's CPU time, or its wall time from a sandbox that does not tell."""
    return judgement.cpu_ms or judgement.duration_ms


def make_samples(count: int, seed: int, limits: Limits, steps_per_s: float) -> list[tuple[str, Sample]]:
    """Return (kind, program) in an order that mixes the kinds."""
    rng = random.Random(seed)
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * count))]
    kinds = (kinds + ["light"] * count)[:count]
    styles = tuple(TestStyle)
    made = [make_sample(kind, index, styles[index % 3], rng, limits, steps_per_s) for index, kind in enumerate(kinds)]
    samples = list(zip(kinds, made, strict=True))
    rng.shuffle(samples)
    return samples


def make_sample(
    kind: str, index: int, style: TestStyle, rng: random.Random, limits: Limits, steps_per_s: float
) -> Sample:
    # Of what is wrong and what crashes, half works hard before: a limit must not be met first under load.
    hard = kind == "heavy" or (kind in ("wrong", "crashes") and rng.random() < 0.5)
    share = rng.uniform(1.3, 3.0) if kind == "over the CPU limit" else rng.uniform(0.3, 0.85) if hard else 0.001
    steps = round(share * limits.cpu_s * steps_per_s)
    expected, program, verdict = worked(steps), _WORK, Verdict.PASSED
    if kind == "over the CPU limit":
        verdict = Verdict.TIME_LIMIT
    elif kind == "wrong":
        program, verdict = program.replace("return x", "return x + 1"), Verdict.WRONG_ANSWER
    elif kind == "crashes":
        program, verdict = program.replace("return x", "return [][x]"), Verdict.RUNTIME_ERROR
    elif kind == "does not compile":
        program, verdict = program.replace("return x", "return x)"), Verdict.COMPILE_ERROR
    elif kind.startswith("sleeps"):
        too_long = kind == "sleeps too long"
        sleep_s = limits.wall_s * (1.5 if too_long else rng.uniform(0.3, 0.7))
        program = "import time\n\n\n" + program.replace("x = 1", f"x = 1\n    time.sleep({sleep_s:.3f})")
        verdict = Verdict.TIME_LIMIT if too_long else Verdict.PASSED
    if style is TestStyle.STDIN:
        program += "\n\nprint(f(int(input())))\n"
    identity = f"{index} {kind} {style.value}" + (f" {100 * share:.0f} %" if share > 0.1 else "")
    return Sample(problem_of(style, identity, steps, expected, limits), program, verdict)


def problem_of(style: TestStyle, identity: str, steps: int, expected: int, limits: Limits) -> Problem:
    case = {
        TestStyle.STDIN: StdinCase(f"{steps}\n", f"{expected}\n"),
        TestStyle.CALL: CallCase([steps], expected),
        TestStyle.ASSERT: AssertCase(f"assert f({steps}) == {expected}"),
    }[style]
    return Problem(identity, "", style, (case,), entry_point="f", limits=limits)


def row(kind: str, sample: Sample, idle: Judgement, loaded: Judgement) -> dict[str, Any]:
    return {
        "id": sample.problem.id,
        "kind": kind,
        "known": sample.verdict,
        "idle": idle.verdict or idle.error,
        "loaded": loaded.verdict or loaded.error,
        "idle_cpu_ms": round(cpu_ms_of(idle)),
        "loaded_cpu_ms": round(cpu_ms_of(loaded)),
        "idle_wall_ms": round(idle.duration_ms),
        "loaded_wall_ms": round(loaded.duration_ms),
    }


def fair(result: dict[str, Any]) -> bool:
    return all(row["idle"] == row["loaded"] == row["known"] for row in result["programs"])


def table(result: dict[str, Any]) -> str:
    """Say which verdicts flipped or are wrong, and what load did to the times of each kind."""
    rows = result["programs"]
    flips = [row for row in rows if row["idle"] != row["loaded"]]
    wrong = [row for row in rows if row["idle"] == row["loaded"] != row["known"]]
    lines = [
        f"{len(rows)} programs, {result['slots']} slots: {result['idle_s']:.0f} s idle, {result['loaded_s']:.0f} s "
        f"beside {result['busy_processes']} busy processes",
        f"{len(flips)} verdicts flipped under load; {len(wrong)} were the same both times but not the known ones",
    ]
    for row in flips + wrong:
        cpu, wall = (f"{row[f'idle_{what}_ms']} -> {row[f'loaded_{what}_ms']} ms {what}" for what in ("cpu", "wall"))
        lines.append(f"  {row['id']} (known {row['known']}): {row['idle']} -> {row['loaded']}; {cpu}, {wall}")
    lines.append(
        f"{'':22}{'programs':>10}{'CPU ms idle':>14}{'loaded':>8}{'ratio':>7}{'wall ms idle':>14}{'loaded':>8}"
    )
    for kind in SHARES:
        group = [row for row in rows if row["kind"] == kind]
        if group:
            keys = ("idle_cpu_ms", "loaded_cpu_ms", "idle_wall_ms", "loaded_wall_ms")
            cpu_idle, cpu_loaded, wall_idle, wall_loaded = (
                statistics.median(row[key] for row in group) for key in keys
            )
            # Of those alone that ran equally far both times.
            ratios = [row["loaded_cpu_ms"] / max(row["idle_cpu_ms"], 1) for row in group if row not in flips]
            ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
            numbers = f"{cpu_idle:14.0f}{cpu_loaded:8.0f}{ratio:>7}{wall_idle:14.0f}{wall_loaded:8.0f}"
            lines.append(f"{kind:22}{len(group):10}{numbers}")
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw each program's time loaded over its time idle, with the limits."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5))
    for panel, what, limit_s in zip(axes, ("cpu", "wall"), ("cpu_limit_s", "wall_limit_s"), strict=True):
        for kind in SHARES:
            rows = [row for row in result["programs"] if row["kind"] == kind]
            times = [[max(row[f"{when}_{what}_ms"], 1) for row in rows] for when in ("idle", "loaded")]
            panel.scatter(*times, s=12, label=kind)
        panel.axhline(1000 * result[limit_s], color="grey", linestyle=":")
        panel.axvline(1000 * result[limit_s], color="grey", linestyle=":")
        panel.set(xlabel=f"{what} time idle, ms", ylabel=f"{what} time loaded, ms", xscale="log", yscale="log")
    axes[0].legend(fontsize="x-small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
