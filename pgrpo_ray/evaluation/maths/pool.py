"""The judge of answers that are compared: several processes with sympy in them, each under limits.

Usable on its own, without Ray:

    from pgrpo_ray.config import SandboxSection
    from pgrpo_ray.evaluation.maths.pool import MathsPool
    from pgrpo_ray.types import AnswerCase, Problem, TestStyle

    problem = Problem("half", "What is a half of a quarter?", TestStyle.ANSWER, (AnswerCase("\\\\frac{1}{8}"),))
    pool = MathsPool(SandboxSection(slots=2))
    try:
        print(pool.judge(problem, "0.125").verdict)
    finally:
        pool.close()

Who waits for whom: callers of `judge_many` wait, first for room in the queue, then for their verdicts, never beyond
their deadline. One thread a slot asks its process and waits for the answer, never longer than the problem's wall limit.
A process that ends or stays silent is killed, and replaced before the slot's next answer. `close` kills the processes
under their threads, which wakes them. So every caller gets an answer for every answer that it asked about.

Invariants: a verdict is the answer's doing. It is `time_limit` where the answer used up its CPU seconds, which load
hardly changes; a process that was silent for far longer than the wall limit, or that died, is a failure of the
machinery, and after `retries` more attempts becomes `Judgement(verdict=None, error=...)`. A fresh process must tell
equal from unequal before it judges. References never leave the host, and no `detail` quotes them.
"""

import contextlib
import hashlib
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, cast

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.data.answers import MAX_ANSWER_CHARS, final_answer
from pgrpo_ray.errors import DataError, SandboxError
from pgrpo_ray.evaluation.maths.process import CpuTimeLimitError, Worker
from pgrpo_ray.types import AnswerCase, Judgement, Limits, Problem, TestStyle, Verdict

KIND = "maths"
"""What a judgement says in place of a sandbox."""
_PATIENCE = 4
"""Times its wall limit that an answer may take: CPU time judges it, and a machine may have other work."""
_CANARY_LIMITS = Limits(cpu_s=20.0, wall_s=60.0)
_CANARIES = (("\\frac{1}{2}", "0.5", "equal"), ("x^2 - 1", "(x - 1)^2", "unequal"))
_REMEMBERED = (Verdict.PASSED, Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR)
_DETAIL_CHARS = 200
_PROVED_AT_ONCE = 512
"""References asked about between two looks at the answers."""


@dataclass(frozen=True, slots=True)
class MathsStats:
    """What a pool has done since it began, and what it holds now; named as the execution pool's."""

    queued: int
    running: int
    verdicts: dict[str, int]
    """Answers by verdict; `error` counts those without one."""
    cache_lookups: int
    cache_hits: int
    restarts: int
    """Processes replaced because they ended or were silent, also those that a time limit ended."""
    confirmations: int = 0


