"""Waiting for Ray with a deadline and an owner. Every remote result of the driver comes through here.

Deadlines are counted in seconds for which this process runs (`clock`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from pgrpo_ray.actors import clock
from pgrpo_ray.errors import LostError, PgrpoError

DEATHS = RayActorError, OutOfMemoryError
"""How Ray tells that an actor's process is gone; the second, by Ray's memory monitor, does not say whose."""
WaitAny = Callable[[Sequence[Any], float, str], list[Any]]
"""What `wait_any` is; another one does something else meanwhile."""


def get(refs: Any, timeout_s: float, stage: str, wait_any: WaitAny | None = None) -> Any:
    """Return the value of a reference, or of each in a list; of several, whoever fails first is heard first.

    Raises the project's own error as it is, and `LostError` naming `stage` and the first cause for all others.
    """
    if not isinstance(refs, list):
        if wait_any is not None:
            wait_any([refs], timeout_s, stage)
        return _value(refs, timeout_s, stage)
    return get_all(dict.fromkeys(refs, stage), timeout_s, wait_any)


def _value(ref: Any, timeout_s: float, stage: str) -> Any:
    try:
        return ray.get(ref, timeout=timeout_s)
    except RayError as error:
        raise explain(error, stage, timeout_s) from error


LOOK_S = 2.0
"""How often a wait asks whether somebody is overdue."""


GATHER_S = 0.002
"""After the first of several results, for more to come. Ours: a look at 500 references takes a third of a millisecond
(Ray 2.60), so that one look for each of many small results would keep a thread busy; and nobody notices 2 ms."""


def wait_any(
    refs: Sequence[Any], timeout_s: float, stage: str, given_up: Callable[[], list[Any]] = lambda: []
) -> list[Any]:
    """Return all of `refs` (references or streaming generators) that are ready, at least one, in their order.

    All, not the first: a look goes through every reference, so one for each result would cost n times n.
    `given_up` may name references that nobody shall wait for any more: they are returned too. It is asked now and every
    `LOOK_S`.
    """
    refs, deadline = list(refs), clock.now() + timeout_s
    while not (ready := given_up()):
        left = max(0.0, deadline - clock.now())
        ready, _ = ray.wait(refs, num_returns=1, timeout=min(left, LOOK_S), fetch_local=False)
        if ready and len(refs) > 1:
            time.sleep(GATHER_S)
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        if ready or clock.now() > deadline - 0.05:  # a wait of Ray's may end some milliseconds early
            break
    if not ready:
        raise late(refs, timeout_s, stage)
    return ready


def late(refs: Sequence[Any], timeout_s: float, stage: str) -> LostError:
    """The error of a wait that ended without any of `refs`."""
    return LostError(
        f"{stage}: nothing finished within {timeout_s:.0f} s, {len(refs)} results are outstanding. Raise "
        "cluster.stage_timeout_s (at the start: startup_timeout_s) if the work is that slow; else look into the "
        "role's log in Ray's session folder.",
        stage=stage,
    )


def get_all(owners: Mapping[Any, str], timeout_s: float, wait: WaitAny | None = None) -> list[Any]:
    """Return the values of references of several owners, in their order, `timeout_s` later at most.

    Whoever fails first is heard first, as others may wait for it.
    """
    waiting, found, deadline = dict(owners), {}, clock.now() + timeout_s
    while waiting:
        left = max(0.1, deadline - clock.now())
        for ref in (wait or wait_any)(list(waiting), left, " and ".join(sorted(set(waiting.values())))):
            found[ref] = _value(ref, timeout_s, waiting.pop(ref))
    return [found[ref] for ref in owners]


def is_death(error: BaseException) -> bool:
    """Whether an error that `explain` made tells of a process that is gone."""
    return isinstance(error, LostError) and isinstance(error.__cause__, DEATHS)


def explain(error: RayError, stage: str, timeout_s: float) -> PgrpoError:
    """Turn Ray's error into ours, keeping the first cause: a `LostError`, unless the role raised one of ours."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, PgrpoError):
            return error.cause
        return LostError(f"{stage}: {type(error.cause).__name__}: {error.cause}", stage=stage)
    if isinstance(error, GetTimeoutError):
        return LostError(f"{stage}: no answer within {timeout_s:.0f} s.", stage=stage)
    if isinstance(error, DEATHS):
        actor_id = getattr(error, "actor_id", None) or ""
        return LostError(f"{stage}: its process died: {error}", stage=stage, actor_id=actor_id)
    return LostError(f"{stage}: {error}", stage=stage)
