"""Waiting for Ray with a deadline and an owner. Every remote result of the driver comes through here."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from pgrpo_ray.errors import PgrpoError, StageError


def get(refs: Any, timeout_s: float, stage: str) -> Any:
    """Return the value(s) of `refs`, like `ray.get`.

    Raises the project's own error as it is, and `StageError` naming `stage` and the first cause for all others.
    """
    try:
        return ray.get(refs, timeout=timeout_s)
    except RayError as error:
        raise explain(error, stage, timeout_s) from error


LOOK_S = 10.0
"""How often a wait asks whether somebody is overdue."""


def wait_any(
    refs: Sequence[Any], timeout_s: float, stage: str, given_up: Callable[[], list[Any]] = lambda: []
) -> list[Any]:
    """Return those of `refs` (references or streaming generators) that are ready, at least one.

    `given_up` may name references that nobody shall wait for any more: they are returned too. It is asked now and every
    `LOOK_S`.
    """
    deadline = time.monotonic() + timeout_s
    while not (ready := given_up()):
        left = max(0.0, deadline - time.monotonic())
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=min(left, LOOK_S), fetch_local=False)
        if ready or left <= LOOK_S:
            break
    if not ready:
        raise StageError(
            f"{stage}: nothing finished within {timeout_s:.0f} s, {len(refs)} results are outstanding. Raise "
            "cluster.stage_timeout_s (at the start: startup_timeout_s) if the work is that slow; else look into the "
            "role's log in Ray's session folder.",
            stage=stage,
        )
    return ready


def get_all(owners: Mapping[Any, str], timeout_s: float) -> None:
    """Wait for references of several owners; whoever fails first is heard first, as others may wait for it."""
    waiting, deadline = dict(owners), time.monotonic() + timeout_s
    while waiting:
        left = max(0.1, deadline - time.monotonic())
        for ref in wait_any(list(waiting), left, " and ".join(sorted(set(waiting.values())))):
            get(ref, timeout_s, waiting.pop(ref))


def stream(generator: Any, timeout_s: float, stage: str) -> Iterator[Any]:
    """Yield the references of a streaming generator; each may take `timeout_s`."""
    while True:
        wait_any([generator], timeout_s, stage)
        try:
            yield next(generator)
        except StopIteration:
            return


def explain(error: RayError, stage: str, timeout_s: float) -> PgrpoError:
    """Turn Ray's error into ours, keeping the first cause."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, PgrpoError):
            return error.cause
        return StageError(f"{stage}: {type(error.cause).__name__}: {error.cause}", stage=stage)
    if isinstance(error, GetTimeoutError):
        return StageError(f"{stage}: no answer within {timeout_s:.0f} s.", stage=stage)
    if isinstance(error, RayActorError):
        return StageError(f"{stage}: its process died: {error}", stage=stage)
    return StageError(f"{stage}: {error}", stage=stage)
