"""Who judges a group, and who when a pool fails: the driver's handle of all pools, on actors with scripted verdicts."""

import os
import sys
import time

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
        broken = self.mood == "broken"
        judgement = Judgement(None if broken else Verdict.PASSED, 0, 1, 0.0, "", error="no Docker" if broken else None)
        programs = rollouts["program"].to_pylist()
        verdicts = arrow.verdict_table([None if program is None else judgement for program in programs])
        return verdicts, scalar_table(rollouts, verdicts)

    def judged(self):
        return self.groups


@pytest.fixture
def make_pools():
    opened = []

    def make(*moods, deadline_s=60.0):
        kind = ray.remote(num_cpus=0, concurrency_groups={CONTROL: 1})(ScriptedPool)
        pools = ExecutionPools({f"pool {n}": kind.remote(mood) for n, mood in enumerate(moods)}, 64, deadline_s)
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
    assert pools._judged_again == 1  # then the failing one rests, though it always has the fewest groups
    assert answered(pools)[1:] == [5] if mood != "dies" else True


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
