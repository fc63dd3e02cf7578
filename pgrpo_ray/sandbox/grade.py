"""From a problem to the warden's requests, and from its answers to a judgement. Pure functions, no I/O.

Expected outputs stay on this side: a request holds inputs only, and a judgement's `detail` never quotes what was
expected. (That they cannot be read from a file is the sandbox's part: the process sandbox as an ordinary user cannot
prevent it.) Asserts of a plain form become calls (`asserts`); the others run beside the program, but never in its
process. An answer comes from a place where an adversary ran, so nothing in it is believed beyond what a program may say
of itself: the number of cases must be the number asked, values are decoded into plain Python objects and compared here.

A failure counts only of a case that had its process to itself (`fresh`); a time limit that only load may explain is
judged again alone. `judge` asks for both.
"""

import functools
import hashlib
import json
import signal
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pgrpo_ray.errors import DataError
from pgrpo_ray.sandbox import asserts, checkers, languages
from pgrpo_ray.sandbox.inside import PATIENCE
from pgrpo_ray.sandbox.inside.codec import MAX_DEPTH, Encoder, decode
from pgrpo_ray.types import AssertCase, CallCase, Judgement, Problem, StdinCase, TestStyle, Verdict

CPU_GRACE = 1.5
"""Times its CPU limit a program may run on, so that a quiet machine can have the last word. Ours: fourfold load changed
CPU time by 1 % where we measured, but cores that share units (SMT) may lose a third of their speed to each other."""
CPU_TOLERANCE = 1.02
"""Times the CPU limit that still pass: what the same program varies by on a quiet machine."""
FIRST_WAVE = 16
"""Cases asked for at first where the first failure ends it all; each further wave is twice as long."""
SLACK_S = 15.0
"""Beyond a program's own limits. Ours: covers the start of a container on a busy machine."""
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
_ENCODING_BUDGET = 64 << 20
"""Nodes and characters of one case's arguments: far above real tests."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one result says about one case."""

    verdict: Verdict
    detail: str = ""
    in_doubt: bool = False
    """A time limit that a quiet machine might not confirm."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the sandbox will run a problem's cases, and who compares. Made once a problem."""

    style: TestStyle
    """As the sandbox sees it: asserts may have become calls."""
    cases: tuple[dict[str, Any], ...]
    """As the warden takes them."""
    check: Callable[[int, Any], str]
    """Say what is wrong with case i's output (text, or a list of values), "" when nothing is."""
    toolchain: dict[str, Any] | None
    """What builds a program of a compiled language."""
    digest: bytes
    """Of all that a verdict depends on, but for the program."""


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


def plan_of(problem: Problem) -> Plan:
    """Return the plan of a problem. Raises `DataError` when its checker or language is unknown."""
    return _planned(_Same(problem))


class _Same:
    """A problem as a key: equal to itself alone, because comparing megabytes of tests would cost more than planning."""

    __slots__ = ("problem",)

    def __init__(self, problem: Problem):
        self.problem = problem

    def __hash__(self) -> int:
        return id(self.problem)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.problem is other.problem


@functools.lru_cache(maxsize=4096)
def _planned(key: _Same) -> Plan:
    problem = key.problem
    style, cases, check = _styled(problem)
    toolchain = None
    if language := languages.toolchain(problem.language):
        toolchain = {
            "source": language.source,
            "build": list(language.build),
            "artifact": language.artifact,
            "limits": languages.BUILD_LIMITS,
        }
    parts = (style, problem.cases, problem.entry_point, problem.setup, problem.completion_prefix, problem.limits)
    identity: tuple[Any, ...] = (*parts, problem.language, problem.checker, problem.metadata.get("float_tolerance"))
    if ":" in problem.checker:  # somebody's own checker may look at all of the problem
        identity = (*identity, problem.id, problem.prompt, problem.metadata)
    digest = hashlib.blake2b(repr(identity).encode("utf-8", "surrogatepass")).digest()
    return Plan(style, cases, check, toolchain, digest)


