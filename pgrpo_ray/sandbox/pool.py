"""The execution pool: several runners kept busy, failures of the machinery kept apart from failures of programs.

Usable on its own, without Ray:

    from pgrpo_ray.config import SandboxSection
    from pgrpo_ray.sandbox.pool import make_pool
    from pgrpo_ray.types import Problem, StdinCase, TestStyle

    problem = Problem("sum", "Add two integers.", TestStyle.STDIN, (StdinCase("1 2", "3"), StdinCase("5 5", "10")))
    pool = make_pool("docker", SandboxSection(slots=2))
    try:
        print(pool.judge(problem, "print(sum(map(int, input().split())))").verdict)
    finally:
        pool.close()

Who waits for whom: callers of `judge_many` wait, first for room in the queue, then for their verdicts, never beyond
their deadline. Two threads a slot take programs and wait for its runner, never longer than the request's deadline: it
runs one program at a time, and while it does the other thread compares the last outputs and sends the next program. A
runner that fails or says it is dirty is closed, and replaced by one of its threads before it is asked again. A program
that is judged alone waits until the other slots have finished what they run, and they wait for it. `close` closes the
runners under their threads, which wakes them. So every caller gets an answer for every program.

Invariants: a verdict is the program's doing; after `retries` more attempts on fresh runners a machinery failure becomes
`Judgement(verdict=None, error=...)`, but for a program under which two containers ran out of memory. Before its first
program every runner must judge canaries rightly (`canaries`). Two equal programs for one problem that wait at the same
time are judged once, and so are those that a deterministic verdict is remembered for.
"""

import hashlib
import itertools
import logging
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.errors import CheckerError, ExhaustedError, NotBegunError, SandboxError
from pgrpo_ray.protocols import Runner
from pgrpo_ray.sandbox import grade
from pgrpo_ray.sandbox.canaries import canaries, prove, work_ms
from pgrpo_ray.sandbox.gate import Gate
from pgrpo_ray.sandbox.plan import deadline_s, make_request, plan_of
from pgrpo_ray.sandbox.runners import runner_factory
from pgrpo_ray.types import Judgement, Problem, Verdict

