"""What an execution pool tells Ray's metrics, from inside its actor; `docs/metrics.md` lists the names.

Recording takes about 1 microsecond (measured); Ray adds up within the process and exports every 10 s, at each node's
metrics port. Verdicts are recorded by the pool's threads as they come, the rest by one thread each second.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from pgrpo_ray.types import Judgement

PERIOD_S = 1.0
_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]
"""Bounds of the latency buckets: from a remembered verdict to the deadline of a group."""


class PoolMetrics:
    """Records one pool. `observe` may be called from any thread."""

    def __init__(self) -> None:
        self._verdicts = Counter("pgrpo_sandbox_verdicts", "Programs judged.", ("verdict",))
        self._seconds = Histogram(
            "pgrpo_sandbox_verdict_seconds", "From submission to verdict.", boundaries=_SECONDS, tag_keys=()
        )
        self._gauges = {
            "queued": Gauge("pgrpo_sandbox_queued", "Programs that wait for a slot."),
            "running": Gauge("pgrpo_sandbox_running", "Programs that are being judged."),
        }
        self._counters = {
            "restarts": Counter("pgrpo_sandbox_restarts", "Runners that were replaced."),
            "cache_hits": Counter("pgrpo_sandbox_cache_hits", "Programs whose verdict was remembered."),
            "cache_lookups": Counter("pgrpo_sandbox_cache_lookups", "Programs whose verdict was looked up."),
            "confirmations": Counter("pgrpo_sandbox_confirmations", "Time limits that were tried once more, alone."),
        }
        self._counted = dict.fromkeys(self._counters, 0)
        self._closed = threading.Event()

    def observe(self, judgement: Judgement, seconds: float) -> None:
        """Record one verdict, `seconds` after its program was submitted."""
        self._verdicts.inc(1, {"verdict": judgement.verdict.value if judgement.verdict else "error"})
        self._seconds.observe(seconds)

    def follow(self, stats: Callable[[], Any]) -> None:
        """Publish `stats()` (a `PoolStats`) each second from now on, until `close`."""

        def publish() -> None:
            while not self._closed.wait(PERIOD_S):
                try:
                    self._publish(stats())
                except Exception:  # it only watches: the next second may be better
                    logging.getLogger(__name__).exception("the pool's metrics could not be published")

        threading.Thread(target=publish, name="pool-metrics", daemon=True).start()

    def close(self) -> None:
        """Publish no more."""
        self._closed.set()

    def _publish(self, stats: Any) -> None:
        for name, gauge in self._gauges.items():
            gauge.set(getattr(stats, name))
        for name, counter in self._counters.items():
            if new := getattr(stats, name) - self._counted[name]:
                counter.inc(new)
                self._counted[name] += new
