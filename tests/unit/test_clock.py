"""Seconds for which a process has run, against a process that is stopped for a while."""

import signal
import subprocess
import sys
import time

import pytest

WATCH = """
import time
from pgrpo_ray.actors import clock
clock.TICK_S, clock.STOPPED_S = 0.05, 1.0
began, ran = time.monotonic(), clock.now()
print("ready", flush=True)
input()
while time.monotonic() - began < 0.5:
    time.sleep(0.1)
print(time.monotonic() - began, clock.now() - ran, flush=True)
"""


def test_the_time_for_which_a_process_is_stopped_does_not_count():
    with subprocess.Popen([sys.executable, "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(signal.SIGSTOP)
            time.sleep(3.0)
            child.send_signal(signal.SIGCONT)
            child.stdin.write(b"\n")
            child.stdin.flush()
            passed, ran = map(float, child.stdout.readline().split())
        finally:
            child.kill()
    assert passed > 3.0
    assert passed - 3.5 < ran < passed - 2.5


def test_a_process_that_waits_or_works_is_not_taken_for_a_stopped_one():
    with subprocess.Popen([sys.executable, "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(2.0)  # it waits for its input, longer than STOPPED_S
            child.stdin.write(b"\n")
            child.stdin.flush()
            passed, ran = map(float, child.stdout.readline().split())
        finally:
            child.kill()
    assert ran == pytest.approx(passed, abs=0.2)