_BACKOFF_S = 0.2
"""Before a new runner after a failed start, times the attempt: an engine that restarts needs a moment."""
_LANES = 2
"""Threads a slot."""
_MAX_SLOWDOWN = 2.0
"""A machine that seems slower than this is not believed: the limit would be no limit."""
_REMEMBERED = (Verdict.PASSED, Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR, Verdict.COMPILE_ERROR)
"""Verdicts that do not depend on the machine. The others are given anew."""
_Item = tuple[Problem, str]


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool has done since it began, and what it holds now."""

    queued: int
    """Programs that wait for a slot."""
    running: int
    """Programs in a slot."""
    verdicts: dict[str, int]
    """Answers by verdict; `error` counts those without one."""
    cache_lookups: int
    cache_hits: int
    """Answers that took no slot: remembered, or shared with an equal program that was waiting."""
    restarts: int
    """Runners replaced because they failed or could not be cleaned."""
    confirmations: int
    """Cases judged again alone because load may have been why they ran out of time."""


@dataclass(slots=True, eq=False)
class _Task:
    """One program that waits for its verdict."""

    problem: Problem
    program: str
    key: bytes | None
    """What its verdict may be remembered under; None: not at all."""
    submitted: float = field(default_factory=time.monotonic)
    answer: Future[Judgement] = field(default_factory=Future)
    waiting: bool = False
    """It takes room in the queue."""


class ExecutionPool:
    """Judges programs on `slots` runners at a time. Thread-safe; implements `protocols.Judge`."""

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        slots: int,
        retries: int,
        *,
        fail_fast: bool = True,
        cache_entries: int = 0,
        queue_programs: int = 4096,
        languages: Collection[str] = (),
        observe: Callable[[Judgement, float], None] | None = None,
    ):
        """Start all runners and prove each with canaries.

        `retries` counts further attempts after the first; `fail_fast` ends a program at its first failing case;
        `cache_entries` verdicts are remembered; `queue_programs` may wait before submitters do; `languages` are
        those beside Python, each of which every runner must prove. `observe` is told each judgement, with the seconds
        since its submission, in whatever thread has it. Raises `SandboxError` when a runner
        cannot be started or misjudges a canary; nothing is left running then.
        """
        self._make_runner = make_runner
        self._retries = retries
        self._fail_fast = fail_fast
        self._cache_entries = cache_entries
        self._observe = observe
        self._canaries = canaries(languages)
        self._work: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(queue_programs)
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._gate = Gate()
        self._closed = False
        self._running = self._lookups = self._hits = self._restarts = self._confirmations = self._waiting = 0
        self._verdicts: Counter[str] = Counter()
        self._cache: OrderedDict[bytes, Judgement] = OrderedDict()
        self._twins: dict[bytes, list[_Task]] = {}
        """Of each key that is being judged: the equal programs that wait for its verdict."""
        self._quiet_ms = float("inf")
        self._runners: list[Runner | None] = [None] * slots
        self._renewing = [threading.Lock() for _ in range(slots)]
        lanes = list(range(slots)) * _LANES
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in lanes]
        try:
            with ThreadPoolExecutor(slots) as starting:  # a container takes some 0.2 s to start
                list(starting.map(self._runner, range(slots)))
        except SandboxError:
            self.close()
            raise
        for thread in self._threads:
            thread.start()

    def judge(self, problem: Problem, program: str) -> Judgement:
        """Judge one program. A machinery failure is an answer with `verdict=None`, not an exception."""
        return self.judge_many([(problem, program)])[0]

    def judge_many(self, items: Sequence[_Item], deadline_s: float | None = None) -> list[Judgement]:
        """Judge each (problem, program); answers keep the order. Machinery failures are answers, not exceptions.

        Waits while the queue is full. What has no verdict after `deadline_s` seconds is answered with an error.
        Raises `DataError` when a problem's checker or language is unknown.
        """
        end = None if deadline_s is None else time.monotonic() + deadline_s
        tasks = [_Task(problem, program, self._key(problem, program)) for problem, program in items]
        for task in tasks:
            self._submit(task, end)
        return [self._await(task, end) for task in tasks]

    def stats(self) -> PoolStats:
        """Return what the pool has done and holds now."""
        with self._lock:
            return PoolStats(
                queued=self._waiting,
                running=self._running,
                verdicts=dict(self._verdicts),
                cache_lookups=self._lookups,
                cache_hits=self._hits,
                restarts=self._restarts,
                confirmations=self._confirmations,
            )

    def close(self) -> None:
        """Free every runner. Idempotent; prompt, also with programs in flight: those are answered with an error."""
        with self._lock:
            already, self._closed = self._closed, True
            runners, self._runners = self._runners, [None] * len(self._runners)
            if not already:
                for _ in self._threads:
                    self._work.put(None)
        closers = [threading.Thread(target=runner.close) for runner in runners if runner is not None]
        for thread in closers:  # together: removing a container takes the engine some 0.2 s each
            thread.start()
        for thread in (*closers, *(thread for thread in self._threads if thread.ident)):
            if thread is not threading.current_thread():
                thread.join(2.5)

    def _key(self, problem: Problem, program: str) -> bytes | None:
        digest = plan_of(problem).digest
        if not self._cache_entries:
            return None
        return hashlib.blake2b(digest + program.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def _submit(self, task: _Task, end: float | None) -> None:
        """Find a verdict for the task, or queue it, or let it wait for an equal one."""
        end = float("inf") if end is None else end
        while not self._room.acquire(timeout=max(0.0, min(0.05, end - time.monotonic()))):
            if self._closed or time.monotonic() >= end:
                self._settle(task, _failed(task.problem, "", "the execution pool had no room"))
                return
        with self._lock:
            self._waiting += 1
            task.waiting = True
            known = _failed(task.problem, "", "the execution pool is closed") if self._closed else self._known(task)
            if known is None:
                return
        self._settle(task, known)

    def _known(self, task: _Task) -> Judgement | None:
        """Return a remembered verdict, or have the task judged or wait for an equal one; the lock is held."""
        if task.key is not None:
            self._lookups += 1
            if (known := self._cache.get(task.key)) is not None:
                self._cache.move_to_end(task.key)
                self._hits += 1
                return known
            if task.key in self._twins:
                self._twins[task.key].append(task)
                return None
            self._twins[task.key] = []
        self._work.put(task)
        return None

    def _await(self, task: _Task, end: float | None) -> Judgement:
        try:
            return task.answer.result(None if end is None else max(0.0, end - time.monotonic()))
        except FutureTimeout:
            # Whoever is first says it: the slot may be setting the verdict at this moment.
            self._settle(task, _failed(task.problem, "", "no verdict before the caller's deadline"))
            return task.answer.result()

    def _settle(self, task: _Task, judgement: Judgement) -> None:
        """Give a task its answer, unless its caller has stopped waiting."""
        seconds = time.monotonic() - task.submitted
        with self._lock:
            self._leave_queue(task)
            if task.answer.done():
                return
            self._verdicts[judgement.verdict or "error"] += 1
            task.answer.set_result(judgement)
        if self._observe is not None:
            try:
                self._observe(judgement, seconds)
            except Exception:  # it only watches: verdicts go on without it
                logging.getLogger(__name__).exception("the observer of verdicts failed")

    def _leave_queue(self, task: _Task) -> None:
        """Free the room that a task took; the lock is held."""
        if task.waiting:
            task.waiting = False
            self._waiting -= 1
            self._room.release()

    def _serve(self, slot: int) -> None:
        """Be a slot: take programs until told to stop."""
        while (task := self._work.get()) is not None:
            with self._lock:
                self._running += 1
                self._leave_queue(task)
            judgement = self._answer(slot, task)
            with self._lock:
                self._running -= 1
                twins = self._twins.pop(task.key, []) if task.key is not None else []
                if task.key is not None and judgement.verdict in _REMEMBERED:
                    self._cache[task.key] = judgement
                    while len(self._cache) > self._cache_entries:
                        self._cache.popitem(last=False)
                    self._hits += len(twins)
                elif not self._closed:
                    for twin in twins:  # each is judged for itself
                        twin.key = None
                        self._work.put(twin)
                    twins = []
            for settled in (task, *twins):
                self._settle(settled, judgement)

    def _answer(self, slot: int, task: _Task) -> Judgement:
        if task.answer.done():  # its caller has gone
            return _failed(task.problem, "", "nobody waits for it any more")
        try:
            return self._attempts(slot, task.problem, task.program)
        except CheckerError as error:
            return _failed(task.problem, "", str(error))
        except Exception as error:  # a defect of ours must answer too, or the caller waits for ever
            return _failed(task.problem, "", f"defect in the pool: {error!r}")

    def _attempts(self, slot: int, problem: Problem, program: str) -> Judgement:
        cause, kind, failures, exhausted = "", "", 0, 0
        while failures <= self._retries:
            if self._closed:
                return _failed(problem, kind, f"the execution pool was closed; {cause}".rstrip("; "))
            try:
                kind = self._runner(slot).kind
                return grade.judge(
                    problem,
                    lambda cases, alone: self._ask(slot, problem, program, cases, alone),
                    kind,
                    fail_fast=self._fail_fast,
                )
            except NotBegunError:
                continue
            except SandboxError as error:
                cause = cause or str(error)  # the first failure explains the later ones
                exhausted += isinstance(error, ExhaustedError)
                if exhausted == 2:  # once may be another's doing on the host; the same again is this program's
                    detail = "exhausted its container, twice"
                    return Judgement(Verdict.MEMORY_LIMIT, 0, len(problem.cases), 0.0, kind, detail=detail)
                time.sleep(_BACKOFF_S * failures)
                failures += 1
        return _failed(problem, kind, f"{cause} (and {self._retries} retries)")

    def _ask(self, slot: int, problem: Problem, program: str, cases: Sequence[int], alone: bool) -> list[dict]:
        """Have some cases of a program run on the slot's runner. After a failure the runner is gone."""
        with self._gate.alone() if alone else self._gate.together():
            runner = self._runner(slot)
            try:
                factor = self._slowdown(runner) if alone else 1.0
                request = make_request(
                    problem, program, str(next(self._ids)), cases, stop_early=self._fail_fast, cpu_factor=factor
                )
                answer = runner.run(request, deadline_s(problem, len(cases)))
            except SandboxError:
                self._drop(slot, runner)
                raise
        for result in answer["cases"]:
            result["cpu_limit_ms"] = 1000 * request["limits"]["cpu_s"]
        with self._lock:
            self._confirmations += alone
        if answer["dirty"]:
            self._drop(slot, runner)
        return answer["cases"]

    def _slowdown(self, runner: Runner) -> float:
        """Return how much slower the machine is now than when it was fastest."""
        now_ms = min(self._work_ms(runner) for _ in range(2))
        return min(max(1.0, now_ms / self._quiet_ms), _MAX_SLOWDOWN)

    def _work_ms(self, runner: Runner) -> float:
        """CPU time of the fixed piece of work on this runner; its best is remembered."""
        now_ms = work_ms(runner)
        self._quiet_ms = min(self._quiet_ms, now_ms)
        return now_ms

    def _runner(self, slot: int) -> Runner:
        """Return the slot's runner, a fresh one that is proved where it has none. Raises `SandboxError`."""
        with self._renewing[slot]:
            if (runner := self._runners[slot]) is not None:
                return runner
            runner = self._make_runner()
            try:
                try:
                    prove(runner, self._canaries)
                    self._work_ms(runner)
                except NotBegunError as error:  # nobody else has asked it: this failure is its own
                    raise SandboxError(f"a fresh sandbox failed at once: {error}") from error
                with self._lock:
                    if self._closed:
                        raise SandboxError("the execution pool was closed")
                    self._runners[slot] = runner
            except BaseException:
                runner.close()
                raise
            return runner

    def _drop(self, slot: int, runner: Runner) -> None:
        """Close a runner that is of no use any more, unless the slot's other thread has done so."""
        with self._lock:
            if self._runners[slot] is not runner:
                return
            self._runners[slot] = None
            self._restarts += 1
        runner.close()


def make_pool(
    kind: str,
    section: SandboxSection,
    languages: Collection[str] = (),
    observe: Callable[[Judgement, float], None] | None = None,
) -> ExecutionPool:
    """Start the pool that a config describes; `kind` is `docker` or `process`. Raises as `ExecutionPool` does.

    `languages`: those beside Python that its programs are in, as `languages.compiled` finds them.
    """
    return ExecutionPool(
        runner_factory(kind, section, languages),
        section.slots,
        section.retries,
        fail_fast=section.fail_fast,
        cache_entries=section.cache_entries,
        queue_programs=section.queue_programs,
        languages=languages,
        observe=observe,
    )


def _failed(problem: Problem, kind: str, error: str) -> Judgement:
    return Judgement(None, 0, len(problem.cases), 0.0, kind, error=error)
