"""The execution pool: several runners kept busy, failures of the machinery kept apart from failures of programs.

Who waits for whom: callers of `judge_many` wait for their futures. One thread a slot takes work from one queue and
waits for its runner, never longer than the program's deadline. A runner that fails or says it is dirty is closed and
replaced by its slot's thread before the next program. `close` closes the runners under their threads, which wakes
them; work that was not done is answered with an error. So every caller gets an answer for every program.

Invariant: a verdict is the program's doing. After `retries` more attempts on fresh runners a machinery failure becomes
`Judgement(verdict=None, error=...)`, never a verdict. Before its first program every runner must judge three canaries
rightly: one that passes, one that fails, one that is stopped for what it prints. A judge that cannot tell is no judge.
"""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from pgrpo_ray.errors import SandboxError
from pgrpo_ray.protocols import Runner
from pgrpo_ray.sandbox.grade import deadline_s, decide, make_request, may_run_together, settled
from pgrpo_ray.types import CallCase, Judgement, Limits, Problem, StdinCase, TestStyle, Verdict

_SLACK_S = 15.0
"""Beyond a program's own wall limits. Ours: covers the start of a container on a busy machine."""
_BACKOFF_S = 0.2
"""Before a new runner after a failed start, times the attempt: an engine that restarts needs a moment."""
_CANARY_LIMITS = Limits(cpu_s=5.0, wall_s=10.0, memory_mib=128, output_kib=16)
_CANARIES = (
    # `colorsys` is not preloaded: a program's uid must be able to read the standard library.
    ("import colorsys\ndef double(x): return 2 * x", TestStyle.CALL, Verdict.PASSED),
    ("def double(x): return x", TestStyle.CALL, Verdict.WRONG_ANSWER),
    ("while True: print('x' * 4096)", TestStyle.STDIN, Verdict.OUTPUT_LIMIT),
)
_Item = tuple[Problem, str]


class ExecutionPool:
    """Judges programs on `slots` runners at a time. Thread-safe; implements `protocols.Judge`."""

    def __init__(self, make_runner: Callable[[], Runner], slots: int, retries: int):
        """Start all runners and prove each with canaries.

        `retries` counts further attempts after the first. Raises `SandboxError` when a runner cannot be started or
        misjudges a canary; nothing is left running then.
        """
        self._make_runner = make_runner
        self._retries = retries
        self._work: queue.SimpleQueue[tuple[_Item, Future[Judgement]] | None] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self._runners: list[Runner | None] = [None] * slots
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in range(slots)]
        try:
            with ThreadPoolExecutor(slots) as starting:  # a container takes some 0.2 s to start
                list(starting.map(self._renew, range(slots)))
        except SandboxError:
            self.close()
            raise
        for thread in self._threads:
            thread.start()

    def judge(self, problem: Problem, program: str) -> Judgement:
        """Judge one program. A machinery failure is an answer with `verdict=None`, not an exception."""
        return self.judge_many([(problem, program)])[0]

    def judge_many(self, items: Sequence[_Item]) -> list[Judgement]:
        """Judge each (problem, program); answers keep the order. Machinery failures are answers, not exceptions."""
        futures: list[Future[Judgement]] = []
        for item in items:
            future: Future[Judgement] = Future()
            futures.append(future)
            with self._lock:  # nothing may enter the queue after `close` has emptied it
                if self._closed:
                    future.set_result(_failed(item[0], "", "the execution pool is closed"))
                else:
                    self._work.put((item, future))
        return [future.result() for future in futures]

    def close(self) -> None:
        """Free every runner. Idempotent; prompt, also with programs in flight: those are answered with an error."""
        with self._lock:
            already, self._closed = self._closed, True
            runners, self._runners = self._runners, [None] * len(self._runners)
            if not already:
                with contextlib.suppress(queue.Empty):
                    while entry := self._work.get_nowait():
                        entry[1].set_result(_failed(entry[0][0], "", "the execution pool was closed"))
                for _ in self._threads:
                    self._work.put(None)
        closers = [threading.Thread(target=runner.close) for runner in runners if runner is not None]
        for thread in closers:  # together: removing a container takes the engine some 0.2 s each
            thread.start()
        for thread in (*closers, *(thread for thread in self._threads if thread.ident)):
            if thread is not threading.current_thread():
                thread.join(2.5)

    def _serve(self, slot: int) -> None:
        """Be a slot: take programs until told to stop."""
        while (entry := self._work.get()) is not None:
            (problem, program), future = entry
            try:
                future.set_result(self._attempts(slot, problem, program))
            except Exception as error:  # a defect of ours must answer too, or the caller waits for ever
                with contextlib.suppress(CancelledError):
                    future.set_result(_failed(problem, "", f"defect in the pool: {error!r}"))

    def _attempts(self, slot: int, problem: Problem, program: str) -> Judgement:
        cause, kind = "", ""
        for attempt in range(self._retries + 1):
            if self._closed:
                return _failed(problem, kind, f"the execution pool was closed; {cause}".rstrip("; "))
            try:
                runner = self._runners[slot] or self._renew(slot)
                kind = runner.kind
                return self._once(slot, runner, problem, program)
            except SandboxError as error:
                cause = cause or str(error)  # the first failure explains the later ones
                self._drop(slot)
                time.sleep(_BACKOFF_S * attempt)
        return _failed(problem, kind, f"{cause} (and {self._retries} retries)")

    def _once(self, slot: int, runner: Runner, problem: Problem, program: str) -> Judgement:
        if may_run_together(problem):
            judgement = self._ask(slot, runner, problem, program, together=True)
            if settled(judgement):
                return judgement
            runner = self._runners[slot] or self._renew(slot)
        return self._ask(slot, runner, problem, program, together=False)

    def _ask(self, slot: int, runner: Runner, problem: Problem, program: str, *, together: bool) -> Judgement:
        request = make_request(problem, program, str(next(self._ids)), together=together)
        answer = runner.run(request, deadline_s(problem, _SLACK_S))
        if answer["dirty"]:
            self._drop(slot)
        return decide(problem, answer, runner.kind, together=together)

    def _renew(self, slot: int) -> Runner:
        """Start and prove a runner for `slot`. Raises `SandboxError`."""
        runner = self._make_runner()
        try:
            self._prove(runner)
            with self._lock:
                if self._closed:
                    raise SandboxError("the execution pool was closed")
                self._runners[slot] = runner
        except BaseException:
            runner.close()
            raise
        return runner

    def _prove(self, runner: Runner) -> None:
        for program, style, wanted in _CANARIES:
            case = CallCase([21], 42) if style is TestStyle.CALL else StdinCase("", "")
            problem = Problem("canary", "", style, (case,), entry_point="double", limits=_CANARY_LIMITS)
            request = make_request(problem, program, f"canary-{next(self._ids)}")
            judgement = decide(problem, runner.run(request, deadline_s(problem, _SLACK_S)), runner.kind)
            if judgement.verdict is not wanted:
                raise SandboxError(
                    f"the {runner.kind} sandbox misjudges: a program that deserves {wanted} got {judgement.verdict} "
                    f"({judgement.detail}). Nothing it says can be trusted; check its image and its Python."
                )

    def _drop(self, slot: int) -> None:
        with self._lock:
            runner, self._runners[slot] = self._runners[slot], None
        if runner is not None:
            runner.close()


def _failed(problem: Problem, kind: str, error: str) -> Judgement:
    return Judgement(None, 0, len(problem.cases), 0.0, kind, error=error)
