"""The loop on real Ray actors whose work is scripted: order, conservation, versions, failures.

Engines are replaced here and only here; tests/integration runs the same driver with the real ones.
"""

import io
import itertools
import json
import math
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import ray
from rich.console import Console

from pgrpo_ray.actors import waits
from pgrpo_ray.actors.checkpointing import CHECKPOINT
from pgrpo_ray.actors.cluster import WATCH, shipping
from pgrpo_ray.actors.group_flow import SAMPLING, STREAM_AHEAD
from pgrpo_ray.actors.pools import CONTROL, ExecutionPools
from pgrpo_ray.actors.roles import RecorderRole
from pgrpo_ray.actors.scoring import GroupScorer
from pgrpo_ray.actors.spawn import Fleet
from pgrpo_ray.algo.rewards import RULES, Term, reward_rule
from pgrpo_ray.config import parse
from pgrpo_ray.data import arrow
from pgrpo_ray.data.digests import digest_of
from pgrpo_ray.data.padding import TokenRows
from pgrpo_ray.data.scalars import scalar_table, thinking_table
from pgrpo_ray.driver import Driver
from pgrpo_ray.errors import CorruptionError, MismatchError, StageError, WeightSyncError
from pgrpo_ray.obs.display import Display
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.types import CallCase, Judgement, Problem, TestStyle, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
GROUP = 4


CORRUPTED = {
    "answers nobody": lambda columns: {"problem_id": ["q7"] * GROUP},
    "answers another": lambda columns: {"prompt_ids": [[1, 2, 4]] * GROUP},
    "mixes two prompts": lambda columns: {"prompt_ids": [[1, 2, 3]] * (GROUP - 1) + [[1, 2, 4]]},
    "reorders": lambda columns: {name: values[::-1] for name, values in columns.items()},
    "repeats a sample": lambda columns: {name: [values[0], *values[:-1]] for name, values in columns.items()},
    "says the same": lambda columns: {
        name: [columns[name][-1]] * GROUP for name in ("response_ids", "rollout_logprobs")
    },
}
"""Of a rollout worker's table what is wrong with it, by mood."""


class ScriptedRollout:
    """Finishes groups in reverse order. Response length tells the sample; the version is what was loaded last.

    Of two, the second meets what can befall a publication, once the first policy is there.
    """

    def __init__(self, mood="normal", ledger=None, index=0):
        self.version = None
        self.parts = []
        self.mood = mood
        self.ledger = ledger
        self.meets_it = index == 1

    def generate(self, requests, group_size, temperature, version, name, together):
        assert version == self.version
        if self.mood == "samples with old weights" and self.meets_it:
            version = 0
        for request in list(reversed(requests))[1 if self.mood == "loses a group" else 0 :]:
            if self.mood == "fails":
                raise ZeroDivisionError("no engine")
            if self.mood == "loses a rollout":
                group_size = GROUP - 1
            if self.ledger:
                ray.get(self.ledger.add.remote(1))
            sizes = range(1, group_size + 1)
            columns = {
                "problem_id": [request.problem_id] * group_size,
                "sample_index": list(range(group_size)),
                "policy_version": [version] * group_size,
                "prompt": ["p"] * group_size,
                "prompt_ids": [list(request.prompt_ids)] * group_size,
                "response_ids": [[5] * size for size in sizes],
                "rollout_logprobs": [[-1.0] * size for size in sizes],
                "versions": [[version]] * group_size,
                "version_starts": [[0]] * group_size,
                "response": ["r"] * group_size,
                "finish_reason": ["stop"] * (group_size - 1) + ["length"],
                "format_ok": [True] * group_size,
                "thinking": ["t"] * group_size,
                "program": ["x"] * group_size,
            }
            columns |= CORRUPTED.get(self.mood, lambda columns: {})(columns)
            for _ in range(2 if self.mood == "answers twice" else 1):
                yield arrow.build_table(arrow.ROLLOUT_SCHEMA, columns)

    def receive_weights(self, part):
        if self.version is not None and self.meets_it and self.mood == "refuses weights":
            raise WeightSyncError("embed is not what was published" if isinstance(part, int) else "a checksum differs")
        if self.version is not None and self.meets_it and self.mood == "hangs over weights":
            time.sleep(60)
        if not isinstance(part, int):
            self.parts.append(part.tolist())
            return None
        assert self.parts == [[part], [part + 1]]
        self.parts = []
        return part

    def load_weights(self, version):
        if self.version is not None and self.meets_it and self.mood == "breaks while it loads":
            self.version = "a mixture"
            raise MemoryError("no room for the head")
        self.version = version
        return version

    def held(self):
        return self.version


