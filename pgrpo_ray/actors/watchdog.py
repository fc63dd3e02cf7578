"""Watches the processes of the roles while the driver waits: who does not answer, where it hangs, who died.

Every actor is asked now and then for a `ping`, which has a thread of its own there, so that a busy actor answers: what
is watched is the process, not its work. Who is silent for too long is examined on its node by a task. That pings it
once more, as a ping of the driver's waits behind the driver's earlier calls of that actor while their arguments are on
their way; who does not answer either has its stacks read. `look` never waits for any of this: it tells what is there.

Time here is the watchdog's own: between two looks it moves by a part of `silence_s` at most. So nobody is silent at
once after the driver itself was suspended, or busy with other things.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayError

from pgrpo_ray.actors import evidence
from pgrpo_ray.actors.evidence import Finding, Pulse, Stack
from pgrpo_ray.actors.postmortem import TIMEOUT_S, Death, Place, describe_death, logs_folder, on_node, place_of

PINGS = 3
"""How often an actor is asked within `silence_s`; also how many looks it takes at least to find it silent. Ours."""
SECOND_PING_S = 3.0
"""For an actor to answer the task that examines it."""
EXAMINE_S = 20.0
"""For a node to examine those of its actors that are silent; then they are reported without."""
SIDE_BY_SIDE = 8
"""How many processes a node examines at a time."""


@dataclass(frozen=True)
class Silent:
    """An actor that lives, as far as Ray knows, and does not answer. As text: one sentence."""

    name: str
    role: str
    since_s: float
    """For how long, by the watchdog's time."""
    place: Place
    never_answered: bool
    """It has not since it was started, or restarted."""
    finding: Finding | None
    """When it was examined; None where it could not be examined; `note` says why."""
    note: str = ""

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Where its threads stand, the busiest first; empty where nobody knows."""
        return self.finding.stacks if self.finding else ()

    def __str__(self) -> str:
        what = "has not finished its start within" if self.never_answered else "has not answered for"
        where = f" (pid {self.place.pid} on {self.place.address})" if self.place.pid else ""
        told = f"{self.name}{where} {what} {self.since_s:.0f} s"
        if self.finding is None:
            return f"{told}: {self.note}"
        told += f"; its process is {self.finding.state}"
        if self.stacks:
            return f"{told}, in {' <- '.join(self.stacks[0].frames[:3])}."
        return f"{told}. {self.finding.note}"


@dataclass(frozen=True)
class Dead:
    """An actor whose process died: for good, or until Ray has restarted it."""

    name: str
    role: str
    actor: Any
    error: RayError | None
    """What its ping raised; None where Ray had restarted it before it was asked."""
    pulse: Pulse | None
    """The dead process's last; None where it never answered."""

    @property
    def comes_back(self) -> bool:
        """Whether Ray may restart it; if it does not, a later ping says so."""
        return not isinstance(self.error, ActorDiedError | ActorUnschedulableError)

    def describe(self, timeout_s: float = TIMEOUT_S) -> Death:
        """Say why, some seconds later at most. Never raises."""
        return describe_death(self.actor, self.error, self.name, timeout_s, self.pulse)


class Seen(NamedTuple):
    """What a look found. Whoever is there stays there, look after look, until it answers again or is forgotten."""

    silent: list[Silent]
    dead: list[Dead]


@dataclass(eq=False)
class _Watched:
    name: str
    role: str
    actor: Any
    ping: Callable[[], Any]
    """Asks it; made once, as that costs as much as a call."""
    due: float
    """When to ask next, by the watchdog's time, as all times here."""
    asked: float = 0.0
    ref: Any = None
    """The answer that is outstanding."""
    pulse: Pulse | None = None
    """Of the process that runs now; None before its first."""
    in_examination: bool = False
    silent: Silent | None = None
    dead: Dead | None = None


class _Examination(NamedTuple):
    ref: Any
    deadline: float
    places: dict[_Watched, Place]


