"""Who judges a group, and who when a pool fails: the driver's handle of all pools, on actors with scripted verdicts."""

import os
import sys
import time
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray

from pgrpo_ray.actors import pools as module
from pgrpo_ray.actors.pools import CONTROL, ExecutionPools
from pgrpo_ray.data import arrow
from pgrpo_ray.data.scalars import scalar_table
from pgrpo_ray.errors import DataError, EnvironmentFault, StageError
from pgrpo_ray.types import Judgement, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name


class ScriptedPool:
    def __init__(self, mood):
        self.mood = mood
        self.groups = 0

    def judge(self, rollouts):
        self.groups += 1
        if self.mood == "dies":
            os._exit(1)
        if self.mood == "cannot start":
            raise EnvironmentFault("no image here")
        if self.mood == "defect":
            raise ZeroDivisionError("one over nothing")
        if self.mood == "hangs":
            time.sleep(60)
        passed, lost = Judgement(Verdict.PASSED, 0, 1, 0.0, ""), Judgement(None, 0, 1, 0.0, "", error="no Docker")
        broken = {"broken": {"p", "q"}, "breaks for p": {"p"}}.get(self.mood, ())
        rows = zip(rollouts["problem_id"].to_pylist(), rollouts["program"].to_pylist(), strict=True)
        verdicts = arrow.verdict_table([program and (lost if name in broken else passed) for name, program in rows])
        return verdicts, scalar_table(rollouts, verdicts)

    @ray.method(concurrency_group=CONTROL)
    def judged(self):
        return self.groups

    def stats(self):
        return SimpleNamespace(cache_hits=2, cache_lookups=7, restarts=1)


@pytest.fixture
def make_pools():
    opened = []

    def make(*moods, deadline_s=60.0, startup_s=300.0):
        kind = ray.remote(num_cpus=0, concurrency_groups={CONTROL: 1})(ScriptedPool)
        actors = {f"pool {n}": kind.remote(mood) for n, mood in enumerate(moods)}
        ray.get([actor.stats.remote() for actor in actors.values()])
        pools = ExecutionPools(actors, 64, deadline_s, startup_s)
        opened.extend(pools.actors)
        return pools

    yield make
    for actor in opened:
        ray.kill(actor)


@pytest.fixture
def group(rollout_table):
    return ray.put(rollout_table("p", ["x", None]))


def judged(pools, group):
    """Follow a group to its end, as the driver does; return its scalars."""
    judging = pools.judge(group)
    while (scalars := pools.answer(judging, 30)) is None:
        judging = pools.again(judging)
    return scalars


def answered(pools):
    return [ray.get(actor.judged.remote()) for actor in pools.actors]


def test_groups_go_to_the_pool_with_the_fewest(make_pools, group):
    pools = make_pools("works", "works", "works")
    waiting = [pools.judge(group) for _ in range(6)]
    first = [judging for judging in waiting if judging.tried[0].name == "pool 1"]
    assert [pools.answer(judging, 30)["verdict"].to_pylist() for judging in first] == [["passed", None]] * 2
    more = [pools.judge(group) for _ in range(2)]
    assert [judging.tried[0].name for judging in more] == ["pool 1", "pool 1"]
    for judging in [*waiting, *more]:
        ray.get(judging.scalars)
    assert answered(pools) == [2, 4, 2]


@pytest.mark.parametrize("mood", ["dies", "cannot start", "broken"])
def test_what_one_pool_loses_another_judges(make_pools, group, mood):
    pools = make_pools(mood, "works")
    for _ in range(5):
        assert judged(pools, group)["verdict"].to_pylist() == ["passed", None]
    assert pools.counts().judged_again == 1  # then the failing one rests, though it always has the fewest groups
    assert ray.get(pools.by_name["pool 1"].judged.remote()) == 5


def test_of_groups_that_travel_together_one_that_is_lost_is_judged_by_another(make_pools, rollout_table):
    pools = make_pools("breaks for p", "works")
    together = ray.put(pa.concat_tables([rollout_table("q", ["x"]), rollout_table("p", ["x", "x"])]))
    assert judged(pools, together)["verdict"].to_pylist() == ["passed"] * 3
    assert pools.counts().judged_again == 1


