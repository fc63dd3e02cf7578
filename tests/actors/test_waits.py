"""Waiting on real actors: the first cause is kept, and no wait is endless."""

import os
import sys
import time
from types import SimpleNamespace

import pytest
import ray

from pgrpo_ray.actors import clock, waits
from pgrpo_ray.errors import DataError, StageError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name


class Role:
    def fail(self):
        raise ZeroDivisionError("one over nothing")

    def complain(self):
        raise DataError("not JSON", file="a.jsonl", line=7)

    def die(self):
        os._exit(1)

    def sleep(self):
        time.sleep(60)

    def answer(self):
        return 42

    def answer_late(self):
        time.sleep(3)
        return 42

    def count(self, stall):
        yield 1
        yield 2
        if stall:
            time.sleep(60)


@pytest.fixture
def role():
    actor = ray.remote(Role).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


def test_an_answer_comes_through(role):
    assert waits.get(role.answer.remote(), 30, "reward server") == 42


def test_a_foreign_error_names_stage_and_cause(role):
    with pytest.raises(StageError, match="reward server: ZeroDivisionError: one over nothing") as caught:
        waits.get(role.fail.remote(), 30, "reward server")
    assert caught.value.stage == "reward server"


def test_our_own_error_arrives_as_itself(role):
    with pytest.raises(DataError) as caught:
        waits.get(role.complain.remote(), 30, "learner")
    assert (caught.value.file, caught.value.line) == ("a.jsonl", 7)


def test_a_death_names_the_stage(role):
    with pytest.raises(StageError, match="learner: its process died"):
        waits.get(role.die.remote(), 30, "learner")


def test_a_wait_for_a_value_ends(role):
    with pytest.raises(StageError, match="learner: no answer within 1 s"):
        waits.get(role.sleep.remote(), 1, "learner")


def test_a_wait_for_any_ends(role):
    with pytest.raises(StageError, match="rollout worker: nothing finished within 1 s"):
        waits.wait_any([role.sleep.remote()], 1, "rollout worker")


def test_a_wait_for_any_returns_all_that_is_there_in_order(role):
    there = [ray.put(number) for number in range(5)]
    late = role.sleep.remote()
    assert waits.wait_any([there[3], late, *there[:3], there[4]], 30, "reward server") == [
        there[3],
        *there[:3],
        there[4],
    ]


def test_a_wait_for_any_gives_up_what_is_overdue_before_its_end(role, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    ref, began = role.sleep.remote(), time.monotonic()
    overdue = lambda: [ref] if time.monotonic() > began + 0.5 else []  # noqa: E731
    assert waits.wait_any([ref], 30, "execution pool", overdue) == [ref]
    assert time.monotonic() - began < 10
    with pytest.raises(StageError, match="execution pool: nothing finished within 1 s"):
        waits.wait_any([ref], 1, "execution pool", lambda: [])


def test_who_was_stopped_does_not_find_the_others_late(role, monkeypatch):
    """The stop of this process is a jump of its monotonic clock, one second after the wait began."""
    began, stopped = time.monotonic(), 1000.0
    jumping = lambda: time.monotonic() + (stopped if time.monotonic() > began + 1 else 0.0)  # noqa: E731
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=jumping, sleep=time.sleep))
    monkeypatch.setattr(clock, "now", clock.RunningClock().now)
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    clock.now()
    assert waits.get(role.answer_late.remote(), 20, "learner", waits.wait_any) == 42
    with pytest.raises(StageError, match="nothing finished within 1 s"):
        waits.wait_any([role.sleep.remote()], 1, "learner")


def test_a_stream_is_ready_for_each_item_and_for_its_end_and_a_stalled_one_is_late(role):
    for stalls in (False, True):
        stream = role.count.options(num_returns="streaming").remote(stalls)
        for number in (1, 2):
            assert waits.wait_any([stream], 30, "learner") == [stream]
            assert waits.get(next(stream), 30, "learner") == number
        if stalls:
            with pytest.raises(StageError, match="learner: nothing finished within 2 s"):
                waits.wait_any([stream], 2, "learner")
        else:
            assert waits.wait_any([stream], 30, "learner") == [stream]
            assert next(stream, None) is None
