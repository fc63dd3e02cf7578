"""Ctrl-C and SIGTERM unwind a block in the same way, so that what it holds is freed."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make the first SIGINT or SIGTERM raise KeyboardInterrupt, and ignore further ones while the block unwinds.

    Blocks may be nested (a library may have taken the signals in between); the outermost gives them back. Only in the
    main thread: no other one gets signals, nor may set their handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, frame: Any) -> None:
        for which in SIGNALS:
            signal.signal(which, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {which: signal.signal(which, unwind) for which in SIGNALS}
    nested = any(getattr(handler, "__qualname__", "") == unwind.__qualname__ for handler in before.values())
    try:
        yield
    finally:
        unwinding = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if not (nested and unwinding):
            for which, handler in before.items():
                signal.signal(which, handler)
