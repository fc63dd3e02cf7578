"""Sends waiting requests to the replicas together: one call for many requests. Plain asyncio, nothing of Ray.

A call through Ray Serve costs some milliseconds whatever it carries, and a forward pass over many reasonings costs less
than one for each. So while all calls that may be on their way are, requests wait here and leave with the next one. An
idle server sends at once: nobody waits for company.

Who waits for whom: `score` waits for its own future until its deadline; the task of each call resolves the futures of
its requests and starts the next call, however it ended. Only a task that was told to end does neither: nobody but the
loop tells it, at its own end. For one event loop at a time.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pgrpo_ray.errors import DeadlineError, PgrpoError, UnavailableError

Items = list[tuple[str, str]]
"""(problem prompt, reasoning), in order."""
Send = Callable[[list[Items], float], Awaitable[tuple[Any, list[Any]]]]
"""Scores requests within seconds: what scored them, and for each its list of `Scored` or its own error."""


@dataclass(eq=False)
class _Waiting:
    """A request."""

    items: Items
    deadline: float
    """Monotonic seconds."""
    answer: asyncio.Future


class Gathering:
    """Bundles requests into calls."""

    def __init__(self, send: Send, gather: int, max_calls: int):
        """`gather`: most reasonings in one call; a larger request goes alone. `max_calls` are on their way at once."""
        self._send = send
        self._gather = gather
        self._max_calls = max_calls
        self._waiting: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task] = set()

    async def score(self, items: Items, timeout_s: float) -> tuple[Any, list[Any]]:
        """Return what scored the items, and a `Scored` for each. Raises the request's error, and `DeadlineError`."""
        waiting = _Waiting(items, time.monotonic() + timeout_s, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._start_calls()
        try:
            return await asyncio.wait_for(waiting.answer, timeout_s)
        except TimeoutError as error:
            raise late(timeout_s, len(items)) from error

    def _start_calls(self) -> None:
        self._calls = {call for call in self._calls if not call.done()}  # some may have ended with an earlier loop
        while len(self._calls) < self._max_calls and (bundle := self._bundle()):
            call = asyncio.get_running_loop().create_task(self._call(bundle))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task) -> None:
        self._calls.discard(call)
        if not call.cancelled():  # it is cancelled only when the loop ends
            self._start_calls()

    def _bundle(self) -> list[_Waiting]:
        """Take the oldest requests that still wait, as many as go together."""
        bundle: list[_Waiting] = []
        size = 0
        while self._waiting:
            if self._waiting[0].answer.done():  # given up meanwhile
                self._waiting.popleft()
                continue
            size += len(self._waiting[0].items)
            if bundle and size > self._gather:
                break
            bundle.append(self._waiting.popleft())
        return bundle

    async def _call(self, bundle: list[_Waiting]) -> None:
        """Send a bundle; give every request its answer or its error. Waits as long as the last of them may."""
        left = max(waiting.deadline for waiting in bundle) - time.monotonic()
        try:
            by, answers = await self._send([waiting.items for waiting in bundle], max(left, 0.0))
        except asyncio.CancelledError:
            if _told_to_end():
                raise
            # Cancelled was what this waited for, such as by a replica that leaves. Its requests may ask again.
            error = UnavailableError("the call was cancelled on its way; nothing was scored. Ask again.")
            by, answers = None, [error] * len(bundle)
        except PgrpoError as error:
            by, answers = None, [error] * len(bundle)
        except Exception as error:  # a defect: every request hears of it
            _resolve(bundle, None, [error] * len(bundle))
            raise
        _resolve(bundle, by, answers)


def late(timeout_s: float, num_items: int) -> DeadlineError:
    """The error of a request that ran out of time."""
    return DeadlineError(
        f"no scores for {num_items} reasonings within {timeout_s:.3g} s. Send fewer at a time, allow more time, or "
        "give the server more replicas."
    )


def _told_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _resolve(bundle: list[_Waiting], by: Any, answers: list[Any]) -> None:
    for waiting, answer in zip(bundle, answers, strict=True):
        if waiting.answer.done():
            continue
        if isinstance(answer, BaseException):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result((by, answer))
