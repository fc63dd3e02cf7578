"""What does the driver itself spend on a rollout, and does it stay linear?

    .venv/bin/python benchmarks/driver_cost.py                      # 1k, 10k and 100k rollouts a step
    .venv/bin/python benchmarks/driver_cost.py --before FOLDER      # alternates with another checkout's pgrpo_ray

The driver runs as shipped, on a real local Ray, with roles that do nothing: rollout workers stream prepared groups,
verdicts and scores come from tables, the learner only counts tokens, nothing is published or written. What is left is
the driver. Counted is CPU time of its thread (`time.thread_time`), by part and without the parts inside; waiting costs
none. `process` adds the threads that Ray keeps beside it. In `no Ray`, the same driver runs on roles in its own
process, whose calls return at once: its own Python, without what Ray's calls cost. Roles themselves are not counted.

Every size runs in a process of its own. Writes `driver-cost.json` and `.png`. Exits with 1 when the largest size costs
more than `--wanted-us` a rollout, or cost grows faster than N to the 1.1.
"""

import argparse
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from provenance import REPOSITORY, RESULTS, origin

STEPS = 3
"""Per measurement; the first warms up, the fastest of the others counts."""
PARTS = {
    "take": "groups from rollout workers, and the loop around them",
    "wait": "asking which results are ready",
    "judge": "handing groups to the execution pool and taking verdicts",
    "score": "handing groups to the reward server and taking scores",
    "reward": "scalars to numpy, rewards, advantages",
    "metrics": "the step's numbers",
    "write": "handing the batch to the recorder",
    "plan": "the update plan and its checks",
    "shares": "each rank's share and its hand-over",
}


class Clock:
    """CPU time of this thread by part, nested parts taken out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def part(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `function` so that its time counts as `name`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._open.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._open.pop()

        return timed

    def _switch(self) -> None:
        now = time.thread_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def watch(clock: Clock) -> None:
    """Have the driver's parts counted."""
    from pgrpo_ray import driver
    from pgrpo_ray.actors import pools, scoring, waits

    cls = driver.Driver
    methods = {"_reward": "reward", "_write": "write", "_check_conservation": "plan", "_settle": "plan"}
    methods |= {"_check_trained": "plan", "_learn": "shares", "_collect": "take", "_sample": "take"}
    for name, part in methods.items():
        if hasattr(cls, name):  # another checkout may have it elsewhere
            setattr(cls, name, clock.part(part, getattr(cls, name)))
    functions = {"reward_groups": "reward", "check_trained": "plan", "plan_update": "plan", "share_of": "shares"}
    for name, part in (functions | {"batch_metrics": "metrics"}).items():
        if hasattr(driver, name):
            setattr(driver, name, clock.part(part, getattr(driver, name)))
    waits.wait_any = clock.part("wait", waits.wait_any)
    for name in ("judge", "answer", "again"):
        setattr(pools.ExecutionPools, name, clock.part("judge", getattr(pools.ExecutionPools, name)))
    for name in ("score", "answer"):
        setattr(scoring.GroupScorer, name, clock.part("score", getattr(scoring.GroupScorer, name)))
    cls._publish = lambda *_, **__: None  # weights are no cost per rollout


# roles that do nothing


class NullRollout:
    """Streams one prepared group again and again, under each request's problem.

    All groups are there at once, so that as many travel together as the driver allows.
    """

    def generate(
        self, requests: list, group_size: int, temperature: float, version: int = 0, name: str = "", together: int = 1
    ) -> Iterator[Any]:
        """Yield ROLLOUT tables of up to `together` groups."""
        import pyarrow as pa

        from pgrpo_ray.data import arrow

        rng = np.random.default_rng(0)
        tokens = [rng.integers(0, 1000, size).astype(np.int32) for size in rng.integers(16, 64, group_size)]
        same = {
            "policy_version": version,
            "prompt": "p",
            "prompt_ids": [1, 2],
            "response": "r",
            "finish_reason": "stop",
        }
        same |= {"versions": [version], "version_starts": [0]}
        same |= {"problem_id": "", "format_ok": True, "thinking": "t", "program": "x"}
        columns = {column: [value] * group_size for column, value in same.items()}
        columns |= {"sample_index": list(range(group_size)), "response_ids": tokens}
        columns |= {"rollout_logprobs": [np.full(len(ids), -0.5, np.float32) for ids in tokens]}
        # Another checkout may have fewer columns.
        group = arrow.build_table(arrow.ROLLOUT_SCHEMA, {one: columns[one] for one in arrow.ROLLOUT_SCHEMA.names})
        whole, field = pa.concat_tables([group] * together).combine_chunks(), group.schema.field("problem_id")
        for start in range(0, len(requests), together):
            ids = [request.problem_id for request in requests[start : start + together] for _ in range(group_size)]
            yield whole.slice(0, len(ids)).set_column(0, field, pa.array(ids))


