"""From the warden's answers to a judgement. Pure functions, no I/O.

An answer comes from a place where an adversary ran, so nothing in it is believed beyond what a program may say of
itself: the number of cases must be the number asked, values are decoded into plain Python objects and compared here. A
judgement's `detail` never quotes what was expected.

A failure counts only of a case that had its process to itself (`fresh`); a time limit that only load may explain is
judged again alone. `judge` asks for both.
"""

import json
import signal
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_ray.sandbox.inside.codec import decode
from pgrpo_ray.sandbox.plan import Plan, plan_of
from pgrpo_ray.types import Judgement, Problem, TestStyle, Verdict

CPU_TOLERANCE = 1.02
"""Times the CPU limit that still pass: what the same program varies by on a quiet machine."""
FIRST_WAVE = 16
"""Cases asked for at first where the first failure ends it all; each further wave is twice as long."""
WAVE_CHARS = 8 << 20
"""Of input in one request."""
_DETAIL_CHARS = 300
_VERDICTS = {
    "failed": Verdict.WRONG_ANSWER,
    "error": Verdict.RUNTIME_ERROR,
    "exit": Verdict.RUNTIME_ERROR,
    "compile_error": Verdict.COMPILE_ERROR,
    "time_limit": Verdict.TIME_LIMIT,
    "memory_limit": Verdict.MEMORY_LIMIT,
    "output_limit": Verdict.OUTPUT_LIMIT,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one result says about one case."""

    verdict: Verdict
    detail: str = ""
    in_doubt: bool = False
    """A time limit that a quiet machine might not confirm."""


Ask = Callable[[Sequence[int], bool], list[dict[str, Any]]]
"""`ask(cases, alone)`: run these cases, with nothing else running where `alone`; one result each."""


def judge(problem: Problem, ask: Ask, sandbox: str, *, fail_fast: bool) -> Judgement:
    """Have one program run through its cases and say what became of it.

    The first case that does not pass gives the verdict. `fail_fast` ends there; without it the remaining cases count as
    well, in `tests_passed`, unless a limit ended the program.
    """
    trial = _Trial(problem, ask, fail_fast)
    trial.run()
    outcomes, seen = trial.outcomes, trial.seen
    failed = next((index for index, one in enumerate(outcomes) if one.verdict is not Verdict.PASSED), None)
    first = Outcome(Verdict.PASSED) if failed is None else outcomes[failed]
    return Judgement(
        verdict=first.verdict,
        tests_passed=sum(one.verdict is Verdict.PASSED for one in outcomes),
        tests_total=len(problem.cases),
        duration_ms=round(sum(result.get("wall_ms", 0.0) for result in seen), 3),
        sandbox=sandbox,
        first_failed=failed,
        detail=printable(first.detail),
        cpu_ms=round(sum(result.get("cpu_ms", 0.0) for result in seen), 3),
        peak_mib=round(max((result.get("peak_kib", 0) for result in seen), default=0) / 1024, 3),
    )


class _Trial:
    """One program on its way through its cases."""

    def __init__(self, problem: Problem, ask: Ask, fail_fast: bool):
        self.problem = problem
        self.ask = ask
        self.fail_fast = fail_fast
        self.outcomes: list[Outcome] = []
        self.seen: list[dict[str, Any]] = []
        """All results, also of cases that were run again."""

    def run(self) -> None:
        """Fill `outcomes`, one a case from the first on, until all are known or the rest does not matter."""
        for wave in waves(plan_of(self.problem), self.fail_fast):
            while wave:
                results = self._results(wave, False)
                if results is None:
                    return
                troubled = False
                for index, result in zip(wave, results, strict=True):
                    if result["status"] == "skipped" and troubled:
                        if self.outcomes[-1].verdict is not Verdict.PASSED:
                            return
                        break  # the failure that it was skipped behind has been taken back
                    troubled = troubled or result["status"] != "ok"
                    self.outcomes.append(self._outcome(index, result))
                    if self.fail_fast and self.outcomes[-1].verdict is not Verdict.PASSED:
                        return
                wave = [index for index in wave if index >= len(self.outcomes)]

    def _outcome(self, index: int, result: dict[str, Any]) -> Outcome:
        """Decide one case, after asking again where its failure may not be its own."""
        outcome = decide(self.problem, index, result)
        if outcome.verdict is not Verdict.PASSED and _deserves_another(result):
            outcome = self._again(index, False)
        return self._again(index, True) if outcome.in_doubt else outcome

    def _again(self, index: int, alone: bool) -> Outcome:
        results = self._results([index], alone)
        return self.outcomes.pop() if results is None else decide(self.problem, index, results[0])

    def _results(self, cases: Sequence[int], alone: bool) -> list[dict[str, Any]] | None:
        """Ask for cases. None, and a last outcome, where the answer is not one for each."""
        results = self.ask(cases, alone)
        self.seen += results
        if len(results) == len(cases):
            return results
        detail = f"{len(results)} cases answered, {len(cases)} asked"
        self.outcomes.append(Outcome(Verdict.TAMPERED, detail))
        return None


def _deserves_another(result: dict[str, Any]) -> bool:
    """A case behind others, or one that was killed: by itself, or by somebody on the host."""
    if result["status"] == "skipped":
        return False
    return not result.get("fresh") or result.get("signal") == signal.SIGKILL


def waves(plan: Plan, fail_fast: bool) -> Iterator[list[int]]:
    """Yield the indices of the cases in the portions in which they are asked for."""
    wave: list[int] = []
    most, size = FIRST_WAVE if fail_fast else len(plan.cases), 0
    for index, case in enumerate(plan.cases):
        size += len(case.get("stdin", ""))
        if wave and (len(wave) == most or size > WAVE_CHARS):
            yield wave
            wave, most, size = [], 2 * most, len(case.get("stdin", ""))
        wave.append(index)
    yield wave


def decide(problem: Problem, index: int, result: dict[str, Any]) -> Outcome:
    """Turn the result of one case into an outcome. Raises `CheckerError` when the problem's checker is defective."""
    status, limit_ms = result.get("status"), result.get("cpu_limit_ms", problem.limits.cpu_s * 1000)
    cpu_ms = result.get("cpu_ms", 0.0)
    if status == "time_limit":
        return Outcome(Verdict.TIME_LIMIT, result.get("detail", ""), in_doubt=bool(result.get("in_doubt")))
    if status != "ok":
        # An unknown status, or `skipped` with no failure before it, can only be a forgery.
        return Outcome(_VERDICTS.get(str(status), Verdict.TAMPERED), result.get("detail", ""))
    if cpu_ms > CPU_TOLERANCE * limit_ms:
        return Outcome(Verdict.TIME_LIMIT, f"{cpu_ms / 1000:.2f} s of CPU time", in_doubt=True)
    outcome = _compare(problem, index, result)
    if outcome.verdict is Verdict.PASSED and result.get("stray"):
        return Outcome(Verdict.TAMPERED, "wrote to a descriptor of ours")
    return outcome


def _compare(problem: Problem, index: int, result: dict[str, Any]) -> Outcome:
    plan = plan_of(problem)
    if plan.style is TestStyle.STDIN:
        if "output" not in result:
            return Outcome(Verdict.TAMPERED, "nothing says what it printed")
        output: Any = result["output"]
    elif plan.style is TestStyle.CALL:
        try:
            output = decode(json.loads(result["value"]))
            if type(output) is not list or len(output) != len(plan.cases[index]["calls"]):
                raise ValueError("not one value for each call")
        except (ValueError, KeyError, TypeError, IndexError, ArithmeticError, RecursionError):
            return Outcome(Verdict.TAMPERED, "the reported value is damaged")
    else:
        output = None  # the checker inside has compared
    difference = plan.check(index, output)
    return Outcome(Verdict.WRONG_ANSWER, difference) if difference else Outcome(Verdict.PASSED)


def printable(text: str) -> str:
    """Escape to printable ASCII on one line and cut, so that a detail can go to logs and reports as it is."""
    escaped = text.encode("unicode_escape").decode("ascii")
    return textwrap.shorten(escaped, _DETAIL_CHARS, placeholder="...") if len(escaped) > _DETAIL_CHARS else escaped
