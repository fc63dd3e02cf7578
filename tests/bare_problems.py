"""Problems of each style with as little in them as can be, for tests of what is asked and what answers mean."""

from pgrpo_ray.types import AssertCase, CallCase, Limits, Problem, StdinCase, TestStyle

LIMITS = Limits(cpu_s=2.0, wall_s=7.0, memory_mib=99, output_kib=33)


def stdin_problem(*cases, **fields):
    cases = cases or (StdinCase("in", "right"),)
    return Problem("p", "say right", TestStyle.STDIN, cases, limits=LIMITS, **fields)


def call_problem(*expected, **fields):
    """Case i calls `f(i)` and expects `expected[i]`."""
    cases = tuple(CallCase([index], value) for index, value in enumerate(expected))
    return Problem("p", "", TestStyle.CALL, cases, entry_point="f", limits=LIMITS, **fields)


def assert_problem(*sources, **fields):
    return Problem("p", "", TestStyle.ASSERT, tuple(AssertCase(source) for source in sources), limits=LIMITS, **fields)