class NullExecution:
    """Passes some, loses a few, as the row says."""

    def judge(self, rollouts: Any) -> tuple[Any, Any]:
        """Return (VERDICT table, scalar table)."""
        import zlib

        from pgrpo_ray.data import arrow
        from pgrpo_ray.data.scalars import scalar_table
        from pgrpo_ray.types import Judgement, Verdict

        passed, failed = (
            Judgement(Verdict.PASSED, 3, 3, 1.0, "docker"),
            Judgement(Verdict.WRONG_ANSWER, 1, 3, 1.0, "docker"),
        )
        lost = Judgement(None, 0, 3, 1.0, "docker", error="gone")
        rows, places = [], zip(rollouts["problem_id"].to_pylist(), rollouts["sample_index"].to_pylist(), strict=True)
        for problem, sample in places:
            luck = zlib.crc32(problem.encode())
            rows.append(lost if luck % 20 == sample == 0 else passed if (luck >> sample) & 1 else failed)
        verdicts = arrow.verdict_table(rows)
        return verdicts, scalar_table(rollouts, verdicts)

    def stats(self) -> Any:
        """Nothing."""
        return SimpleNamespace(cache_hits=0, cache_lookups=0, restarts=0)


class NullReward:
    """Scores by row."""

    def score(self, rollouts: Any, rows: list[int], *_: Any) -> Any:
        """Return the THINKING table."""
        from pgrpo_ray.data.scalars import thinking_table

        return thinking_table(rollouts.num_rows, {row: row / rollouts.num_rows for row in rows})


class NullLearner:
    """Counts its tokens."""

    def update(self, share: Any, *tables: Any) -> dict[str, float]:
        """Return the report of a rank."""
        import pyarrow as pa

        from pgrpo_ray.data.arrow import list_lengths
        from pgrpo_ray.data.digests import digest_of
        from pgrpo_ray.data.padding import TokenRows

        lengths = list_lengths(pa.concat_tables(tables)["response_ids"]) if tables else np.zeros(0)
        rows = [row for step in share.steps for micro in step.micro_batches for row in micro.tolist()]
        tokens = sum(int(lengths[rows].sum()) for step in share.steps for rows, *_ in step.passes())
        keys = ("loss", "entropy", "clip_frac", "mismatch_mean", "mismatch_max", "update_s", "current_tokens_frac")
        books = {"rank_tokens": tokens, "rank_digest": digest_of(map(TokenRows(tables).digest, rows))}
        steps = {"optimizer_steps": len(share.steps), "skipped_steps": 0, "skipped": []}
        return dict.fromkeys(keys, 0.0) | books | steps


class NullRecorder:
    """Forgets what it is given."""

    def write(self, *_: Any, **__: Any) -> int:
        """Return no rows."""
        return 0


# Ray, or calls that return at once


class LocalRef:
    """A result that is there."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value


def value_of(argument: Any) -> Any:
    return argument.value if isinstance(argument, LocalRef) else argument


class LocalStream:
    """A streaming generator whose next item is there."""

    def __init__(self, clock: Clock, items: Iterator[Any]):
        self._next = clock.part("roles", items.__next__)

    def next_ready(self) -> bool:
        """As a generator of Ray's."""
        return True

    def __next__(self) -> LocalRef:
        return LocalRef(self._next())


class LocalMethod:
    """What `actor.method` is to Ray; its work is not counted as the driver's."""

    def __init__(self, clock: Clock, function: Callable[..., Any], num_returns: Any = 1):
        self._clock, self._function, self._num_returns = clock, function, num_returns

    def options(self, num_returns: Any = 1, **_: Any) -> "LocalMethod":
        """Return the method with that many results."""
        return LocalMethod(self._clock, self._function, num_returns)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call at once."""
        result = self._clock.part("roles", self._function)(*map(value_of, args), **kwargs)
        if self._num_returns == "streaming":
            return LocalStream(self._clock, result)
        return LocalRef(result) if self._num_returns == 1 else [LocalRef(value) for value in result]


class LocalActor:
    """An object whose methods look like an actor's."""

    def __init__(self, clock: Clock, role: Any):
        self._clock, self._role = clock, role
        self.ping = LocalMethod(clock, lambda: None)  # nobody asks for it

    def __getattr__(self, name: str) -> LocalMethod:
        return LocalMethod(self._clock, getattr(self._role, name))