def _styled(problem: Problem) -> tuple[TestStyle, tuple[dict[str, Any], ...], Callable[[int, Any], str]]:
    """Return the style in which the problem is run, its cases as the warden takes them, and their comparison."""
    if problem.style is TestStyle.ASSERT:
        sources = [case.source for case in cast("tuple[AssertCase, ...]", problem.cases)]
        converted = [asserts.as_calls(problem, source) for source in sources]
        if all(calls is not None for calls in converted):
            cases = tuple({"calls": [_call(c.args, c.kwargs, c.name) for c in calls or ()]} for calls in converted)
            return TestStyle.CALL, cases, lambda index, values: _check_calls(converted[index] or [], values)
        return TestStyle.ASSERT, tuple({"source": source} for source in sources), lambda index, _: ""
    checker = checkers.find(problem)
    if problem.style is TestStyle.STDIN:
        inputs = tuple({"stdin": case.input} for case in cast("tuple[StdinCase, ...]", problem.cases))
        return TestStyle.STDIN, inputs, lambda index, text: checker(problem, problem.cases[index], text)
    called = cast("tuple[CallCase, ...]", problem.cases)
    cases = tuple({"calls": [_call(*_arguments(case), problem.entry_point)]} for case in called)
    return TestStyle.CALL, cases, lambda index, values: checker(problem, problem.cases[index], values[0])


def _arguments(case: CallCase) -> tuple[Sequence[Any], dict[str, Any]]:
    return ((), case.args) if isinstance(case.args, dict) else (case.args, {})


def _call(args: Sequence[Any], kwargs: dict[str, Any], name: str | None) -> dict[str, Any]:
    encoder = Encoder(_ENCODING_BUDGET)
    call = {"name": name, "args": encoder.encode(list(args)), "kwargs": encoder.encode(kwargs)}
    if encoder.lossy:
        raise DataError(f"the arguments for {name} nest deeper than {MAX_DEPTH} levels. Flatten them.")
    return call


def _check_calls(calls: list[asserts.Call], values: list[Any]) -> str:
    """Compare the values of one test's calls with what its asserts want."""
    for number, (call, value) in enumerate(zip(calls, values, strict=True), 1):
        if not asserts.holds(call, value):
            return f"assert {number}: the returned value of type {type(value).__name__} does not hold"
    return ""


def make_request(
    problem: Problem,
    program: str,
    request_id: str,
    cases: Sequence[int] | None = None,
    *,
    stop_early: bool = False,
    cpu_factor: float = 1.0,
) -> dict[str, Any]:
    """Build the warden's request for some cases (None: all) of one program. It holds inputs only.

    A program whose first non-blank line is indented continues `problem.completion_prefix`. `cpu_factor` stretches the
    CPU limit where the machine is known to be slower than it was.
    """
    plan, limits = plan_of(problem), problem.limits
    return {
        "id": request_id,
        "style": plan.style.value,
        "program": complete(problem.completion_prefix, program),
        "entry_point": problem.entry_point,
        "setup": problem.setup,
        "limits": {
            "cpu_s": limits.cpu_s * cpu_factor,
            "cpu_grace": CPU_GRACE,
            "patience": PATIENCE,
            "wall_s": limits.wall_s,
            "memory_mib": limits.memory_mib,
            "output_kib": limits.output_kib,
        },
        "cases": list(plan.cases) if cases is None else [plan.cases[index] for index in cases],
        "stop_early": stop_early,
        "toolchain": plan.toolchain,
    }


def complete(prefix: str, program: str) -> str:
    """Prepend `prefix` to a program that starts indented, as a bare function body does; others stand alone."""
    first = next((line for line in program.splitlines() if line.strip()), "")
    return prefix.rstrip("\n") + "\n" + program if prefix and first[:1] in (" ", "\t") else program


def deadline_s(problem: Problem, num_cases: int, slack_s: float = SLACK_S) -> float:
    """Return the host's patience for one request, seconds: the warden's own for each case, plus `slack_s`."""
    build_s = languages.BUILD_LIMITS["wall_s"] if problem.language != languages.PYTHON else 0.0
    return num_cases * (PATIENCE * problem.limits.wall_s + 0.5) + build_s + slack_s


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