class Watchdog:
    """For one thread, which calls `look` every few seconds whenever it waits."""

    def __init__(self, silence_s: float, startup_s: float):
        """`silence_s`: for an actor to answer. `startup_s`: for the first answer of a process, which comes when its
        constructor has ended."""
        self._silence_s = silence_s
        self._startup_s = startup_s
        self._watched: dict[str, _Watched] = {}
        self._examinations: list[_Examination] = []
        self._time = 0.0
        self._looked = time.monotonic()

    def watch(self, name: str, actor: Any, role: str = "") -> None:
        """Watch an actor that `cluster.actor_class` made, or a replica of Ray Serve's; another of that name is
        forgotten."""
        self._watched[name] = _Watched(name, role, actor, _ping_of(actor), due=self._time)

    def forget(self, name: str) -> None:
        """Watch it no more; a name that nobody has is fine."""
        self._watched.pop(name, None)

    def look(self) -> Seen:
        """Take the answers that have come, ask whose turn it is, and tell who is silent or dead."""
        now = time.monotonic()
        self._time += min(now - self._looked, self._silence_s / PINGS)
        self._looked = now
        self._hear()
        self._suspect()
        for watched in self._watched.values():
            if watched.ref is None and watched.due <= self._time and (watched.dead is None or watched.dead.comes_back):
                watched.ref, watched.asked = watched.ping(), self._time
                watched.due = self._time + self._silence_s / PINGS
        silent = [
            replace(watched.silent, since_s=self._time - watched.asked)
            for watched in self._watched.values()
            if watched.silent
        ]
        return Seen(silent, [watched.dead for watched in self._watched.values() if watched.dead])

    def _hear(self) -> None:
        """Take what has come of pings and examinations."""
        asked = {watched.ref: watched for watched in self._watched.values() if watched.ref is not None}
        refs = [*asked, *(examination.ref for examination in self._examinations)]
        if not refs:
            return
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0])
        for ref in ready & asked.keys():
            self._answered(asked[ref])
        for examination in list(self._examinations):
            if examination.ref in ready:
                self._examined(examination)
            elif examination.deadline < self._time:
                ray.cancel(examination.ref, force=True)
                self._unexamined(examination, f"its node did not examine it within {EXAMINE_S:g} s either.")
            else:
                continue
            self._examinations.remove(examination)

    def _answered(self, watched: _Watched) -> None:
        """Take the answer to a ping: a pulse, or that the process died."""
        error, pulse = None, None
        try:
            pulse = ray.get(watched.ref)
        except RayError as raised:
            error = raised
        watched.ref, watched.silent = None, None
        before = watched.pulse
        if error is not None:
            last = watched.dead.pulse if watched.dead else before
            watched.dead = Dead(watched.name, watched.role, watched.actor, error, last)
        elif before and pulse and (before.pid, before.node_id) != (pulse.pid, pulse.node_id):  # Ray was faster than we
            watched.dead = Dead(watched.name, watched.role, watched.actor, None, before)
        else:
            watched.dead = None
        watched.pulse = pulse

    def _suspect(self) -> None:
        """Have those who are silent for too long examined, each node its own."""
        nodes: dict[str, dict[_Watched, Place]] = defaultdict(dict)
        for watched in self._watched.values():
            limit_s = self._startup_s if watched.pulse is None else self._silence_s
            if watched.ref is None or watched.silent or watched.in_examination or self._time - watched.asked < limit_s:
                continue
            place = place_of(watched.actor, watched.pulse)
            if place.pid and place.node_id:  # while it restarts, Ray has only the old process's pid
                nodes[place.node_id][watched] = place
            else:
                self._report(watched, place, None, f"it has no process yet; for Ray it is {place.state}.")
        for node_id, places in nodes.items():
            ref = on_node(_examine, node_id).remote([(one.actor, place.pid) for one, place in places.items()])
            self._examinations.append(_Examination(ref, self._time + EXAMINE_S, places))
            for watched in places:
                watched.in_examination = True

    def _examined(self, examination: _Examination) -> None:
        """Report who did not answer the examining task either; the others get their time anew."""
        try:
            findings = ray.get(examination.ref)
        except RayError as error:
            self._unexamined(examination, f"its node cannot examine it: {error}")
            return
        for (watched, place), finding in zip(examination.places.items(), findings, strict=True):
            watched.in_examination = False
            if finding is None:
                watched.asked = self._time
            else:
                self._report(watched, place, finding)

    def _unexamined(self, examination: _Examination, note: str) -> None:
        for watched, place in examination.places.items():
            watched.in_examination = False
            self._report(watched, place, None, note)

    def _report(self, watched: _Watched, place: Place, finding: Finding | None, note: str = "") -> None:
        if watched.ref is not None:  # else it has answered meanwhile
            never = watched.pulse is None
            watched.silent = Silent(watched.name, watched.role, 0.0, place, never, finding, note)


def _ping_of(actor: Any) -> Callable[[], Any]:
    """Return what asks an actor for its pulse; while it restarts it shall say so, not answer later."""
    if hasattr(actor, "ping"):
        return actor.ping.options(max_task_retries=0).remote
    # Of Serve's own class. It runs this in the loop that answers Serve, apart from the one that scores.
    call = actor.__ray_call__.options(max_task_retries=0)
    return lambda: call.remote(_pulse)


def _pulse(_: Any) -> Pulse:
    return evidence.pulse(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())


@ray.remote(num_cpus=0, max_retries=1)
def _examine(suspects: Iterable[tuple[Any, int]]) -> list[Finding | None]:
    """Examine actors of this node, given with their processes; None for those that answer, or of whose death the caller
    hears by its own ping."""
    refs = [_ping_of(actor)() for actor, _ in suspects]
    answered, _ = ray.wait(refs, num_returns=len(refs), timeout=SECOND_PING_S)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        looks = [
            None if ref in answered else threads.submit(evidence.examine, pid, logs_folder())
            for ref, (_, pid) in zip(refs, suspects, strict=True)
        ]
        return [look.result() if look else None for look in looks]
