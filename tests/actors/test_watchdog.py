"""Processes that are stopped, stuck, busy, killed, or not up yet, and what the watchdog says of each."""

import ctypes
import os
import signal
import sys
import time

import pytest
import ray

from pgrpo_ray.actors import watchdog as watchdog_module
from pgrpo_ray.actors.cluster import actor_class
from pgrpo_ray.actors.watchdog import Watchdog

pytestmark = [pytest.mark.ray]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
SILENCE_S, STARTUP_S = 4.0, 30.0
A_LITTLE_S = 8.0
"""A second ping, a task's start and the dump, on a busy machine."""


class Worker:
    def __init__(self, stall_s=0.0):
        time.sleep(stall_s)

    def compute(self, seconds):
        self.count_down(time.monotonic() + seconds)

    def count_down(self, end):
        while time.monotonic() < end:
            sum(range(1000))

    def hold_the_interpreter(self, seconds):
        ctypes.PyDLL(None).sleep(seconds)  # PyDLL keeps the interpreter's lock

    def take(self, argument):
        return argument

    def exit_at_once(self, code):
        print("last words")
        os._exit(code)


def worker(*args, **options):
    return actor_class(Worker, cpus=0, threads=1, **options).remote(*args)


@pytest.fixture
def hire(local_ray):
    """Make workers that a watchdog watches and that have answered."""
    hired = []

    def make(dog, name, *args, answers=True, **options):
        actor = worker(*args, **options)
        hired.append(actor)
        dog.watch(name, actor, "rollout worker")
        if answers:
            ray.get(actor.ping.remote(), timeout=60)
            until(dog, lambda seen: dog._watched[name].pulse, 60)
        return actor

    yield make
    for actor in hired:
        ray.kill(actor)


def until(dog, fulfilled, seconds):
    """Look on until what is seen fulfils the condition; return it and how long that took."""
    start = time.monotonic()
    while not fulfilled(seen := dog.look()):
        assert time.monotonic() - start < seconds, seen
        time.sleep(0.2)
    return seen, time.monotonic() - start


def watched_for(dog, seconds):
    """All that is seen in that time."""
    start, silent, dead = time.monotonic(), [], []
    while time.monotonic() - start < seconds:
        seen = dog.look()
        silent += seen.silent
        dead += seen.dead
        time.sleep(0.2)
    return silent, dead


def test_a_stopped_process_is_found_with_where_it_stands_until_it_goes_on(hire):
    dog = Watchdog(SILENCE_S, STARTUP_S)
    hire(dog, "rollout worker 0")
    stopped = hire(dog, "rollout worker 1")
    pid = ray.get(stopped.ping.remote(), timeout=60).pid
    computing = stopped.compute.remote(5)
    time.sleep(0.5)
    os.kill(pid, signal.SIGSTOP)
    try:
        seen, took = until(dog, lambda seen: seen.silent, 2 * SILENCE_S + A_LITTLE_S)
        assert SILENCE_S - 1 < took < SILENCE_S + SILENCE_S / 3 + A_LITTLE_S
        assert seen.dead == []
        (silent,) = seen.silent
        assert (silent.name, silent.role, silent.place.pid) == ("rollout worker 1", "rollout worker", pid)
        assert silent.since_s >= SILENCE_S
        functions = [frame.rpartition(" ")[2] for frame in silent.stacks[0].frames]
        assert functions == ["count_down", "compute"]
        told = f"rollout worker 1 (pid {pid} on {silent.place.address}) has not answered for {silent.since_s:.0f} s; "
        assert str(silent).startswith(told + "its process is stopped by a signal (SIGSTOP")
        assert str(silent).endswith(f", in {' <- '.join(silent.stacks[0].frames)}.")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(dog, lambda seen: not seen.silent, 5)
    ray.get(computing, timeout=60)
    assert watched_for(dog, SILENCE_S) == ([], [])


def test_who_computes_answers_and_who_holds_the_interpreter_does_not(hire):
    dog = Watchdog(SILENCE_S, STARTUP_S)
    computing, holding = hire(dog, "computing"), hire(dog, "holding")
    refs = [computing.compute.remote(16), holding.hold_the_interpreter.remote(16)]
    seen, _ = until(dog, lambda seen: seen.silent, 15)
    (silent,) = seen.silent
    assert silent.name == "holding"
    assert silent.stacks[0].frames[0].endswith(" hold_the_interpreter")
    assert ray.wait(refs, num_returns=2, timeout=0)[0] == []  # both were still at it
    ray.get(refs, timeout=60)
    until(dog, lambda seen: not seen.silent, 5)


