"""The gate of the execution pool: who is inside, who waits."""

import threading
import time

import pytest

from pgrpo_ray.sandbox.gate import Gate

SOON_S = 3.0
"""How long anything that needs no waiting may take on a busy machine."""


def until(condition):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


class Visits:
    """Threads that enter a gate and stay inside until told to leave."""

    def __init__(self, gate):
        self.gate, self.inside, self.leave, self.threads = gate, [], {}, []

    def send(self, name, alone=False):
        self.leave[name] = threading.Event()

        def visit():
            with self.gate.alone() if alone else self.gate.together():
                self.inside.append(name)
                self.leave[name].wait(SOON_S)
                self.inside.remove(name)

        thread = threading.Thread(target=visit, daemon=True)
        thread.start()
        self.threads.append(thread)

    def settle(self, *names):
        """Wait until just these are inside, and see that it stays so."""
        until(lambda: sorted(self.inside) == sorted(names))
        time.sleep(0.05)
        assert sorted(self.inside) == sorted(names)


def test_the_gate_lets_many_in_or_one_alone():
    visits = Visits(Gate())
    visits.send("a")
    visits.send("b")
    visits.settle("a", "b")
    visits.send("loner", alone=True)
    visits.settle("a", "b")
    visits.leave["a"].set()
    visits.settle("b")
    visits.send("late")  # later than the loner, so after it
    visits.settle("b")
    visits.leave["b"].set()
    visits.settle("loner")
    visits.send("second loner", alone=True)
    visits.settle("loner")
    visits.leave["loner"].set()
    visits.settle("second loner")
    visits.leave["second loner"].set()
    visits.settle("late")
    visits.leave["late"].set()
    visits.settle()
    visits.send("next")
    visits.settle("next")
    visits.leave["next"].set()


def test_loners_do_not_starve_among_a_crowd():
    gate, stop, met, inside = Gate(), threading.Event(), [], []

    def crowd():
        while not stop.is_set():
            with gate.together():
                inside.append(1)
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=crowd, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with gate.alone():
            met.append(len(inside))
    stop.set()
    for thread in threads:
        thread.join(SOON_S)
    assert met == [0] * 20


@pytest.mark.parametrize("way", ["alone", "together"])
def test_who_leaves_the_gate_by_an_exception_has_left(way):
    gate = Gate()
    with pytest.raises(KeyError), getattr(gate, way)():
        raise KeyError
    visits = Visits(gate)
    visits.send("loner", alone=True)
    visits.settle("loner")
    visits.leave["loner"].set()
    visits.send("other")
    visits.settle("other")
    visits.leave["other"].set()
