"""One engine and the one thread that touches it, so that sampling, new requests and new weights need not take turns.

Who waits for whom: callers (any number of threads) leave orders and wait for their answers; the engine's thread carries
orders out between two tokens, in their order, and samples while any group is open. It stops sampling, though not
carrying out orders, while a caller has `AHEAD` finished groups that it has not taken: what nobody takes must not pile
up. An error of the engine goes to every caller that waits for groups, who then raises it.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.protocols import RolloutEngine
from pgrpo_ray.types import PromptRequest, SampledGroup

if TYPE_CHECKING:
    import torch

AHEAD = 4
"""Finished groups that a caller may leave untaken before sampling stops. Ours: several can end with one token."""


class _Call:
    """Groups that were asked for together."""

    def __init__(self, name: str):
        self.name = name
        self.open: set[str] = set()
        """The engine's ids of groups that have not ended."""
        self.ended: deque[SampledGroup] = deque()
        self.error: BaseException | None = None


class EngineLoop:
    """Runs an engine in a thread of its own. Every method may be called from any thread."""

    _engine: RolloutEngine
    """Made and used in its thread."""

    def __init__(self, make_engine: Callable[[], RolloutEngine]):
        """Make the engine in its thread; return when it is there. Raises what `make_engine` does."""
        self._changed = threading.Condition()
        self._orders: deque[tuple[Callable[[], Any], Future]] = deque()
        self._calls: dict[str, _Call] = {}
        """By the engine's id of a group that has not ended."""
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        made: Future = Future()
        self._orders.append((lambda: setattr(self, "_engine", make_engine()), made))
        self._thread.start()
        try:
            made.result()
        except BaseException:
            self.close()
            raise
        self.parameters = self._engine.parameters

    def generate(
        self,
        requests: Sequence[PromptRequest],
        group_size: int,
        temperature: float,
        version: int | None = None,
        name: str = "",
        together: int = 1,
    ) -> Iterator[list[SampledGroup]]:
        """Yield one group per request, as they end; fewer where `drop(name)` is called meanwhile.

        At once come those that have ended when the caller asks, up to `together`: one where the caller keeps up.

        `version`: the oldest of the policy that may begin to sample; None: whichever is loaded. Raises
        `WeightSyncError` when an older one is, also where none was ever published.
        """
        call = _Call(name)

        def begin() -> None:
            held = self._engine.policy_version
            if version is not None and (held is None or held < version):
                has = "has no published one whole" if held is None else f"has version {held}"
                raise WeightSyncError(f"asked to sample with policy version {version}, but the engine {has}.")
            for request in requests:
                engine_id = self._engine.add(request, group_size, temperature)
                call.open.add(engine_id)
                self._calls[engine_id] = call

        try:
            self._order(begin)
            while groups := self._next(call, together):
                yield groups
        finally:  # a consumer that stops early must not leave requests to others
            if call.open and not self._ending:
                self._order(lambda: self._forget([call]))

    def drop(self, name: str) -> int:
        """End every call of that name: what has not ended yet is given up. Return how many groups that are."""
        return self._order(lambda: self._forget([call for call in set(self._calls.values()) if call.name == name]))

    def load_weights(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> None:
        """Serve `version` from the next token on; open groups go on with it.

        What fails here leaves an engine that refuses to sample, and fails every open call.
        """
        self._order(lambda: self._engine.load_weights(weights, version))

    def order(self, what: Callable[[Any], Any]) -> Any:
        """Have `what` called with the engine, in its thread, between two tokens; return or raise what comes of it."""
        return self._order(lambda: what(self._engine))

    def close(self) -> None:
        """End the thread after the order that it is at."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def _order(self, what: Callable[[], Any]) -> Any:
        """Have the engine's thread do something between two tokens; return or raise what comes of it."""
        done: Future = Future()
        with self._changed:
            self._orders.append((what, done))
            self._changed.notify_all()
        return done.result()

    def _next(self, call: _Call, most: int) -> list[SampledGroup]:
        """Wait for the next group of a call; return it with those that are there; none when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: call.ended or call.error or not call.open)
            if call.ended:
                self._changed.notify_all()  # there may be room to go on
                return [call.ended.popleft() for _ in range(min(most, len(call.ended)))]
            if call.error:
                raise call.error
            return []

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._orders or self._may_step())
                if self._ending:
                    return
                orders, self._orders = self._orders, deque()
            for what, done in orders:
                try:
                    done.set_result(what())
                except BaseException as error:
                    done.set_exception(error)
            if self._may_step():
                self._step()

    def _may_step(self) -> bool:
        lying = (len(call.ended) for call in self._calls.values())
        return bool(self._calls) and not self._engine.paused and max(lying) < AHEAD

    def _step(self) -> None:
        try:
            ended = self._engine.step()
        except BaseException as error:  # whatever an engine raises, those who wait for it must hear of it
            with self._changed:
                calls = set(self._calls.values())
                for call in calls:
                    call.error = error
            with contextlib.suppress(Exception):  # a broken engine may fail at this too: the first error is told
                self._forget(calls)
            return
        if ended:
            with self._changed:
                for engine_id, group in ended:
                    call = self._calls.pop(engine_id)
                    call.open.remove(engine_id)
                    call.ended.append(group)
                self._changed.notify_all()

    def _forget(self, calls: Iterable[_Call]) -> int:
        """Give up what has not ended of some calls; return how many groups. In the engine's thread."""
        given_up: list[str] = []
        with self._changed:
            for call in calls:
                given_up += call.open
                call.open.clear()
            for engine_id in given_up:
                del self._calls[engine_id]
            self._changed.notify_all()
        self._engine.abort(given_up)
        return len(given_up)