class ScriptedExecution:
    """Sample 0 passes, sample 1's machinery fails, the rest are wrong; or all fail; or the process dies; or is slow
    or hangs."""

    def __init__(self, mood="normal", ledger=None):
        self.mood = mood
        self.ledger = ledger
        self.judged = 0

    def judge(self, rollouts):
        if self.mood == "dies":
            os._exit(1)
        if self.mood == "hangs":
            time.sleep(60)
        if self.mood == "slow":
            time.sleep(0.05)
            ray.get(self.ledger.add.remote(-1))
        self.judged += 1
        judgements = []
        for index in rollouts["sample_index"].to_pylist():
            if self.mood == "broken" or index == 1:
                judgements.append(Judgement(None, 0, 1, 0.0, "docker", error="container gone"))
            else:
                verdict = Verdict.PASSED if index == 0 and not self.flat(rollouts) else Verdict.WRONG_ANSWER
                judgements.append(Judgement(verdict, int(index == 0), 1, 1.0, "docker"))
        verdicts = arrow.verdict_table(judgements)
        return verdicts, scalar_table(rollouts, verdicts)

    def flat(self, rollouts):
        """Whether nobody of the group passes."""
        return self.mood == "flat" or (self.mood == "half flat" and int(rollouts["problem_id"][0].as_py()[1:]) % 2 == 1)

    def stats(self):
        return SimpleNamespace(cache_hits=self.judged, cache_lookups=2 * self.judged, restarts=1)


class Ledger:
    """Counts groups that were sampled and not yet judged."""

    def __init__(self):
        self.now = self.most = 0

    def add(self, change):
        self.now += change
        self.most = max(self.most, self.now)

    def seen(self):
        return self.most


class ScriptedReward:
    def __init__(self, mood="normal"):
        self.mood = mood

    def score(self, rollouts, rows, statements, timeout_s):
        assert statements == ["?"] * len(rows)
        if self.mood == "scores with no numbers":
            return thinking_table(rollouts.num_rows, dict.fromkeys(rows, math.nan))
        if self.mood == "has no scores":
            return thinking_table(rollouts.num_rows, {}, dict.fromkeys(rows, "no number"))
        return thinking_table(rollouts.num_rows, dict.fromkeys(rows, 0.5))


class ScriptedLearner:
    def __init__(self, rank, mood="normal"):
        self.rank = rank
        self.mood = mood
        self.rows = []

    def update(self, share, *tables):
        table, tokens, trained = pa.concat_tables(tables) if tables else None, 0, []
        for step in share.steps:
            for rows, advantages, _ in step.passes():
                trained += rows.tolist()
                for row, advantage in zip(rows.tolist(), advantages.tolist(), strict=True):
                    problem, sample = table["problem_id"][row].as_py(), table["sample_index"][row].as_py()
                    self.rows.append((problem, sample, advantage))
                    tokens += len(table["response_ids"][row])
        keys = ("loss", "entropy", "clip_frac", "mismatch_max", "update_s")
        lost = 1 if self.mood == "loses a token" else 0
        gap = {"disagrees": 0.2, "has no logprobs": math.nan}.get(self.mood, 0.09)  # the bound of bfloat16 is 0.1
        skipped = {"skips one": 1, "skips all": len(share.steps), "ranks disagree": self.rank}.get(self.mood, 0)
        skipped = min(skipped, len(share.steps))
        counts = {"rank_tokens": tokens - lost, "optimizer_steps": len(share.steps) - skipped}
        counts |= {"skipped_steps": skipped, "skipped": ["[it] was no number"] * skipped}
        if self.mood == "swaps two rows" and self.rank:
            trained[:2] = trained[1::-1]
        counts["rank_digest"] = digest_of(map(TokenRows(tables).digest, trained))
        gaps = {"mismatch_mean": gap, "current_tokens_frac": 1.0}
        if not tokens:  # then the real one has nothing to compare
            gaps = dict.fromkeys(gaps, math.nan)
        return dict.fromkeys(keys, 0.0) | gaps | counts

    def trained(self):
        return self.rows

    def publish(self, version):
        if self.mood == "one cannot gather":
            if self.rank:
                raise MemoryError("no room for the head")
            time.sleep(60)  # as in a collective that the other one has left
        if self.rank == 0:
            yield np.array([version])
            if self.mood == "cannot publish":
                raise MemoryError("object store is full")
            yield np.array([version + 1])
            yield version

    def save(self, folder):
        return None