def test_a_call_that_waits_for_its_argument_does_not_make_its_actor_silent(hire):
    dog = Watchdog(SILENCE_S, STARTUP_S)
    actor = hire(dog, "waiting")
    late = ray.remote(num_cpus=0)(lambda: time.sleep(16)).remote()
    ref = actor.take.remote(late)
    assert watched_for(dog, 14) == ([], [])
    assert ray.wait([ref], timeout=0)[0] == []
    ray.get(ref, timeout=60)


def test_a_start_has_its_own_time(hire):
    dog = Watchdog(SILENCE_S, startup_s=14.0)
    hire(dog, "starting", 60.0, answers=False)
    start = time.monotonic()
    silent, dead = watched_for(dog, 12)
    assert (silent, dead) == ([], [])
    seen, _ = until(dog, lambda seen: seen.silent, 14 + A_LITTLE_S - (time.monotonic() - start))
    (silent,) = seen.silent
    assert silent.never_answered
    assert "has not finished its start within" in str(silent)
    assert any(frame.endswith(" __init__") for frame in silent.stacks[0].frames)


def test_one_that_no_node_can_hold_is_said_to_have_no_process(hire):
    dog = Watchdog(SILENCE_S, startup_s=3.0)
    hire(dog, "learner rank 9", answers=False, resources={"nowhere": 1})
    seen, _ = until(dog, lambda seen: seen.silent, 10)
    assert str(seen.silent[0]).endswith("it has no process yet; for Ray it is PENDING_CREATION.")


def test_a_killed_one_is_dead_and_not_silent(hire):
    dog = Watchdog(SILENCE_S, STARTUP_S)
    actor = hire(dog, "learner rank 0")
    pulse = dog._watched["learner rank 0"].pulse
    actor.exit_at_once.remote(3)
    seen, took = until(dog, lambda seen: seen.dead, SILENCE_S + A_LITTLE_S)
    assert took < SILENCE_S
    (dead,) = seen.dead
    assert seen.silent == []
    assert (dead.name, dead.pulse.pid, dead.comes_back) == ("learner rank 0", pulse.pid, False)
    death = dead.describe()
    assert death.pid == pulse.pid
    assert death.log_lines == ("last words",)
    assert death.reason.startswith("it ended without a word to Ray")
    assert dog.look().dead == [dead]
    dog.forget("learner rank 0")
    assert dog.look() == ([], [])


@pytest.mark.parametrize("noticed", [True, False], ids=["while it restarts", "after it has restarted"])
def test_one_that_ray_restarts_is_dead_until_it_answers_again(hire, noticed):
    dog = Watchdog(SILENCE_S, STARTUP_S)
    actor = hire(dog, "execution pool", max_restarts=1)
    pulse = dog._watched["execution pool"].pulse
    os.kill(pulse.pid, signal.SIGKILL)
    if not noticed:
        until(dog, lambda seen: dog._watched["execution pool"].ref is None, 10)
        while True:
            try:
                ray.get(actor.ping.remote(), timeout=60)
                break
            except ray.exceptions.RayError:
                time.sleep(0.1)
    seen, _ = until(dog, lambda seen: seen.dead, 10)
    (dead,) = seen.dead
    assert dead.comes_back
    assert dead.pulse == pulse
    assert dead.describe().pid == pulse.pid
    until(dog, lambda seen: not seen.dead, 30)
    assert dog._watched["execution pool"].pulse.pid != pulse.pid


def test_a_failed_constructor_is_a_death(hire):
    dog = Watchdog(SILENCE_S, STARTUP_S)
    hire(dog, "learner rank 1", "no number", answers=False)
    seen, _ = until(dog, lambda seen: seen.dead, STARTUP_S)
    assert seen.dead[0].describe().reason.startswith("its constructor raised TypeError: ")


def test_nobody_is_silent_at_once_after_the_driver_was_away(hire, monkeypatch):
    dog = Watchdog(SILENCE_S, STARTUP_S)
    hire(dog, "rollout worker 0")
    stopped = hire(dog, "rollout worker 1")
    pid = ray.get(stopped.ping.remote(), timeout=60).pid
    until(dog, lambda seen: all(watched.ref is None for watched in dog._watched.values()), 10)
    os.kill(pid, signal.SIGSTOP)
    try:
        until(dog, lambda seen: dog._watched["rollout worker 1"].ref is not None, 10)
        away = time.monotonic
        monkeypatch.setattr(watchdog_module.time, "monotonic", lambda: away() + 3600)
        dog.look()
        assert not dog._examinations  # one look after an hour is no reason
        seen, _ = until(dog, lambda seen: seen.silent, 2 * SILENCE_S + A_LITTLE_S)
        assert [silent.name for silent in seen.silent] == ["rollout worker 1"]
        assert seen.silent[0].since_s < 60
    finally:
        os.kill(pid, signal.SIGCONT)
