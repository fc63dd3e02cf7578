"""Programs whose verdict is known, which a runner must judge before others; one more says how fast the machine is.

A judge that cannot tell is no judge.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from pgrpo_ray.errors import SandboxError
from pgrpo_ray.protocols import Runner
from pgrpo_ray.sandbox import grade
from pgrpo_ray.sandbox.languages import toolchain
from pgrpo_ray.sandbox.plan import deadline_s, make_request
from pgrpo_ray.types import CallCase, Limits, Problem, StdinCase, TestStyle, Verdict

_LIMITS = Limits(cpu_s=5.0, wall_s=10.0, memory_mib=128, output_kib=16)


class Canary(NamedTuple):
    """A program and the verdict that it deserves."""

    problem: Problem
    program: str
    wanted: Verdict


_DOUBLE = Problem("canary", "", TestStyle.CALL, (CallCase([21], 42),), entry_point="double", limits=_LIMITS)
_SILENT = Problem("canary", "", TestStyle.STDIN, (StdinCase("", ""),), limits=_LIMITS)
_PYTHON = (
    # `colorsys` is not preloaded: a program's uid must be able to read the standard library.
    Canary(_DOUBLE, "import colorsys\ndef double(x): return 2 * x", Verdict.PASSED),
    Canary(_DOUBLE, "def double(x): return x", Verdict.WRONG_ANSWER),
    Canary(_SILENT, "while True: print('x' * 4096)", Verdict.OUTPUT_LIMIT),
)
_WORK = "total = 0\nfor i in range(400_000):\n    total += i * i % 7"
"""Some 30 ms. A script, because the CPU time of a process that has ended is exact; that of one that runs is some
milliseconds old."""
_ids = itertools.count()


def canaries(languages: Collection[str]) -> list[Canary]:
    """Return those of Python, and one for each of the other `languages`. Raises `DataError` for an unknown one."""
    return [*_PYTHON, *map(_canary_of, languages)]


def prove(runner: Runner, known: Sequence[Canary]) -> None:
    """Raise `SandboxError` unless the runner judges every canary rightly and is clean afterwards."""
    for problem, program, wanted in known:
        answer = _ask(runner, problem, program)
        outcome = grade.decide(problem, 0, answer["cases"][0])
        if outcome.verdict is not wanted or answer["dirty"]:
            raise SandboxError(
                f"the {runner.kind} sandbox misjudges: a program that deserves {wanted} got {outcome.verdict} "
                f"({outcome.detail}). Nothing it says can be trusted; check its image and its Python."
            )


def work_ms(runner: Runner) -> float:
    """Return the CPU time that a fixed piece of work takes on this runner now, ms. Raises `SandboxError`."""
    (result,) = _ask(runner, _SILENT, _WORK)["cases"]
    if result["status"] != "ok":
        raise SandboxError(f"the canary that measures speed ended with {result['status']}: {result['detail']}")
    return max(1.0, result["cpu_ms"])  # no machine is faster


def _canary_of(language: str) -> Canary:
    known = toolchain(language)
    problem = Problem("canary", "", TestStyle.STDIN, (StdinCase("", "ok"),), language=language, limits=_LIMITS)
    return Canary(problem, known.canary if known else "print('ok')", Verdict.PASSED)


def _ask(runner: Runner, problem: Problem, program: str) -> dict[str, Any]:
    request = make_request(problem, program, f"canary-{next(_ids)}")
    return runner.run(request, deadline_s(problem, 1))
