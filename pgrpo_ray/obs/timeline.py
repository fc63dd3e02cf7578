"""When each stage had work: seconds of a step, and on demand a trace that Perfetto and Chrome open.

A stage is busy while at least one span of it is open, as the driver sees it: from handing work over until its result is
there. For one thread. Times are `time.monotonic` seconds.
"""

import contextlib
import heapq
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.obs.disk import explain_full_disk


@dataclass(eq=False, slots=True)
class Span:
    """Some work of a stage that has begun."""

    stage: str
    name: str
    began: float
    lane: int


@dataclass(eq=False, slots=True)
class _Stage:
    open: int = 0
    since: float = 0.0
    """When the stage became busy, or when it was last asked for its seconds."""
    seconds: float = 0.0
    lanes: int = 0
    free: list[int] = field(default_factory=list)
    """Lanes of the trace that no open span has, a heap."""


class Timeline:
    """Notes spans of stages."""

    def __init__(self, trace: Path | None = None, clock: Callable[[], float] = time.monotonic):
        """`trace`: where a trace is written as the run goes on, in Chrome's JSON format; None: nowhere."""
        self._clock = clock
        self._stages: dict[str, _Stage] = defaultdict(_Stage)
        self._events: list[str] = []
        self._rows: dict[tuple[str, int], int] = {}
        self._started = clock()
        self._file: TextIO | None = None
        if trace is not None:
            # The list is never closed, which the format allows: a run that is killed leaves a trace that opens.
            self._folder = trace.parent
            self._file = trace.open("w", encoding="utf-8")
            self._file.write("[\n")

    def begin(self, stage: str, name: str = "") -> Span:
        """Note that work of `stage` begins; `name` is what the trace calls it."""
        now, found = self._clock(), self._stages[stage]
        if not found.open:
            found.since = now
        found.open += 1
        lane = heapq.heappop(found.free) if found.free else found.lanes
        found.lanes = max(found.lanes, lane + 1)
        return Span(stage, name, now, lane)

    def end(self, span: Span) -> None:
        """Note that it is done. Once for each span."""
        now, found = self._clock(), self._stages[span.stage]
        found.open -= 1
        if not found.open:
            found.seconds += now - found.since
        heapq.heappush(found.free, span.lane)
        if self._file is not None:
            self._events.append(self._event(span, now))

    def take(self) -> dict[str, float]:
        """Return for how many seconds each stage was busy since the last call, and write what the trace has got."""
        now, busy = self._clock(), {}
        for name, stage in self._stages.items():
            if stage.open:
                stage.seconds += now - stage.since
                stage.since = now
            busy[name], stage.seconds = stage.seconds, 0.0
        self._write()
        return busy

    def close(self) -> None:
        """Write what is left; on a full disk, what there is room for. Idempotent."""
        if self._file is not None:
            with contextlib.suppress(OSError, EnvironmentFault):  # a run that ends by an error tells that one
                self._write()
                self._file.close()
            self._file = None

    def _write(self) -> None:
        if self._file is not None:
            with explain_full_disk(self._folder):
                self._file.write("".join(self._events))
                self._file.flush()
            self._events.clear()

    def _event(self, span: Span, now: float) -> str:
        row = self._rows.get((span.stage, span.lane))
        named = ""
        if row is None:
            row = self._rows[span.stage, span.lane] = len(self._rows)
            label = {"name": f"{span.stage} {span.lane + 1}"}
            named = json.dumps({"ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": label}) + ",\n"
        event = {
            "ph": "X",
            "name": span.name or span.stage,
            "cat": span.stage,
            "pid": 1,
            "tid": row,
            "ts": round((span.began - self._started) * 1e6),
            "dur": round((now - span.began) * 1e6),
        }
        return named + json.dumps(event) + ",\n"
