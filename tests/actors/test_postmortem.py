"""Actors that die in all the ways that one can provoke here, and what is told of each."""

import os
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError, RayError

from pgrpo_ray.actors.cluster import actor_class
from pgrpo_ray.actors.postmortem import _reason, _Remains, describe_death

pytestmark = [pytest.mark.ray]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
SUDDEN = "it ended without a word to Ray, as by SIGKILL, SIGTERM, a crash or os._exit"


class Mortal:
    def __init__(self, fails=False):
        if fails:
            raise ValueError("no such model")

    def speak(self):
        for number in range(30):
            print(f"line {number}")
        print("a complaint", file=sys.stderr)

    def exit_at_once(self, code):
        os._exit(code)

    def exit(self, code):
        sys.exit(code)

    def signal(self, number):
        os.kill(os.getpid(), number)
        time.sleep(60)

    def leave(self):
        ray.actor.exit_actor()


def born(*args, **options):
    return actor_class(Mortal, cpus=0, threads=1, **options).remote(*args)


def lives(actor):
    return ray.get(actor.ping.remote(), timeout=60)


def error_of(ref):
    with pytest.raises(RayError) as caught:
        ray.get(ref, timeout=60)
    return caught.value


@pytest.mark.usefixtures("local_ray")
class TestOnALivingNode:
    def test_a_killed_one_is_told_of_with_its_last_lines(self):
        actor = born()
        pulse = lives(actor)
        ray.get(actor.speak.remote(), timeout=60)
        os.kill(pulse.pid, signal.SIGKILL)
        death = describe_death(actor, error_of(actor.speak.remote()), "rollout worker 1", pulse=pulse)
        assert death.log_lines == (*(f"line {number}" for number in range(11, 30)), "a complaint")
        assert (death.pid, death.node_id, death.address) == (pulse.pid, pulse.node_id, pulse.address)
        assert death.node_alive
        assert 0 < death.node_used_bytes < death.node_total_bytes
        assert death.resident_bytes == pulse.resident_bytes
        assert death.reason.startswith(SUDDEN)
        told = f"rollout worker 1 (pid {pulse.pid} on {pulse.address}, node {pulse.node_id[:6]}) died: {SUDDEN}"
        assert str(death).startswith(told)
        assert " GiB in use now." in str(death)

    @pytest.mark.parametrize(
        ("call", "argument", "reason"),
        [
            ("exit_at_once", [3], SUDDEN),
            ("exit", [3], "it left with exit code 3"),
            ("leave", [], "it left with exit code 0 .*exit_actor"),
            ("signal", [signal.SIGSEGV], "it crashed with SIGSEGV .Segmentation fault"),
        ],
    )
    def test_how_one_ended_itself(self, call, argument, reason):
        actor = born()
        error = error_of(getattr(actor, call).remote(*argument))
        death = describe_death(actor._actor_id.hex(), error, "learner rank 0")  # an id does as well
        assert re.match(reason, death.reason), death
        assert death.pid
        assert death.note == ""

    def test_one_that_we_killed(self):
        actor = born()
        lives(actor)
        ray.kill(actor)
        while not lives_not(actor):  # the kill is a message: a call sent right after it may still be answered
            time.sleep(0.05)
        death = describe_death(actor, error_of(actor.speak.remote()), "recorder")
        assert death.reason == "ended on purpose (The actor is dead because it was killed by `ray.kill`)"

    def test_a_constructor_that_failed(self):
        actor = born(True)
        death = describe_death(actor, error_of(actor.speak.remote()), "learner rank 1")
        assert death.reason == "its constructor raised ValueError: no such model"
        assert death.log_lines[-1] == "ValueError: no such model"

    def test_of_one_that_ray_restarts_it_is_the_process_before_that_is_told_of(self):
        actor = born(max_restarts=2)
        pulses = []
        for _ in range(2):
            pulses.append(lives(actor))
            error = error_of(actor.exit_at_once.remote(3))
            while lives_not(actor):
                time.sleep(0.1)
        assert lives(actor).pid not in {pulse.pid for pulse in pulses}
        assert describe_death(actor, error, "pool").pid == pulses[1].pid
        assert describe_death(actor, error, "pool", pulse=pulses[0]).pid == pulses[0].pid
        assert describe_death(actor, None, "pool", pulse=pulses[1]).reason.startswith(SUDDEN)

    def test_what_nobody_knows_is_said_to_be_unknown(self):
        error = ActorDiedError()
        death = describe_death(None, error, "somebody")
        assert death.reason == "The actor died unexpectedly before finishing this task"
        assert death.note.startswith("Nothing more is known: ")
        absent = describe_death("ff" * 16, error, "somebody", timeout_s=1.0)
        assert (absent.pid, absent.node_alive, absent.log_lines) == (0, None, ())
        assert str(absent) == "somebody died: The actor died unexpectedly before finishing this task."


def lives_not(actor):
    try:
        lives(actor)
    except RayError:
        return True
    return False


@pytest.mark.parametrize(
    ("remains", "oom_kills", "reason"),
    [
        (_Remains(kernel_kill="Killed process 7 (ray::A)"), 0, "killed by the kernel for want of memory (Killed pro"),
        (
            _Remains(oom_kills=3),
            1,
            "killed by the kernel, it seems: for want of memory that has ended 2 of its cgroup's",
        ),
        (_Remains(oom_kills=2), 2, f"{SUDDEN}; the kernel killed nothing for want of memory there"),
        (_Remains(oom_kills=None), 2, SUDDEN),
    ],
)
def test_signs_that_the_kernel_ran_out_of_memory(remains, oom_kills, reason):
    from ray.core.generated import gcs_pb2

    detail = "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1)"
    process = gcs_pb2.WorkerTableData(exit_detail=detail)
    pulse = SimpleNamespace(oom_kills=oom_kills)
    assert _reason(None, gcs_pb2.ActorTableData(), process, None, remains, pulse).startswith(reason)