def remote(cls, *args):
    groups = {CONTROL: 1, SAMPLING: 4, CHECKPOINT: 1, WATCH: 1}
    return ray.remote(num_cpus=0, concurrency_groups=groups)(shipping(cls)).remote(*args)


class WatchedPools(ExecutionPools):
    """Remembers the most groups that were outstanding."""

    most = 0

    def judge(self, rollouts):
        judging = super().judge(rollouts)
        self.most = max(self.most, sum(pool.outstanding for pool in self._pools))
        return judging


@pytest.fixture
def make_driver(tmp_path):
    opened = []

    def make(
        execution="normal",
        heldout=0,
        rollout="normal",
        learner="normal",
        reward="normal",
        prompts=3,
        queue=4096,
        ledger=None,
        beside=(),
        algo=(),
        steps=2,
        max_rollouts=None,
        rule=RULES["posterior"],
        sync=(),
    ):
        config = parse(
            {
                "run": {"dir": str(tmp_path), "name": "scripted", "steps": steps, "max_rollouts": max_rollouts},
                "rollout": {"prompts_per_step": prompts, "group_size": GROUP, "num_workers": 2},
                "algo": {"num_mini_batches": 2} | dict(algo),
                "data": {"heldout_problems": heldout},
                "sync": dict(sync),
                "cluster": {"stage_timeout_s": 30},
            }
        )
        problems = [Problem(f"p{n}", "?", TestStyle.CALL, (CallCase([], 1),), "f") for n in range(2 * prompts)]
        held = [Problem(f"h{n}", "?", TestStyle.CALL, (CallCase([], 1),), "f") for n in range(heldout)]
        reward = remote(ScriptedReward, reward)
        fleet = Fleet(
            pools=WatchedPools(
                {"execution pool": remote(ScriptedExecution, execution, ledger)}
                | {f"another, {mood}": remote(ScriptedExecution, mood) for mood in beside},
                queue,
                *((1.0, 1.0) if execution == "hangs" else (20.0,)),
            ),
            reward=GroupScorer(reward.score.remote, 20.0, rule.scores),
            recorder=remote(RecorderRole),
            rollout=[remote(ScriptedRollout, rollout, ledger, index) for index in range(2)],
            learner=[remote(ScriptedLearner, rank, learner) for rank in range(2)],
        )
        log = RunLog(config)
        opened.append((log, fleet, reward))
        encoded = {problem.id: (1, 2, 3) for problem in problems + held}
        display = Display(Console(file=io.StringIO()))
        return Driver(config, rule, problems, held, encoded, fleet, log, display), fleet, log

    yield make
    for log, fleet, reward in opened:
        log.close()
        for actor in (*fleet.all(), reward):
            ray.kill(actor)


def test_every_row_with_gradient_is_trained_once_and_failures_never(make_driver):
    driver, fleet, log = make_driver()
    result = driver.run()
    rows = [row for rank in fleet.learner for row in ray.get(rank.trained.remote())]
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 * (GROUP - 1)  # sample 1 of each group was lost to the machinery
    assert {sample for _, sample, _ in rows} == {0, 2, 3}
    assert sorted({problem for problem, _, _ in rows}) == [f"p{n}" for n in range(6)]  # one epoch of two steps
    for metrics in steps:
        assert (metrics["issued"], metrics["dropped"]) == (12, 3)
        assert metrics["pass_rate"] == pytest.approx(1 / 3)
        assert metrics["staleness_max"] == 0
        assert metrics["cache_hit_frac"] == 0.5
    assert [metrics["runner_restarts"] for metrics in steps] == [0, 0]  # its one restart came before the first step
    assert result.policy_version == 4  # two mini-batches with gradient in each of two steps


