"""The engine's thread: groups, weights and giving up at the same time, and errors that reach whoever waits."""

import itertools
import threading
import time
from typing import ClassVar

import pytest

from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.rollout import engine_loop
from pgrpo_ray.rollout.engine_loop import EngineLoop
from pgrpo_ray.types import PromptRequest, SampledGroup


class SlowEngine:
    """One token a step; a group ends after as many as its request's seed says. Notes the threads that touch it."""

    parameters: ClassVar = {"w": ("float32", (1,))}

    def __init__(self, step_s=0.001):
        self.policy_version = 0
        self.step_s = step_s
        self.running = {}
        self.spans = {}
        self.number = self.steps = 0
        self.threads = {threading.get_ident()}
        self.fault = None
        self.broken = self.paused = False

    def add(self, request, group_size, temperature):
        self.threads.add(threading.get_ident())
        if request.prompt_ids == ():
            raise ValueError("an empty prompt")
        self.number += 1
        self.running[str(self.number)] = [request, group_size, request.seed, []]
        return str(self.number)

    def step(self):
        self.threads.add(threading.get_ident())
        time.sleep(self.step_s)
        self.steps += 1
        if self.fault:
            raise self.fault
        if self.broken:
            raise WeightSyncError("a mixture")
        ended = []
        for name, state in list(self.running.items()):
            request, size, left, spans = state
            token = request.seed - left
            if not spans or spans[-1][0] != self.policy_version:
                spans.append((self.policy_version, token))
            state[2] -= 1
            if not state[2]:
                del self.running[name]
                ids = tuple([1] * request.seed for _ in range(size))
                ended.append((name, SampledGroup(request, ids, ids, ("stop",) * size, (tuple(spans),) * size)))
        return ended

    def abort(self, ids):
        self.threads.add(threading.get_ident())
        for name in ids:
            self.running.pop(name, None)

    def load_weights(self, weights, version):
        self.threads.add(threading.get_ident())
        self.broken = True
        dict(weights)
        self.broken, self.policy_version = False, version


def requests(*lengths):
    return [PromptRequest(f"p{number}", (1,), length) for number, length in enumerate(lengths)]


@pytest.fixture
def loop():
    made = EngineLoop(SlowEngine)
    yield made
    made.close()
    made._thread.join(5)
    assert not made._thread.is_alive()


def sampled(loop, *args):
    """One group after another."""
    return itertools.chain.from_iterable(loop.generate(*args))


def test_groups_that_end_while_nobody_takes_them_come_together(loop):
    stream = loop.generate(requests(1, 2, 2, 2, 3), 1, 1.0, 0, together=2)
    names = [[group.request.problem_id for group in next(stream)]]
    time.sleep(0.2)  # the rest ends meanwhile
    names += [[group.request.problem_id for group in groups] for groups in stream]
    assert names == [["p0"], ["p1", "p2"], ["p3", "p4"]]


def test_groups_come_as_they_end_and_one_thread_touches_the_engine(loop):
    names = [group.request.problem_id for group in sampled(loop, requests(9, 3, 6), 2, 1.0, 0)]
    assert names == ["p1", "p2", "p0"]
    loop.load_weights([], 1)
    assert [len(group.response_ids) for group in sampled(loop, requests(1), 4, 1.0, 1)] == [4]
    assert len(loop._engine.threads) == 1 and threading.get_ident() not in loop._engine.threads


def test_new_weights_reach_responses_that_are_half_sampled(loop):
    found = []
    thread = threading.Thread(target=lambda: found.extend(sampled(loop, requests(5, 200), 1, 1.0, 0)))
    thread.start()
    while not found:
        time.sleep(0.001)
    loop.load_weights([], 7)
    thread.join(10)
    assert found[0].versions == (((0, 0),),)
    (first, start), (second, later) = found[1].versions[0]
    assert (first, start, second) == (0, 0, 7)
    assert 5 <= later < 200


def test_calls_share_the_engine_and_one_is_dropped_by_name(loop):
    kept, dropped = [], []
    threads = [
        threading.Thread(target=lambda: kept.extend(sampled(loop, requests(100, 100), 1, 1.0, 0, "kept"))),
        threading.Thread(target=lambda: dropped.extend(sampled(loop, requests(2, 10**6), 1, 1.0, 0, "dropped"))),
    ]
    for thread in threads:
        thread.start()
    while not dropped:
        time.sleep(0.001)
    assert loop.drop("dropped") == 1
    assert loop.drop("dropped") == 0
    for thread in threads:
        thread.join(10)
    assert (len(kept), len(dropped)) == (2, 1)
    assert not loop._engine.running


def test_a_caller_that_stops_early_leaves_nothing_behind(loop):
    stream = loop.generate(requests(1, 10**6), 1, 1.0, 0)
    next(stream)
    stream.close()
    assert not loop._engine.running
    with pytest.raises(ValueError, match="an empty prompt"):
        next(loop.generate([*requests(10**6), PromptRequest("bad", (), 1)], 1, 1.0, 0))
    assert not loop._engine.running and not loop._calls


def test_what_nobody_takes_stops_the_engine_and_weights_still_load(loop):
    stream = sampled(loop, requests(*range(1, 40)), 1, 1.0, 0)
    first = next(stream)
    time.sleep(0.2)
    stopped = loop._engine.steps
    assert stopped <= 2 + engine_loop.AHEAD
    loop.load_weights([], 1)
    time.sleep(0.05)
    assert loop._engine.steps == stopped
    assert len([first, *stream]) == 39


def test_nothing_is_sampled_while_a_version_arrives_part_by_part(loop):
    def begin(engine):
        engine.paused = True

    def end(engine):
        engine.policy_version, engine.paused = 1, False

    stream = loop.generate(requests(40), 1, 1.0, 0)
    thread = threading.Thread(target=lambda: groups.extend(next(stream)))
    groups = []
    thread.start()
    while not loop.order(lambda engine: engine.running):
        time.sleep(0.001)
    loop.order(begin)
    steps = loop.order(lambda engine: engine.steps)
    time.sleep(0.05)
    assert loop.order(lambda engine: engine.steps) == steps < 40
    loop.order(end)
    thread.join(10)
    assert [version for version, _ in groups[0].versions[0]] == [0, 1]


def test_an_error_of_the_engine_reaches_everyone_who_waits(loop):
    errors = []

    def ask():
        try:
            list(sampled(loop, requests(10**6), 1, 1.0, 0))
        except ZeroDivisionError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(loop._engine.running) < 2:
        time.sleep(0.001)
    loop._engine.fault = ZeroDivisionError("no engine")
    for thread in threads:
        thread.join(10)
    assert len(errors) == 2
    loop._engine.fault = None
    assert len(list(sampled(loop, requests(1), 1, 1.0, 0))) == 1


def test_weights_that_do_not_load_end_the_calls_that_are_open(loop):
    errors = []

    def ask():
        try:
            list(sampled(loop, requests(10**6), 1, 1.0, 0))
        except WeightSyncError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not loop._engine.running:
        time.sleep(0.001)
    with pytest.raises(TypeError):
        loop.load_weights([1], 1)
    thread.join(10)
    assert len(errors) == 1


def test_an_engine_that_cannot_be_made_says_so():
    def broken():
        raise OSError("no such model")

    before = threading.active_count()
    with pytest.raises(OSError, match="no such model"):
        EngineLoop(broken)
    time.sleep(0.05)
    assert threading.active_count() == before
