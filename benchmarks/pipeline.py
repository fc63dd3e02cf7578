"""Do stages overlap, and how long is a step against its longest stage?

    .venv/bin/python benchmarks/pipeline.py                      # artificial stages, then the real ones: 12 minutes
    .venv/bin/python benchmarks/pipeline.py --only artificial    # 5 minutes

`artificial`: the driver as shipped, on a real local Ray, with roles that sleep: each stage takes the declared seconds
for a batch and needs nobody else's core, as on a cluster where each has machines of its own. Sampling goes at a fixed
rate however many batches are asked for; judging has four slots; what a stage needs is spread evenly over the groups.
`real`: `cluster/local.yaml`, with nothing changed but steps and staleness, in alternation. Its stages share this
machine's cores, so that what overlaps also slows down.

For each staleness (in batches ahead) the step's seconds, their ratio to the longest stage, and for how long each stage
had work and was waiting. Writes `pipeline.json`, `pipeline.png` and `pipeline-trace.json`, which ui.perfetto.dev and
chrome://tracing open. Exits with 1 where an artificial step one batch ahead takes more than `--wanted` times its
longest stage.
"""

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driver_cost import NullExecution, NullLearner, NullRecorder, NullReward, NullRollout
from provenance import REPOSITORY, RESULTS, origin

GROUPS, GROUP_SIZE, WORKERS, SLOTS = 16, 4, 2, 4
STEPS, WARM_UP = 12, 3
"""Of an artificial run. The first fill the pipeline, and while the last ones run nothing is asked for any more: both
are left out."""
REAL_STEPS, REAL_WARM_UP, REAL_REPEATS = 10, 2, 2
STAGES = ("sampling", "judging", "scoring", "learning", "sync")
CASES = {  # seconds of a batch in each stage
    "sampling is longest": (2.0, 0.8, 0.6, 1.2, 0.1),
    "learning is longest": (1.2, 0.8, 0.6, 2.0, 0.1),
    "judging is longest": (1.2, 2.0, 0.6, 1.2, 0.1),
    "all alike": (1.5, 1.5, 1.5, 1.5, 0.1),
    "a slow sync": (2.0, 0.5, 0.5, 1.0, 0.5),
}


class SlowRollout(NullRollout):
    """Samples groups at a fixed rate."""

    def __init__(self, group_s: float, load_s: float):
        self._group_s, self._load_s = group_s, load_s
        self._engine = threading.Lock()

    def generate(self, requests: list, group_size: int, temperature: float, version: int = 0, *_: Any) -> Iterator[Any]:
        """Yield a ROLLOUT table per request: the driver keeps up, so that none waits for another."""
        for table in super().generate(requests, group_size, temperature, version):
            with self._engine:
                time.sleep(self._group_s)
            yield table

    def receive_weights(self, version: int) -> int:
        """Confirm at once."""
        return version

    def load_weights(self, version: int) -> int:
        """Take as long as a sync."""
        time.sleep(self._load_s)
        return version


class SlowExecution(NullExecution):
    """Judges `SLOTS` groups at a time."""

    def __init__(self, group_s: float):
        self._group_s = group_s
        self._slots = threading.Semaphore(SLOTS)

    def judge(self, rollouts: Any) -> tuple[Any, Any]:
        """Return (VERDICT table, scalar table)."""
        with self._slots:
            time.sleep(self._group_s)
        return super().judge(rollouts)


class SlowReward(NullReward):
    """Scores one group at a time."""

    def __init__(self, group_s: float):
        self._group_s = group_s

    def score(self, rollouts: Any, rows: list[int], *rest: Any) -> Any:
        """Return the THINKING table."""
        time.sleep(self._group_s)
        return super().score(rollouts, rows, *rest)