class MathsPool:
    """Judges answers on `slots` processes at a time. Thread-safe; implements `protocols.Judge`."""

    def __init__(self, section: SandboxSection, observe: Callable[[Judgement, float], None] | None = None):
        """Start all processes and prove each. `observe` is told every judgement and its seconds.

        Raises `SandboxError` when one does not start.
        """
        self._section = section
        self._observe = observe
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(section.queue_programs)
        self._cache: OrderedDict[bytes, Judgement] = OrderedDict()
        self._verdicts: Counter[str] = Counter()
        self._running = self._pending = self._lookups = self._hits = self._restarts = 0
        self._closed = False
        self._processes: set[Worker] = set()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(section.slots, thread_name_prefix="maths")
        try:
            for process in list(self._threads.map(lambda _: self._start(), range(section.slots))):
                self._idle.put(process)
        except SandboxError:
            self.close()
            raise

    def judge(self, problem: Problem, answer: str) -> Judgement:
        """Judge one answer. A machinery failure is a judgement with `verdict=None`, not an exception."""
        return self.judge_many([(problem, answer)])[0]

    def judge_many(self, items: Sequence[tuple[Problem, str]], deadline_s: float | None = None) -> list[Judgement]:
        """Judge each (problem, what stood in `<answer>`); judgements keep the order.

        Waits while the queue is full. What has no verdict after `deadline_s` seconds gets an error. Raises `DataError`
        for a problem of another style.
        """
        for problem, _ in items:
            _check_style(problem)
        end = float("inf") if deadline_s is None else time.monotonic() + deadline_s
        asked: dict[bytes, Future[Judgement] | Judgement] = {}
        keys = []
        for problem, answer in items:
            keys.append(key := _key(problem, answer))
            with self._lock:
                self._lookups += 1
                self._hits += key in asked
            if key not in asked:
                asked[key] = self._submit(problem, answer, key, end)
        return [self._await(asked[key], end) for key in keys]

    def prove(self, problems: Iterable[Problem]) -> None:
        """Raise `DataError` unless every reference can be compared: it is read, or the problem's checker is `text`.

        Raises `SandboxError` when the machinery fails.
        """
        problems = list(problems)
        for start in range(0, len(problems), _PROVED_AT_ONCE):
            part = problems[start : start + _PROVED_AT_ONCE]
            for problem, status in zip(part, self._threads.map(self._reading, part), strict=True):
                if status != "equal":
                    raise DataError(
                        f"problem {problem.id!r}: its reference answer cannot be read as mathematics ({status}). "
                        "Write it as LaTeX, or set tests.checker to 'text' to have answers compared as words."
                    )

    def stats(self) -> MathsStats:
        """Return what the pool has done and holds now."""
        with self._lock:
            return MathsStats(
                queued=self._pending - self._running,
                running=self._running,
                verdicts=dict(self._verdicts),
                cache_lookups=self._lookups,
                cache_hits=self._hits,
                restarts=self._restarts,
            )

    def close(self) -> None:
        """End every process. Idempotent; prompt, also with answers in flight: those are answered with an error."""
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        for process in processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)

    def _submit(self, problem: Problem, answer: str, key: bytes, end: float) -> Future[Judgement] | Judgement:
        """Return a remembered judgement, or queue the answer."""
        with self._lock:
            if known := self._cache.get(key):
                self._cache.move_to_end(key)
                self._hits += 1
        if known:
            return self._told(known, 0.0)
        while not self._room.acquire(timeout=max(0.0, min(0.05, end - time.monotonic()))):
            if self._closed or time.monotonic() >= end:
                return self._told(_failed("the pool of maths judges had no room"), 0.0)
        with self._lock:
            self._pending += 1
        try:
            task = self._threads.submit(self._judged, problem, answer, key, time.monotonic())
        except RuntimeError:  # closed
            self._leave(None)
            return self._told(_failed("the pool of maths judges is closed"), 0.0)
        task.add_done_callback(self._leave)
        return task

    def _leave(self, _: Any) -> None:
        with self._lock:
            self._pending -= 1
        self._room.release()

    def _await(self, task: Future[Judgement] | Judgement, end: float) -> Judgement:
        if isinstance(task, Judgement):
            return task
        try:
            return task.result(None if end == float("inf") else max(0.0, end - time.monotonic()))
        except FutureTimeout:
            task.cancel()
            return _failed("no verdict before the caller's deadline")
        except CancelledError:
            return _failed("the pool of maths judges was closed, or nobody waited for the answer any more")

    def _told(self, judgement: Judgement, seconds: float) -> Judgement:
        with self._lock:
            self._verdicts[judgement.verdict or "error"] += 1
        if self._observe is not None:
            with contextlib.suppress(Exception):  # it only watches: verdicts go on without it
                self._observe(judgement, seconds)
        return judgement

    def _judged(self, problem: Problem, answer: str, key: bytes, submitted: float) -> Judgement:
        """Judge one answer in a slot's thread, and remember the verdict."""
        with self._lock:
            self._running += 1
        try:
            judgement = self._verdict(problem, answer)
        except Exception as error:  # a defect of ours must answer too, and is no verdict
            judgement = _failed(f"defect in the pool of maths judges: {error!r}")
        with self._lock:
            self._running -= 1
            if judgement.verdict in _REMEMBERED and self._section.cache_entries:
                self._cache[key] = judgement
                while len(self._cache) > self._section.cache_entries:
                    self._cache.popitem(last=False)
        return self._told(judgement, time.monotonic() - submitted)

    def _verdict(self, problem: Problem, answer: str) -> Judgement:
        final = final_answer(answer)
        if len(final) > MAX_ANSWER_CHARS:
            return _failed_by(Verdict.RUNTIME_ERROR, f"an answer of {len(final)} characters", 0.0, {})
        began = time.monotonic()
        try:
            found = self._ask(problem, final)
        except CpuTimeLimitError:
            detail = f"{problem.limits.cpu_s:g} s of CPU time: {_printable(final)}"
            return _failed_by(Verdict.TIME_LIMIT, detail, began, {"cpu_ms": 1000 * problem.limits.cpu_s})
        except SandboxError as error:
            return _failed(str(error))
        status = found["status"].partition(":")[0]
        if status == "equal":
            return Judgement(Verdict.PASSED, 1, 1, _ms(began), KIND, cpu_ms=found["cpu_ms"], peak_mib=found["peak_mib"])
        verdict = {
            "unequal": Verdict.WRONG_ANSWER,
            "unreadable": Verdict.RUNTIME_ERROR,
            "memory": Verdict.MEMORY_LIMIT,
        }[status]
        said = "no answer can be read in" if verdict is Verdict.RUNTIME_ERROR else "answer:"
        return _failed_by(verdict, f"{said} {_printable(final)}", began, found)

    def _reading(self, problem: Problem) -> str:
        _check_style(problem)
        try:
            return self._ask(problem, None)["status"]
        except CpuTimeLimitError:
            return f"it takes more than {problem.limits.cpu_s:g} s to read"

    def _ask(self, problem: Problem, answer: str | None) -> dict[str, Any]:
        """Have a process compare, on a fresh one after each failure. Raises `SandboxError` after the retries."""
        cause = ""
        for _ in range(self._section.retries + 1):
            process = self._idle.get()
            try:
                if process is not None and not process.alive():  # it had not begun with this one: no attempt is lost
                    self._drop(process)
                    process = None
                if process is None:
                    process = self._start()
                return process.ask(_request(problem, answer), _PATIENCE * problem.limits.wall_s)
            except CpuTimeLimitError:
                self._drop(process)
                process = None
                raise
            except SandboxError as error:
                self._drop(process)
                process = None
                cause = cause or str(error)  # the first failure explains the later ones
                if self._closed:
                    break
            finally:
                self._idle.put(process)
        raise SandboxError(f"{cause} (and {self._section.retries} retries)")

    def _start(self) -> Worker:
        """Start a process and prove it. Raises `SandboxError`."""
        process = Worker()
        with self._lock:
            self._processes.add(process)
            closed = self._closed
        try:
            if closed:
                raise SandboxError("the pool of maths judges is closed")
            process.wait_ready()
            for reference, answer, wanted in _CANARIES:
                case = AnswerCase(reference)
                canary = Problem("canary", "", TestStyle.ANSWER, (case,), limits=_CANARY_LIMITS)
                said = process.ask(_request(canary, answer), _CANARY_LIMITS.wall_s)["status"]
                if said != wanted:
                    raise SandboxError(f"the maths judge misjudges: {reference} and {answer} are {said} to it.")
        except (SandboxError, CpuTimeLimitError) as error:
            self._drop(process)
            raise SandboxError(str(error) or "the maths judge took too long over a canary") from error
        return process

    def _drop(self, process: Worker | None) -> None:
        if process is not None:
            process.kill()
            with self._lock:
                self._processes.discard(process)
                self._restarts += 1


