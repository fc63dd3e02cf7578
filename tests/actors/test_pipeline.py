"""Sampling ahead of the learner, on real Ray actors that sleep for random times and fail at random.

What must hold whatever the delays: every rollout that is asked for is trained on, masked or dropped once; none is older
than the bound; and with a staleness of 0 nothing is sampled before the learner is done.
"""

import io
import json
import random
import re
import sys
import threading
import time
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray._private.internal_api import memory_summary
from rich.console import Console

from pgrpo_ray.actors.cluster import WATCH, shipping
from pgrpo_ray.actors.group_flow import SAMPLING
from pgrpo_ray.actors.pools import CONTROL, ExecutionPools
from pgrpo_ray.actors.scoring import GroupScorer
from pgrpo_ray.actors.spawn import Fleet
from pgrpo_ray.algo.rewards import RULES
from pgrpo_ray.config import parse
from pgrpo_ray.data import arrow
from pgrpo_ray.data.digests import digest_of
from pgrpo_ray.data.padding import TokenRows
from pgrpo_ray.data.scalars import scalar_table, thinking_table
from pgrpo_ray.driver import Driver
from pgrpo_ray.errors import CorruptionError
from pgrpo_ray.obs.display import Display
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.types import CallCase, Judgement, Problem, TestStyle, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
GROUP, PROMPTS, STEPS, MINI_BATCHES = 4, 3, 5, 2
QUEUE = 64
"""Programs: room enough for groups to travel together."""


class SleepingRollout:
    """Samples each group for a random time; the version of a response's end is what is loaded by then."""

    def __init__(self, seed, longest_s, even=False, ignores_the_bound=False, tokens=2):
        self.random = random.Random(seed)
        self.longest_s = longest_s
        self.even = even
        self.ignores_the_bound = ignores_the_bound
        self.tokens = tokens
        self.version = None
        self.dropped = set()
        self.lock = threading.Lock()
        self.asked = self.gave = 0

    def generate(self, requests, group_size, temperature, version, name, together):
        assert version == self.version
        with self.lock:
            self.asked += len(requests)
            requests = self.random.sample(requests, len(requests))
        ready, wanted = [], 1
        for request in requests:
            first = 0 if self.ignores_the_bound else self.version
            time.sleep(self.longest_s * (1 if self.even else self.random.random()))
            if name in self.dropped:
                return
            self.gave += 1
            ready.append(self.group(request, group_size, first, self.version))
            if len(ready) == wanted:
                yield pa.concat_tables(ready)
                ready, wanted = [], self.random.randint(1, together)
        if ready:
            yield pa.concat_tables(ready)

    def group(self, request, group_size, first, last):
        spans = ([first], [0]) if first == last else ([first, last], [0, 1])
        return arrow.build_table(
            arrow.ROLLOUT_SCHEMA,
            {
                "problem_id": [request.problem_id] * group_size,
                "sample_index": list(range(group_size)),
                "policy_version": [first] * group_size,
                "prompt": ["p"] * group_size,
                "prompt_ids": [list(request.prompt_ids)] * group_size,
                "response_ids": [[request.seed % 1000] * self.tokens] * group_size,
                "rollout_logprobs": [[-1.0] * self.tokens] * group_size,
                "versions": [spans[0]] * group_size,
                "version_starts": [spans[1]] * group_size,
                "response": ["r"] * group_size,
                "finish_reason": ["stop"] * group_size,
                "format_ok": [True] * group_size,
                "thinking": ["t"] * group_size,
                "program": ["x"] * group_size,
            },
        )

    def drop(self, name):
        self.dropped.add(name)

    def receive_weights(self, version):
        return version

    def load_weights(self, version):
        self.version = version
        return version

    def counts(self):
        return self.asked, self.gave


class SleepingExecution:
    def __init__(self, seed, longest_s):
        self.seed = seed
        self.longest_s = longest_s

    def judge(self, rollouts):
        luck = random.Random(f"{self.seed} {rollouts['problem_id'][0]} {rollouts['response_ids'][0]}")
        time.sleep(luck.random() * self.longest_s)
        judgements = [
            Judgement(None, 0, 1, 0.0, "docker", error="container gone")
            if luck.random() < 0.1
            else Judgement(luck.choice([Verdict.PASSED, Verdict.WRONG_ANSWER]), 0, 1, 1.0, "docker")
            for _ in range(rollouts.num_rows)
        ]
        verdicts = arrow.verdict_table(judgements)
        return verdicts, scalar_table(rollouts, verdicts)

    def stats(self):
        return SimpleNamespace(cache_hits=0, cache_lookups=0, restarts=0)


class SleepingReward:
    def __init__(self, seed, longest_s):
        self.random = random.Random(seed)
        self.longest_s = longest_s

    def score(self, rollouts, rows, statements, timeout_s):
        time.sleep(self.random.random() * self.longest_s)
        lost = {row: "no number" for row in rows if self.random.random() < 0.1}
        return thinking_table(rollouts.num_rows, {row: 0.5 for row in rows if row not in lost}, lost)


