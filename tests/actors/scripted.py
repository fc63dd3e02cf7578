"""Real Ray actors whose work is scripted, and a driver for them: what can go wrong is told by a mood.

Engines are replaced here and only here; tests/integration runs the same driver with the real ones.
"""

import io
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

from pgrpo_ray.actors.checkpointing import CHECKPOINT
from pgrpo_ray.actors.cluster import WATCH, shipping
from pgrpo_ray.actors.group_flow import SAMPLING
from pgrpo_ray.actors.pools import CONTROL, ExecutionPools
from pgrpo_ray.actors.roles import RecorderRole
from pgrpo_ray.actors.scoring import GroupScorer
from pgrpo_ray.actors.spawn import Fleet
from pgrpo_ray.algo.rewards import RULES
from pgrpo_ray.config import parse
from pgrpo_ray.data import arrow
from pgrpo_ray.data.digests import digest_of
from pgrpo_ray.data.padding import TokenRows
from pgrpo_ray.data.scalars import scalar_table, thinking_table
from pgrpo_ray.driver import Driver
from pgrpo_ray.errors import EnvironmentFault, WeightSyncError
from pgrpo_ray.obs.checkpoint_files import put_file
from pgrpo_ray.obs.display import Display
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.types import CallCase, Judgement, Problem, TestStyle, Verdict

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
        assert version == self.version, (version, self.version)
        if self.mood == "samples with old weights" and self.meets_it:
            version = 0
        if self.mood == "dies at once" and self.meets_it:
            os._exit(1)
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

            if self.mood == "dies between groups" and self.meets_it:
                time.sleep(0.3)  # what it has yielded is on its way
                os._exit(1)

    def start(self):
        if self.mood == "does not start":
            raise MemoryError("no room for the model")

    def receive_weights(self, part):
        if self.version is not None and self.meets_it and self.mood == "dies over weights":
            os._exit(1)
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
        if self.version is not None and self.meets_it and self.mood == "dies while it loads":
            os._exit(1)
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

    def snapshot(self):
        if self.mood == "cannot copy":
            raise MemoryError("no room for a copy")

    def write_snapshot(self, draft):
        if self.mood == "meets a full disk":
            raise EnvironmentFault("cannot write: No space left on device")
        name = f"learner-{self.rank:05d}-of-00002.safetensors"
        return put_file(draft, name, lambda path: path.write_bytes(b"weights"))


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
        cluster=(),
        checkpoint=(),
        monitor=(),
        resumed=None,
        respawned="normal",
    ):
        config = parse(
            {
                "run": {"dir": str(tmp_path), "name": "scripted", "steps": steps, "max_rollouts": max_rollouts},
                "rollout": {"prompts_per_step": prompts, "group_size": GROUP, "num_workers": 2},
                "algo": {"num_mini_batches": 2} | dict(algo),
                "data": {"heldout_problems": heldout},
                "sync": dict(sync),
                "cluster": {"stage_timeout_s": 30} | dict(cluster),
                "checkpoint": {"every_steps": 0} | dict(checkpoint),
                "monitor": dict(monitor),
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

        def respawn(index):
            fleet.rollout[index] = remote(ScriptedRollout, respawned, ledger, index)
            return fleet.rollout[index]

        fleet.respawn = respawn
        log = RunLog(config, resume=resumed is not None)
        if resumed is not None:
            log.rewind(resumed[1].step)
        opened.append((log, fleet, reward))
        encoded = {problem.id: (1, 2, 3) for problem in problems + held}
        said = io.StringIO()
        display = Display(Console(file=said, width=500))
        driver = Driver(config, rule, problems, held, encoded, fleet, log, display, resumed)
        driver.said = said.getvalue
        return driver, fleet, log

    yield make
    for log, fleet, reward in opened:
        log.close()
        for actor in (*fleet.all(), reward):
            ray.kill(actor)


def versions(fleet):
    return ray.get([worker.held.remote() for worker in fleet.rollout])
