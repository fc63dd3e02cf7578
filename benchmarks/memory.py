"""Does anything grow while a run goes on?

    .venv/bin/python benchmarks/memory.py            # 500 steps: about ten minutes on two cores

Samples, every few seconds of a real run with a checkpoint at every tenth step, the memory of its driver and of each
role's processes (unique set size: what would be freed if they ended; resident size counts the object store's pages that
a process has looked at) and the size of Ray's object store. Compares the second fifth of the run with the last one.
Writes `memory.json` and `memory.png` to `benchmarks/results/`; exits with 1 where anything grew by more than 5 % and
8 MiB.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
from live_run import PARTS, LiveRun
from provenance import RESULTS, origin

SETTINGS = {
    "rollout.prompts_per_step": 4,
    "checkpoint.every_steps": 10,
    "sandbox.backend": "docker",
    # A pool has two threads for each group that its queue holds, and each takes its stack (70 KiB) at its first group.
    # With so few all have been used before the second fifth; with the default of 4,096 that takes 256 steps.
    "sandbox.queue_programs": 128,
}
EVERY_S = 3.0
MIB = 1 << 20
GROWTH_FRAC, GROWTH_MIB = 0.05, 8.0
"""Ours: a leak of a step's rollouts, some 100 KiB, would make 40 MiB in 400 steps."""


def sizes(run: LiveRun) -> dict[str, float]:
    """Memory by part, MiB."""
    found = {"driver": psutil.Process(run.process.pid).memory_full_info().uss / MIB}
    for part in PARTS:
        found[part] = sum(psutil.Process(pid).memory_full_info().uss for pid in run.pids(part)) / MIB
    stores = [pid for pid in run.pids("all") if "raylet/raylet" in " ".join(psutil.Process(pid).cmdline())]
    # The store's pages are shared memory of the raylet, which hosts it.
    found["object store"] = sum(psutil.Process(pid).memory_info().shared for pid in stores) / MIB
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--cache", type=Path, help="of starters")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    samples: list[tuple[int, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = SETTINGS | {"run.steps": arguments.steps}
        run = LiveRun(Path(folder) / "run", [f"{key}={value}" for key, value in settings.items()], arguments.cache)
        run.start()
        try:
            run.wait(lambda: len(run.steps()) >= 1, 600, "the first step")
            while run.process.poll() is None and len(run.steps()) < arguments.steps:
                try:
                    samples.append((len(run.steps()), sizes(run)))
                except psutil.NoSuchProcess:
                    continue  # it ended between two looks
                time.sleep(EVERY_S)
        finally:
            status = (
                run.end()
                if run.process.poll() is None and len(run.steps()) < arguments.steps
                else run.process.wait(120)
            )
        if status:
            raise SystemExit(run.said()[-4000:])
    fifth = arguments.steps / 5
    growth, grew = {}, []
    for part in samples[0][1]:
        early = median(size[part] for step, size in samples if fifth <= step < 2 * fifth)
        late = median(size[part] for step, size in samples if step >= 4 * fifth)
        growth[part] = {"second_fifth_mib": round(early, 1), "last_fifth_mib": round(late, 1)}
        if late - early > max(GROWTH_MIB, GROWTH_FRAC * early):
            grew.append(part)
    results = {**origin(), "settings": settings, "growth": growth, "grew": grew, "samples": samples}
    (arguments.out / "memory.json").write_text(json.dumps(results) + "\n")
    plot(samples, arguments.out / "memory.png")
    print(json.dumps(growth, indent=1))
    if grew:
        sys.exit(f"grew: {', '.join(grew)}")


def plot(samples: list[tuple[int, dict[str, float]]], path: Path) -> None:
    """Draw every part over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for part in samples[0][1]:
        axes.plot([step for step, _ in samples], [size[part] for _, size in samples], label=part, linewidth=1)
    axes.set(xlabel="step", ylabel="MiB", ylim=(0, None), title="Memory of a run's parts")
    axes.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
