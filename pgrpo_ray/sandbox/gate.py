"""A readers-writer lock that prefers the writer: programs run together, and one that is timed runs alone."""

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Lets many in at a time, or one alone. Who wants to be alone comes before those that arrive later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._loners = 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Be inside with others, once nobody wants to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._loners)
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone, once the others have left."""
        with self._changed:
            self._loners += 1
            self._changed.wait_for(lambda: not self._inside)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._loners -= 1
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