class SleepingLearner:
    def __init__(self, rank, longest_s):
        self.rank = rank
        self.longest_s = longest_s
        self.rows = []

    def update(self, share, *tables):
        time.sleep(self.longest_s)
        tokens, digests = 0, []
        rows = pa.concat_tables(tables) if tables else None
        tokens_of = TokenRows(tables)
        for step in share.steps:
            for places, *_ in step.passes():
                if len(places):
                    padded = tokens_of.pad(places, share.policy_version)
                    tokens += int(padded.is_response.sum())
                for place in places.tolist():
                    digests.append(tokens_of.digest(place))
                    found = [rows[name][place].as_py() for name in ("problem_id", "sample_index", "versions")]
                    self.rows.append((share.policy_version, *found))
        keys = ("loss", "entropy", "clip_frac", "mismatch_mean", "mismatch_max", "update_s", "current_tokens_frac")
        books = {"rank_tokens": tokens, "rank_digest": digest_of(digests), "skipped": [], "skipped_steps": 0}
        return dict.fromkeys(keys, 0.0) | books | {"optimizer_steps": len(share.steps)}

    def publish(self, version):
        if self.rank == 0:
            yield version

    def trained(self):
        return self.rows

    def save(self, folder):
        return None


@pytest.fixture
def run_driver(tmp_path):
    opened = []

    def run(
        name,
        seed=0,
        staleness=0,
        late="wait",
        rounds=1,
        sample_s=0.02,
        learn_s=0.05,
        even=False,
        trace=False,
        cheats=False,
        steps=STEPS,
        tokens=2,
        run_log=RunLog,
        num_problems=2 * PROMPTS + 1,
        second_s=None,
    ):
        config = parse(
            {
                "run": {"dir": str(tmp_path), "name": name, "steps": steps, "trace": trace},
                "rollout": {"prompts_per_step": PROMPTS, "group_size": GROUP, "num_workers": 2},
                "algo": {
                    "num_mini_batches": MINI_BATCHES,
                    "max_staleness": staleness,
                    "late_groups": late,
                    "sampling_rounds": rounds,
                },
                "data": {"heldout_problems": 0},
                "cluster": {"stage_timeout_s": 30},
                "checkpoint": {"every_steps": 0},
            }
        )
        problems = [Problem(f"p{n}", "?", TestStyle.CALL, (CallCase([], 1),), "f") for n in range(num_problems)]

        def remote(cls, *args):
            groups = {CONTROL: 1, SAMPLING: 8, WATCH: 1}
            return ray.remote(num_cpus=0, concurrency_groups=groups)(shipping(cls)).remote(*args)

        reward = remote(SleepingReward, seed, sample_s)
        fleet = Fleet(
            pools=ExecutionPools(
                {f"pool {n}": remote(SleepingExecution, seed, sample_s) for n in range(2)}, QUEUE, 20.0
            ),
            reward=GroupScorer(reward.score.remote, 20.0),
            recorder=remote(Recorder),
            rollout=[
                remote(SleepingRollout, seed + n, longest_s, even, cheats, tokens)
                for n, longest_s in enumerate([sample_s, sample_s if second_s is None else second_s])
            ],
            learner=[remote(SleepingLearner, rank, learn_s) for rank in range(2)],
        )
        log, console = run_log(config), Console(file=io.StringIO(), width=200)
        opened.append((log, fleet, reward))
        encoded = {problem.id: (1, 2, 3) for problem in problems}
        driver = Driver(config, RULES["posterior"], problems, [], encoded, fleet, log, Display(console))
        driver.run()
        rows = [row for rank in fleet.learner for row in ray.get(rank.trained.remote())]
        asked, gave = np.array(ray.get([worker.counts.remote() for worker in fleet.rollout])).sum(axis=0)
        steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
        tables = [arrow.read_ipc(log.rollouts_path(step)) for step in range(1, len(steps) + 1)]
        return SimpleNamespace(
            rows=rows,
            asked=int(asked),
            gave=int(gave),
            steps=steps,
            tables=tables,
            said=console.file.getvalue(),
            folder=log.folder,
        )

    yield run
    for log, fleet, reward in opened:
        log.close()
        for actor in (*fleet.all(), reward):
            ray.kill(actor)


