"""Seconds for which this process has run: monotonic, without the time for which it was stopped.

The driver's deadlines are counted in these. Where its process stands still (a VM that is paused, a frozen container,
SIGSTOP), nobody else is late when it goes on. Wall-clock time is asked nowhere, so setting it changes nothing.

A thread looks at the clock every `TICK_S`; so whoever looks next after a gap of more than `STOPPED_S`, in whichever
thread, knows that the process was stopped, and takes the gap off. (A machine that sleeps stops the monotonic clock of
Linux too.) Processes of other roles do not count so: work that a pool or a replica had in hand when its machine was
paused for longer than its own deadline is lost to that, as an error of the machinery, never as a verdict.
"""

import logging
import threading
import time

TICK_S = 1.0
STOPPED_S = 10.0
"""Ours: more than a busy machine keeps a thread that only ticks from running, less than any deadline that matters."""


class RunningClock:
    """For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._stopped_s = 0.0
        self._ticking = False

    def now(self) -> float:
        """Return the seconds, from any beginning."""
        with self._lock:
            if not self._ticking:
                self._ticking, self._last = True, time.monotonic()
                threading.Thread(target=self._tick, name="clock", daemon=True).start()
            now = time.monotonic()
            gap, self._last = now - self._last, now
            if gap > STOPPED_S:
                self._stopped_s += gap
                logging.getLogger(__name__).warning(
                    "this process did not run for %.0f s; every deadline is moved by as much.", gap
                )
            return now - self._stopped_s

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_S)
            self.now()


now = RunningClock().now
"""Of this process."""