def test_what_a_hanging_pool_keeps_another_judges(make_pools, group):
    pools = make_pools("hangs", "works", deadline_s=0.5, startup_s=0.5)
    judging = pools.judge(group)
    assert pools.overdue([judging]) == []
    time.sleep(1.1)
    assert pools.overdue([judging]) == [judging]
    assert pools.answer(judging, 30) is None
    again = pools.again(judging)
    assert pools.judge(group).tried[0].name == "pool 1"  # the hanging one rests, though nobody has fewer groups
    assert pools.overdue([again]) == []
    assert pools.answer(again, 30)["verdict"].to_pylist() == ["passed", None]
    assert pools.counts().judged_again == 1


def test_where_all_pools_hang_the_rollouts_say_so(make_pools, group):
    pools = make_pools("hangs", "hangs", deadline_s=0.2, startup_s=0.2)
    judging = pools.judge(group)
    for _ in range(2):
        time.sleep(0.5)
        assert pools.answer(judging, 30) is None
        judging = pools.again(judging)
    time.sleep(0.5)
    assert pools.overdue([judging]) == []  # no pool has it
    errors = pools.answer(judging, 30)["execution_error"].to_pylist()
    assert errors == ["pool 0: no answer within 0.4 s.", None]


def test_dead_pools_are_not_tried_again_and_do_not_count(make_pools, group, monkeypatch):
    monkeypatch.setattr(module, "REST_S", 0.0)
    pools = make_pools(*["dies"] * module.MAX_POOLS_TRIED, "works")
    assert pools.max_groups(8) == 32
    for _ in range(2):
        assert judged(pools, group)["verdict"].to_pylist() == ["passed", None]
    assert pools.counts().judged_again == module.MAX_POOLS_TRIED
    assert pools.max_groups(8) == 8


def test_counts_go_by_their_names(make_pools):
    pools = make_pools("works", "works")
    assert pools.counts() == (4, 14, 2, 0)
    assert pools.counts() == (0, 0, 0, 0)


def test_a_rested_pool_is_tried_again(make_pools, group, monkeypatch):
    monkeypatch.setattr(module, "REST_S", 0.2)
    pools = make_pools("broken", "works")
    for _ in range(2):
        judged(pools, group)
        time.sleep(0.3)
    assert answered(pools) == [2, 2]


@pytest.mark.parametrize(
    ("moods", "cause"),
    [
        (["dies"], "pool 0: its process died"),
        (["broken"], "no Docker"),
        (["cannot start", "dies"], "no image here"),
        (["broken", "cannot start"], "no Docker"),
        (["broken"] * 4, "no Docker"),
    ],
)
def test_where_nobody_can_the_rollouts_say_the_first_cause(make_pools, group, moods, cause):
    pools = make_pools(*moods)
    scalars = judged(pools, group)
    assert scalars["verdict"].to_pylist() == [None, None]
    error, none = scalars["execution_error"].to_pylist()
    assert cause in error
    assert none is None  # a rollout without a program is not the machinery's loss
    assert scalars["response_length"].to_pylist() == [1, 1]


def test_after_its_deadline_a_group_is_not_judged_again(make_pools, group):
    pools = make_pools("broken", "works", deadline_s=0.0)
    assert judged(pools, group)["execution_error"].to_pylist() == ["no Docker", None]


def test_a_defect_is_heard(make_pools, group):
    with pytest.raises(StageError, match="pool 0: ZeroDivisionError: one over nothing"):
        judged(make_pools("defect", "works"), group)


def test_broken_rollouts_are_not_the_pools_fault(make_pools):
    @ray.remote(num_cpus=0)
    def broken():
        raise DataError("torn")

    pools = make_pools("works", "works")
    with pytest.raises(DataError, match="torn"):
        judged(pools, broken.remote())


def test_the_bound_on_waiting_groups(make_pools):
    pools = make_pools("works", "works")
    assert pools.max_groups(8) == 16  # 64 programs in each of two queues
    assert pools.max_groups(1000) == 4