class SlowLearner(NullLearner):
    """Learns for as long as it is told."""

    def __init__(self, rank: int, batch_s: float):
        self._rank, self._batch_s = rank, batch_s

    def update(self, share: Any, *tables: Any) -> dict[str, float]:
        """Return the report of a rank."""
        time.sleep(self._batch_s)
        return super().update(share, *tables)

    def publish(self, version: int) -> Iterator[int]:
        """Yield the version."""
        if self._rank == 0:
            yield version

    def save(self, folder: str) -> None:
        """Nothing."""


def artificial(seconds: tuple[float, ...], ahead: int, trace: Path | None) -> dict[str, Any]:
    """Run a case; return means over its steps."""
    import ray
    from rich.console import Console

    from pgrpo_ray.actors.cluster import actor_class
    from pgrpo_ray.actors.group_flow import SAMPLING
    from pgrpo_ray.actors.pools import CONTROL, ExecutionPools
    from pgrpo_ray.actors.scoring import GroupScorer
    from pgrpo_ray.actors.spawn import Fleet
    from pgrpo_ray.algo.rewards import RULES
    from pgrpo_ray.config import parse
    from pgrpo_ray.driver import Driver
    from pgrpo_ray.obs.display import Display
    from pgrpo_ray.obs.run_log import RunLog
    from pgrpo_ray.types import CallCase, Problem, TestStyle

    sampling, judging, scoring, learning, sync = seconds

    def actor(cls: type, *args: Any, **options: Any) -> Any:
        return actor_class(cls, cpus=0, threads=1, **options).remote(*args)

    with tempfile.TemporaryDirectory() as folder:
        config = parse(
            {
                "run": {"dir": folder, "name": "artificial", "steps": STEPS, "trace": trace is not None},
                "rollout": {"prompts_per_step": GROUPS, "group_size": GROUP_SIZE, "num_workers": WORKERS},
                "algo": {"max_staleness": ahead},
                "data": {"heldout_problems": 0},
                "checkpoint": {"every_steps": 0},
            }
        )
        problems = [Problem(f"p{n}", "?", TestStyle.CALL, (CallCase([], 1),), "f") for n in range(4 * GROUPS)]
        reward = actor(SlowReward, scoring / GROUPS)
        pool = actor(
            SlowExecution, judging * SLOTS / GROUPS, max_concurrency=2 * GROUPS, concurrency_groups={CONTROL: 1}
        )
        fleet = Fleet(
            pools=ExecutionPools({"pool": pool}, 4096, 600.0),
            reward=GroupScorer(reward.score.remote, 600.0, "all"),
            recorder=actor(NullRecorder),
            rollout=[
                actor(SlowRollout, sampling * WORKERS / GROUPS, sync, concurrency_groups={SAMPLING: 8})
                for _ in range(WORKERS)
            ],
            learner=[actor(SlowLearner, rank, learning) for rank in range(2)],
        )
        ray.get([one.__ray_call__.remote(lambda _: None) for one in fleet.all()])
        log, display = RunLog(config), Display(Console(file=io.StringIO()))
        encoded = {problem.id: (1, 2) for problem in problems}
        Driver(config, RULES["linear"], problems, [], encoded, fleet, log, display).run()
        log.close()
        steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
        if trace is not None:
            shutil.copy(log.folder / "trace.json", trace)
        for one in (*fleet.all(), reward):
            ray.kill(one)
    return summary(steps[WARM_UP : STEPS - ahead], max(seconds[:4]))


def summary(steps: list[dict[str, Any]], longest_s: float | None = None) -> dict[str, Any]:
    """Return means over steps, as long and short ones may alternate; `longest_s`: of the longest stage, None: as it was
    measured."""

    def mean(key: str) -> float:
        return statistics.fmean(step[key] for step in steps)

    busy = {stage: mean(f"busy_{stage}_s") for stage in STAGES}
    step_s = mean("step_s")
    longest_s = longest_s or max(busy.values())
    return {
        "step_s": step_s,
        "longest_stage_s": longest_s,
        "ratio": step_s / longest_s,
        "had_work_s": busy,
        "waited_s": {stage: step_s - value for stage, value in busy.items()},
        "staleness_max": max(step["staleness_max"] for step in steps),
        "rollouts_per_s": mean("issued") / step_s,
    }