def without_ray() -> None:
    """Have `ray.get` and `ray.wait` take local results, as fast as can be."""
    import ray

    ray.get = lambda refs, **_: [value_of(ref) for ref in refs] if isinstance(refs, list) else value_of(refs)
    ray.wait = lambda refs, num_returns=1, **_: (refs[:num_returns], refs[num_returns:])  # all are there


def measure(rollouts: int, group_size: int, use_ray: bool) -> dict[str, Any]:
    """Run a few steps; return microseconds of the driver's time per rollout, by part."""
    import ray
    from rich.console import Console

    from pgrpo_ray.actors import cluster
    from pgrpo_ray.actors.pools import CONTROL, ExecutionPools
    from pgrpo_ray.actors.scoring import GroupScorer
    from pgrpo_ray.actors.spawn import Fleet
    from pgrpo_ray.algo.rewards import RULES
    from pgrpo_ray.config import parse
    from pgrpo_ray.driver import Driver
    from pgrpo_ray.obs.display import Display
    from pgrpo_ray.obs.run_log import RunLog
    from pgrpo_ray.types import CallCase, Problem, TestStyle

    clock = Clock()
    watch(clock)
    if use_ray:
        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=300 << 20,
        )
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        if hasattr(cluster, "ship_tables"):  # another checkout may not have it
            cluster.ship_tables()

        def actor(cls: type) -> Any:
            made = cluster.actor_class(cls, cpus=0, threads=1, concurrency_groups={CONTROL: 1, "sampling": 4})
            return made.remote()
    else:
        without_ray()

        def actor(cls: type) -> Any:
            return LocalActor(clock, cls())

    groups = rollouts // group_size
    with tempfile.TemporaryDirectory() as folder:
        config = parse(
            {
                "run": {"dir": folder, "name": "null", "steps": STEPS},
                "rollout": {"prompts_per_step": groups, "group_size": group_size, "num_workers": 2},
                "data": {"heldout_problems": 0},
                "checkpoint": {"every_steps": 0},
                "algo": {"num_mini_batches": 2},
            }
        )
        problems = [Problem(f"p{number}", "?", TestStyle.CALL, (CallCase([], 1),), "f") for number in range(groups)]
        reward = actor(NullReward)
        pools = ExecutionPools({"pool": actor(NullExecution)}, config.sandbox.queue_programs, 600.0)
        if not use_ray:  # nobody is asked over a wire
            pools.counts = lambda: SimpleNamespace(cache_hit_frac=0.0, runner_restarts=0, judged_again=0)
        fleet = Fleet(
            pools=pools,
            reward=GroupScorer(reward.score.remote, 600.0),
            recorder=actor(NullRecorder),
            rollout=[actor(NullRollout), actor(NullRollout)],
            learner=[actor(NullLearner), actor(NullLearner)],
        )
        log, display = RunLog(config), Display(Console(file=io.StringIO()))
        encoded = {problem.id: (1, 2) for problem in problems}
        driver = Driver(config, RULES["posterior"], problems, [], encoded, fleet, log, display)
        if not use_ray and hasattr(driver, "_crew"):  # there is nobody to watch
            driver._crew.look = list
        found = [step_cost(driver, clock, step, rollouts) for step in range(1, STEPS + 1)]
        log.close()
    return min(found[1:], key=lambda one: one["total"])


def step_cost(driver: Any, clock: Clock, step: int, rollouts: int) -> dict[str, Any]:
    """Return one step's microseconds per rollout."""
    clock.seconds.clear()
    thread, process, wall = time.thread_time(), time.process_time(), time.monotonic()
    if hasattr(driver, "_backlog"):
        clock.part("take", driver._backlog.ask_ahead)(step, driver._policy_version)
    elif hasattr(driver, "_ask_ahead"):  # another checkout; an older one asks inside
        clock.part("take", driver._ask_ahead)(step)
    metrics = clock.part("take", driver._train_step)(step)
    thread, process, wall = time.thread_time() - thread, time.process_time() - process, time.monotonic() - wall
    roles = clock.seconds.pop("roles", 0.0)
    assert metrics["issued"] == rollouts, metrics["issued"]
    scale = 1e6 / rollouts
    return {
        "total": (thread - roles) * scale,
        "process": (process - roles) * scale,
        "wall": (wall - roles) * scale,
        "parts": {name: clock.seconds.get(name, 0.0) * scale for name in PARTS},
    }