def _request(problem: Problem, answer: str | None) -> dict[str, Any]:
    (case,) = cast("tuple[AnswerCase]", problem.cases)
    return {
        "references": [case.answer, *case.also],
        "answer": answer,
        "checker": problem.checker or "maths",
        "cpu_s": problem.limits.cpu_s,
        "memory_mib": problem.limits.memory_mib,
    }


def _check_style(problem: Problem) -> None:
    if problem.style is not TestStyle.ANSWER:
        raise DataError(
            f"problem {problem.id!r} has style {problem.style}: its programs are run, not compared. Have the execution "
            "pool judge it (sandbox.pool)."
        )


def _key(problem: Problem, answer: str) -> bytes:
    """What a verdict is remembered under: all that it depends on."""
    identity = repr((problem.cases, problem.checker, problem.limits, answer))
    return hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _failed(error: str) -> Judgement:
    return Judgement(None, 0, 1, 0.0, KIND, error=error)


def _failed_by(verdict: Verdict, detail: str, began: float, found: dict[str, Any]) -> Judgement:
    duration_ms = _ms(began) if began else 0.0
    cpu_ms, peak_mib = found.get("cpu_ms", 0.0), found.get("peak_mib", 0.0)
    return Judgement(verdict, 0, 1, duration_ms, KIND, 0, detail, cpu_ms, peak_mib)


def _ms(began: float) -> float:
    return round(1000 * (time.monotonic() - began), 3)


def _printable(text: str) -> str:
    """Escape to printable ASCII on one line, and cut."""
    escaped = text.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= _DETAIL_CHARS else f"{escaped[:_DETAIL_CHARS]}..."