class Recorder:
    """The real one, made here as workers get this module by value."""

    def write(self, *args):
        from pgrpo_ray.actors.roles import RecorderRole

        return RecorderRole().write(*args)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("staleness", "late", "rounds"), [(0, "wait", 3), (2, "wait", 1), (4, "wait", 3), (2, "drop", 1), (4, "drop", 2)]
)
def test_every_rollout_is_accounted_for_once_and_none_is_too_old(run_driver, seed, staleness, late, rounds):
    delays = random.Random(seed)
    sample_s, learn_s = delays.choice([0.0, 0.02, 0.1]), delays.choice([0.0, 0.1])
    run = run_driver(f"run-{seed}", seed, staleness, late, rounds, sample_s, learn_s)
    # Trained is what has a gradient and is neither dropped nor masked, once.
    on_disk = [(step, row) for step, table in enumerate(run.tables) for row in table.to_pylist()]
    due = sorted(
        (row["problem_id"], row["sample_index"], tuple(row["versions"]))
        for _, row in on_disk
        if row["dropped"] is None and row["masked"] is None and row["advantage"]
    )
    assert sorted((problem, sample, tuple(versions)) for _, problem, sample, versions in run.rows) == due
    for table in run.tables:
        places = list(zip(table["problem_id"].to_pylist(), table["sample_index"].to_pylist(), strict=True))
        assert len(places) == len(set(places))
    # Asked for is what was taken, what became too old, and what was under way at the end.
    left = sum(map(int, re.findall(r"(\d+) rollouts that were asked for ahead", run.said)))
    taken, too_old = (sum(step[name] for step in run.steps) for name in ("issued", "too_old"))
    assert run.asked * GROUP == taken + too_old + left
    assert len(on_disk) == taken
    if late == "wait":
        assert (too_old, left, run.gave) == (0, 0, run.asked)
    assert max(version - min(versions) for version, *_, versions in run.rows) <= staleness


def test_demands_hold_no_problem_twice_where_dropped_groups_shift_them_over_an_epochs_border(run_driver):
    # As many problems as a step wants, so that each step is an epoch; one of the two workers is far behind.
    settings = {"staleness": 2, "late": "drop", "second_s": 1.0, "steps": 8, "num_problems": PROMPTS}
    run = run_driver("borders", **settings)
    assert sum(step["too_old"] for step in run.steps) > 0
    for table in run.tables:
        assert len(set(table["problem_id"].to_pylist())) == len(table) // GROUP


def test_with_a_staleness_the_next_batches_are_sampled_while_the_learner_learns(run_driver):
    # One of two workers samples two groups, the second when the learner is done: from 0.8 to 1.6 s.
    together = run_driver("together", staleness=MINI_BATCHES, sample_s=0.8, learn_s=1.2, even=True)
    in_turn = run_driver("in-turn", sample_s=0.8, learn_s=1.2, even=True)
    # The same problems in the same order, with the same seeds, whether or not they are asked for ahead.
    for ahead, now in zip(together.tables, in_turn.tables, strict=True):
        for name in ("problem_id", "response_ids"):
            assert ahead[name].to_pylist() == now[name].to_pylist()
    assert {step["staleness_max"] for step in in_turn.steps} == {0}
    assert {step["staleness_max"] for step in together.steps[1:]} <= {1, 2}  # 1: a mini-batch without a gradient
    # Responses that were under way when weights came have tokens of both versions.
    assert num_versions(together) == {1, 2}
    assert num_versions(in_turn) == {1}
    assert all(step["busy_sampling_s"] < step["step_s"] - 0.5 for step in in_turn.steps)
    assert sum(step["step_s"] for step in together.steps) < 0.85 * sum(step["step_s"] for step in in_turn.steps)


def num_versions(run):
    """How many versions sampled a response, over all responses on disk."""
    return {len(versions) for table in run.tables for versions in table["versions"].to_pylist()}


def test_what_is_too_old_ends_the_run(run_driver):
    with pytest.raises(CorruptionError, match=r"policy version 0, before it was asked for, which was with version \d+"):
        run_driver("cheats", staleness=2, cheats=True)


def test_a_trace_opens_and_tells_when_each_stage_had_work(run_driver):
    run = run_driver("traced", staleness=2, trace=True)
    text = (run.folder / "trace.json").read_text()
    events = json.loads(text.rstrip().rstrip(",") + "]")
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["cat"] for event in spans} == {"sampling", "judging", "scoring", "learning", "sync"}
    assert sum(event["cat"] == "learning" for event in spans) == STEPS
    rows = {}
    for event in sorted(spans, key=lambda event: event["ts"]):  # on one row nothing overlaps, so that it can be read
        assert event["ts"] >= rows.get(event["tid"], 0)
        rows[event["tid"]] = event["ts"] + event["dur"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names.keys() == rows.keys()


class WatchedLog(RunLog):
    """Notes what is held as each step ends: the driver's references, and objects in the object store."""

    held: ClassVar[list] = []

    def step(self, step, metrics):
        super().step(step, metrics)
        references = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
        stored = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
        self.held.append((len(references), int(re.search(r"(\d+) objects", stored)[1])))


def test_two_hundred_steps_leave_no_more_in_the_object_store_than_twenty(run_driver):
    """With responses whose tables are too large to travel inside a message, so that the object store has them."""
    run_driver("long", staleness=2, sample_s=0.0, learn_s=0.0, steps=200, tokens=6000, run_log=WatchedLog)
    assert len(WatchedLog.held) == 200
    references, objects = np.array(WatchedLog.held).T
    assert objects[:20].max() >= 2 * PROMPTS  # at least the batch at hand and the one ahead
    # What is held varies with what is on its way, and on a busy machine with when Ray frees; what leaks stays.
    for held in (references, objects):
        assert held[150:].min() <= held[:50].max()