def test_rewards_and_advantages_on_disk_are_right(make_driver):
    driver, _, log = make_driver()
    driver.run()
    table = arrow.read_ipc(log.rollouts_path(2))
    assert table.schema.equals(arrow.BATCH_SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 3 * GROUP
    assert {row["policy_version"] for row in rows} == {2}  # sampled with what step 1 published
    for group in range(3):
        members = rows[group * GROUP : (group + 1) * GROUP]
        assert len({row["problem_id"] for row in members}) == 1
        assert [row["reward"] for row in members] == [2.5, None, 1.0, 1.0]
        assert [row["dropped"] for row in members] == [None, "execution_error", None, None]
        # mean 1.5, sample deviation sqrt((1 + .25 + .25) / 2)
        assert members[0]["advantage"] == pytest.approx(1.0 / 0.75**0.5)
        assert sum(row["advantage"] or 0.0 for row in members) == pytest.approx(0.0, abs=1e-6)


def test_groups_without_a_gradient_are_replaced_up_to_the_bound_of_rounds(make_driver):
    driver, fleet, log = make_driver(execution="half flat", algo={"sampling_rounds": 5})
    driver.run()
    trained = [row for rank in fleet.learner for row in ray.get(rank.trained.remote())]
    # Three of the six problems have a gradient; every step finds all of them, whichever it began with.
    assert len(trained) == 2 * 3 * (GROUP - 1)
    assert {problem for problem, _, _ in trained} == {"p0", "p2", "p4"}
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    for number, metrics in enumerate(steps, 1):
        table = arrow.read_ipc(log.rollouts_path(number)).to_pylist()
        groups = {row["problem_id"] for row in table}
        assert len(table) == metrics["issued"] == GROUP * len(groups)  # no problem twice
        flat = {problem for problem in groups if int(problem[1:]) % 2}
        assert metrics["masked"] == (GROUP - 1) * len(flat)
        masked = {(row["problem_id"], row["masked"]) for row in table if row["masked"]}
        assert masked == {(problem, "no_gradient") for problem in flat}
    assert max(metrics["issued"] for metrics in steps) > 3 * GROUP


def test_cut_responses_count_in_their_group_and_not_in_the_loss(make_driver):
    driver, fleet, log = make_driver(algo={"mask_cut": True})
    driver.run()
    trained = {sample for rank in fleet.learner for _, sample, _ in ray.get(rank.trained.remote())}
    assert trained == {0, 2}
    last = arrow.read_ipc(log.rollouts_path(1)).to_pylist()[GROUP - 1]
    assert (last["masked"], last["reward"]) == ("cut", 1.0)
    assert last["advantage"] < 0


def test_a_budget_of_rollouts_ends_the_run_with_the_batch_that_reaches_it(make_driver):
    driver, _, log = make_driver(steps=9, max_rollouts=13)  # a batch has 12
    driver.run()
    assert len((log.folder / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("given", [{"outcome": [9.0] * 12}, None], ids=["beyond its range", "fails"])
def test_a_rule_of_ones_own_that_breaks_ends_the_run_by_name(make_driver, given):
    rule = reward_rule(terms=(Term("outcome", 0, 1),), scores="none")(lambda signals: given or given["outcome"])
    driver, _, _ = make_driver(rule=rule)
    with pytest.raises(StageError, match=r"failed on a batch: (ValueError.*declared in|TypeError)"):
        driver.run()


def test_an_arm_without_thinking_asks_no_reward_server(make_driver):
    driver, _, log = make_driver(rule=RULES["outcome_only"], reward="has no scores")
    driver.run()
    members = arrow.read_ipc(log.rollouts_path(1)).to_pylist()[:GROUP]
    assert [row["reward"] for row in members] == [2.0, None, 1.0, 1.0]
    assert {row["thinking_error"] for row in members} == {None}


def test_the_shares_of_the_advantages_variance_are_reported(make_driver):
    driver, _, log = make_driver()
    driver.run()
    metrics = json.loads((log.folder / "metrics.jsonl").read_text().splitlines()[0])
    # The passer has 1 of outcome and 0.5 of thinking over the others, the format is everyone's.
    shares = {term: metrics[f"advantage_share_{term}"] for term in ("format", "outcome", "thinking")}
    assert shares == pytest.approx({"format": 0.0, "outcome": 2 / 3, "thinking": 1 / 3})


def test_heldout_problems_are_measured_but_not_trained(make_driver):
    driver, fleet, _ = make_driver(heldout=5)
    result = driver.run()
    trained = {problem for rank in fleet.learner for problem, _, _ in ray.get(rank.trained.remote())}
    assert not {problem for problem in trained if problem.startswith("h")}
    assert result.before.value == pytest.approx(1 / 3)  # of four samples one passes, one is lost, two are wrong
    assert result.before.low <= result.before.value <= result.before.high


def test_a_batch_lost_to_machinery_stops_the_run_with_its_cause(make_driver):
    driver, _, _ = make_driver(execution="broken")
    with pytest.raises(StageError, match=r"all 12 rollouts.*container gone"):
        driver.run()


def test_dead_pools_stop_the_run_and_are_named(make_driver):
    driver, _, _ = make_driver(execution="dies")
    with pytest.raises(StageError, match=r"all 12 rollouts.*execution pool: its process died"):
        driver.run()


def test_a_hanging_pool_costs_time_and_no_verdict(make_driver, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    driver, _, log = make_driver(execution="hangs", beside=["normal"])
    driver.run()
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert [step["dropped"] for step in steps] == [3, 3]  # sample 1 of each group, as ever
    assert steps[0]["judged_again"] > 0


def test_hanging_pools_stop_the_run_and_are_named(make_driver, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    driver, _, _ = make_driver(execution="hangs")
    with pytest.raises(StageError, match=r"all 12 rollouts.*execution pool: no answer within 2 s"):
        driver.run()


def test_when_judging_lags_sampling_waits(make_driver):
    ledger = remote(Ledger)
    driver, fleet, _ = make_driver(execution="slow", prompts=40, queue=4 * GROUP, ledger=ledger)
    driver.run()
    bound = fleet.pools.max_groups(GROUP)
    assert bound == 4  # groups of four programs in a queue for 16
    assert fleet.pools.most == bound
    # What the workers finish beyond it is what they may be ahead; without a bound all 40 would wait.
    assert bound < ray.get(ledger.seen.remote()) <= bound + len(fleet.rollout) * STREAM_AHEAD
    ray.kill(ledger)


def versions(fleet):
    return ray.get([worker.held.remote() for worker in fleet.rollout])


def test_a_version_that_one_worker_refuses_no_worker_loads(make_driver):
    driver, fleet, _ = make_driver(rollout="refuses weights")
    with pytest.raises(WeightSyncError, match=r"version 2 .* none has loaded any of it\. a checksum differs"):
        driver.run()
    assert versions(fleet) == [0, 0]


def test_a_worker_that_is_late_with_a_version_keeps_all_from_loading_it(make_driver):
    driver, fleet, _ = make_driver(rollout="hangs over weights", sync={"deadline_s": 6.0})
    ray.get([actor.__ray_call__.remote(lambda _: None) for actor in fleet.all()])  # else they would still be starting
    with pytest.raises(WeightSyncError, match=r"within 6 s, so none has loaded any of it. Raise sync.deadline_s"):
        driver.run()
    assert ray.get(fleet.rollout[0].held.remote()) == 0


def test_a_worker_that_breaks_while_it_loads_ends_the_run_and_is_named(make_driver):
    driver, fleet, _ = make_driver(rollout="breaks while it loads")
    with pytest.raises(WeightSyncError, match=r"1 of 2 rollout workers failed .* version 2.*no room for the head"):
        driver.run()
    assert versions(fleet) == [2, "a mixture"]


def test_rollouts_of_another_version_than_asked_for_end_the_run(make_driver):
    driver, _, _ = make_driver(rollout="samples with old weights")
    with pytest.raises(CorruptionError, match=r"policy version 0, before it was asked for, .* version 2"):
        driver.run()


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("answers twice", "came twice"),
        ("answers nobody", "q7 was not asked for"),
        ("answers another", "answers another prompt"),
        ("mixes two prompts", "answers another prompt"),
        ("reorders", r"has the samples \[3, 2, 1, 0\] in this order, 4 were asked for"),
        ("repeats a sample", r"has the samples \[0, 0, 1, 2\]"),
        ("loses a rollout", r"has the samples \[0, 1, 2\]"),
    ],
)
def test_groups_that_are_not_what_was_asked_for_end_the_run_before_they_are_trained_on(make_driver, mood, words):
    driver, fleet, _ = make_driver(rollout=mood)
    with pytest.raises(CorruptionError, match=rf"rollout worker: a group of problem .*{words}"):
        driver.run()
    assert ray.get([rank.trained.remote() for rank in fleet.learner]) == [[], []]


def test_a_learner_that_has_other_rows_than_were_rewarded_ends_the_run_before_it_publishes(make_driver):
    driver, fleet, log = make_driver(learner="swaps two rows")
    with pytest.raises(CorruptionError, match=r"rank 1 trained on are not those that were judged"):
        driver.run()
    assert versions(fleet) == [0, 0]
    assert arrow.read_ipc(log.rollouts_path(1)).num_rows == 12


@pytest.mark.parametrize(("rollout", "frac"), [("normal", 0.0), ("says the same", 0.75)])
def test_rollouts_that_are_one_another_are_counted(make_driver, rollout, frac):
    driver, _, log = make_driver(rollout=rollout, execution="flat", prompts=1)
    driver.run()
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    # The scripted responses are alike for every problem, and nothing was learned between the steps.
    assert [step["repeated_frac"] for step in steps] == [frac, 1.0]


@pytest.mark.parametrize(("mood", "version"), [("skips one", 2), ("skips all", 0)])
def test_a_skipped_step_is_counted_told_and_makes_no_version(make_driver, mood, version):
    driver, fleet, log = make_driver(learner=mood)
    assert driver.run().policy_version == version
    assert versions(fleet) == [version] * 2
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    skipped = 1 if version else 2
    assert [(step["skipped_steps"], step["optimizer_steps"]) for step in steps] == [(skipped, 2 - skipped)] * 2
    assert [step["policy_version"] for step in steps] == [version // 2, version]
    assert [step["staleness_max"] for step in steps] == [0, 0]
    assert driver._display.console.file.getvalue().count("[it] was no number") == 2 * skipped


def test_wall_clocks_that_jump_change_nothing(make_driver, monkeypatch):
    jumps = itertools.cycle([0.0, 1e6, -1e6, 40.0])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    driver, _, log = make_driver(heldout=2)
    assert driver.run().steps == 2
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= step[key] < 30 for step in steps for key in step if key.endswith("_s") and key != "tokens_per_s")


@pytest.mark.parametrize("learner", ["disagrees", "has no logprobs"])
def test_a_learner_that_disagrees_with_the_engine_ends_the_run_after_its_rollouts_are_written(make_driver, learner):
    driver, fleet, log = make_driver(learner=learner)
    with pytest.raises(MismatchError, match=r"(0\.2|nan) nats apart .*sync.max_mismatch is 0\.1 for .*=bfloat16"):
        driver.run()
    assert arrow.read_ipc(log.rollouts_path(1)).num_rows == 12
    assert versions(fleet) == [0, 0]  # what was learned from them is not published


def test_a_batch_without_a_gradient_changes_nothing_and_ends_nothing(make_driver):
    driver, fleet, log = make_driver(execution="flat")
    assert (driver.run().policy_version, versions(fleet)) == (0, [0, 0])
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert [step["no_gradient_groups_frac"] for step in steps] == [1.0, 1.0]


def test_the_bound_of_the_gap_can_be_set(make_driver):
    driver, _, _ = make_driver(learner="disagrees", sync={"max_mismatch": 0.21})
    assert driver.run().steps == 2


@pytest.mark.parametrize(
    ("moods", "words"),
    [
        ({"rollout": "loses a group"}, "3 groups asked for, 1 came"),
        ({"rollout": "fails"}, "rollout worker: ZeroDivisionError: no engine"),
        ({"learner": "loses a token"}, "learner: trained on .* tokens"),
        ({"learner": "ranks disagree"}, r"\[\(1, 1\), \(2, 0\)\] steps"),
        ({"reward": "scores with no numbers"}, "reward server: ValueError: R.t of the rows .* is no finite number"),
        ({"reward": "has no scores"}, "reward server: none of the 3 rollouts that were to be scored .* no number"),
        ({"learner": "cannot publish"}, "learner: MemoryError: object store is full"),
        ({"learner": "one cannot gather"}, "learner: MemoryError: no room for the head"),
    ],
)
def test_what_a_role_loses_or_breaks_is_noticed_and_named(make_driver, moods, words):
    driver, _, _ = make_driver(**moods)
    with pytest.raises(StageError, match=words):
        driver.run()