# all of them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="rollouts a step")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--modes", nargs="+", default=["no Ray", "Ray"], choices=["no Ray", "Ray"])
    parser.add_argument("--before", type=Path, help="folder of another checkout, measured in alternation")
    parser.add_argument("--wanted-us", type=float, default=50.0)
    parser.add_argument("--one", nargs=2, metavar=("ROLLOUTS", "MODE"), help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures go")
    arguments = parser.parse_args()
    if arguments.one:
        rollouts, mode = arguments.one
        print(json.dumps(measure(int(rollouts), arguments.group_size, use_ray=mode == "Ray")))
        return 0
    trees = {"now": REPOSITORY} | ({"before": arguments.before.resolve()} if arguments.before else {})
    cases = [
        {"tree": tree, "mode": mode, "rollouts": size, **apart(path, size, arguments.group_size, mode)}
        for mode in arguments.modes
        for size in arguments.sizes
        for tree, path in trees.items()
    ]
    result = {
        "question": __doc__.splitlines()[0],
        "command": f"python benchmarks/driver_cost.py{' --before FOLDER' if arguments.before else ''}",
        **origin(),
        "load": os.getloadavg()[0],
        "group_size": arguments.group_size,
        "unit": "microseconds of CPU time of the driver's thread per rollout",
        "parts": PARTS,
        "cases": cases,
        "exponent": {mode: exponent(cases, mode) for mode in arguments.modes},
    }
    if arguments.before:
        result["before_over_now"] = speedups(cases)
    arguments.results.mkdir(exist_ok=True)
    (arguments.results / "driver-cost.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(cases, arguments.results / "driver-cost.png")
    print(json.dumps({key: result[key] for key in ("exponent", "before_over_now") if key in result}))
    largest = next(one for one in reversed(cases) if one["tree"] == "now")
    growth = result["exponent"][largest["mode"]]
    return 0 if largest["total"] <= arguments.wanted_us and (growth is None or growth <= 1.1) else 1


def apart(tree: Path, rollouts: int, group_size: int, mode: str) -> dict[str, Any]:
    """Measure in a process of its own, with the package of `tree`."""
    command = [sys.executable, str(Path(__file__).resolve()), "--group-size", str(group_size)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--one", str(rollouts), mode], env=environment, cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{mode}, {rollouts} rollouts: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(mode, rollouts, tree.name, {name: round(value, 1) for name, value in found["parts"].items()}, end=" ")
    print(f"total {found['total']:.1f} us, process {found['process']:.1f}, wall {found['wall']:.1f}", flush=True)
    return found


def exponent(cases: list[dict[str, Any]], mode: str) -> float | None:
    """Return e of cost ~ N^e, fitted over the sizes (of a whole step: 1 is linear); None for a single size."""
    points = [
        (one["rollouts"], one["total"] * one["rollouts"])
        for one in cases
        if (one["tree"], one["mode"]) == ("now", mode)
    ]
    if len(points) < 2:
        return None
    return float(np.polyfit(*np.log(np.array(points).T), 1)[0])


def speedups(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many times more each case cost before."""
    totals = {(one["tree"], one["mode"], one["rollouts"]): one["total"] for one in cases}
    return [
        {"mode": mode, "rollouts": size, "ratio": totals["before", mode, size] / total}
        for (tree, mode, size), total in totals.items()
        if tree == "now"
    ]


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Draw one bar a case, stacked by part."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 3.8))
    bottom, at = np.zeros(len(cases)), np.arange(len(cases))
    for name, meaning in PARTS.items():
        values = np.array([one["parts"][name] for one in cases])
        axes.bar(at, values, bottom=bottom, label=f"{name}: {meaning}")
        bottom += values
    labels = [f"{one['mode']}, {one['rollouts']:,}, {one['tree']}" for one in cases]
    axes.set_xticks(at, labels, rotation=35, ha="right", fontsize="small")
    axes.axhline(50, color="black", linewidth=0.8, linestyle=":")
    axes.set(ylabel="driver CPU, µs per rollout")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