def real(ahead: int, number: int) -> dict[str, Any]:
    """Run `cluster/local.yaml`; return means over its steps."""
    from pgrpo_ray.config import load

    file = REPOSITORY / "cluster" / "local.yaml"
    mini_batches = load(file).algo.num_mini_batches
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"run.dir={folder}", f"run.name=real-{ahead}-{number}", f"run.steps={REAL_STEPS}"]
        overrides += ["data.heldout_problems=0", f"algo.max_staleness={ahead * mini_batches}"]
        command = [str(Path(sys.executable).with_name("pgrpo")), "train", str(file)]
        command += [word for one in overrides for word in ("--set", one)]
        subprocess.run(command, check=True, cwd=REPOSITORY)
        lines = (Path(folder) / f"real-{ahead}-{number}" / "metrics.jsonl").read_text().splitlines()
        found = summary([json.loads(line) for line in lines][REAL_WARM_UP : REAL_STEPS - ahead])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["artificial", "real"])
    parser.add_argument("--ahead", type=int, nargs="+", default=[0, 1, 2], help="batches")
    parser.add_argument("--wanted", type=float, default=1.15)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures go")
    arguments = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    file = arguments.results / "pipeline.json"
    arguments.results.mkdir(parents=True, exist_ok=True)
    result = json.loads(file.read_text()) if file.is_file() else {}
    result["question"] = __doc__.splitlines()[0]
    slow: list[str] = []
    if arguments.only != "real":
        cases = all_artificial(sorted({1, *arguments.ahead}), arguments.results / "pipeline-trace.json")
        result["artificial"] = {**origin(), "cases": cases}
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        plot(cases, arguments.results / "pipeline.png")
        slow = [case for case, found in cases.items() if found["ahead 1"]["ratio"] > arguments.wanted]
        print(f"one batch ahead, more than {arguments.wanted:g} times the longest stage: {slow or 'none'}")
    if arguments.only != "artificial":
        result["real"] = {**origin(), "runs": all_real()}
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if slow else 0


def all_artificial(aheads: list[int], trace: Path) -> dict[str, Any]:
    """Run every case with every staleness."""
    import ray

    from pgrpo_ray.actors.cluster import ship_tables

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.cloudpickle.register_pickle_by_value(sys.modules["driver_cost"])
    ship_tables()
    found: dict[str, Any] = {}
    for case, seconds in CASES.items():
        found[case] = {"stages_s": dict(zip(STAGES, seconds, strict=True))}
        for ahead in aheads:
            traced = trace if (case, ahead) == ("sampling is longest", 1) else None
            one = found[case][f"ahead {ahead}"] = artificial(seconds, ahead, traced)
            print(f"{case}, {ahead} ahead: {one['step_s']:.2f} s, {one['ratio']:.2f} of the longest", flush=True)
    ray.shutdown()
    return found


def all_real() -> dict[str, Any]:
    """Run the real thing in turns; keep what each run came to."""
    runs: dict[str, list[dict[str, Any]]] = {"ahead 0": [], "ahead 1": []}
    for number in range(REAL_REPEATS):
        for ahead in (0, 1):
            one = real(ahead, number)
            runs[f"ahead {ahead}"].append(one)
            print(f"real, {ahead} ahead: {one['step_s']:.2f} s a step, {one['had_work_s']}", flush=True)
    return runs


def plot(cases: dict[str, Any], path: Path) -> None:
    """Draw for each case what a step takes against its longest stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.6))
    names = [key for key in next(iter(cases.values())) if key.startswith("ahead")]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        heights = [found[name]["ratio"] for found in cases.values()]
        places = [at + (number - (len(names) - 1) / 2) * width for at in range(len(cases))]
        bars = axes.bar(places, heights, width, label=f"{name.removeprefix('ahead ')} batches ahead")
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(cases)), list(cases), fontsize=8)
    axes.set(ylabel="step / longest stage", title="Stages with resources of their own")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
