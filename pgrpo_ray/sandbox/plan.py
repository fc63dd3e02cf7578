"""From a problem to what the sandbox is asked: cases as the warden takes them, limits. Pure functions, no I/O.

Expected outputs stay on this side: a request holds inputs only, and the plan knows who compares. (That they cannot be
read from a file is the sandbox's part: the process sandbox as an ordinary user cannot prevent it.) Asserts of a plain
form become calls (`asserts`); the others run beside the program, but never in its process.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pgrpo_ray.errors import DataError
from pgrpo_ray.sandbox import asserts, checkers, languages
from pgrpo_ray.sandbox.inside import PATIENCE
from pgrpo_ray.sandbox.inside.codec import MAX_DEPTH, Encoder
from pgrpo_ray.types import AssertCase, CallCase, Problem, StdinCase, TestStyle

CPU_GRACE = 1.5
"""Times its CPU limit a program may run on, so that a quiet machine can have the last word. Ours: fourfold load changed
CPU time by 1 % where we measured, but cores that share units (SMT) may lose a third of their speed to each other."""
SLACK_S = 15.0
"""Beyond a program's own limits. Ours: covers the start of a container on a busy machine."""
_ENCODING_BUDGET = 64 << 20
"""Nodes and characters of one case's arguments: far above real tests."""


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
