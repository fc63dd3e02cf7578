"""Our own JSON form of a problem: one record to a `Problem` and back.

Strict where a slip would silently change what is measured: unknown keys, wrong types, tests without cases and keys
that have no meaning for a style are errors. The format is described for users in `docs/problems.md`.
"""

import keyword
from dataclasses import asdict, fields
from typing import Any

from pgrpo_ray.data.records import (
    check_keys,
    check_source,
    did_you_mean,
    dotted,
    excerpt,
    json_name,
    require,
    require_text,
)
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import AssertCase, CallCase, Case, Limits, Problem, StdinCase, TestStyle

_KEYS = ("id", "prompt", "tests", "limits", "metadata", "setup", "completion_prefix")
_TEST_KEYS = ("style", "entry_point", "cases")
_LIMIT_TYPES = {limit.name: limit.type for limit in fields(Limits)}
_MAX_LIMITS = {"cpu_s": 3600.0, "wall_s": 3600.0, "memory_mib": 1 << 20, "output_kib": 1 << 20}
"""Ours: beyond an hour or a tebibyte a value is a slip of the unit, and would hold a slot of the pool for ever."""


def problem_from_json(record: dict[str, Any]) -> Problem:
    """Build a problem from one record. Raises `DataError` (without a place) for everything ill-formed."""
    check_keys(record, _KEYS)
    tests = require(record, "tests", dict)
    check_keys(tests, _TEST_KEYS, "tests")
    style_name = require(tests, "style", str, "tests")
    if style_name not in set(TestStyle):
        hint = did_you_mean(style_name, [str(style) for style in TestStyle])
        raise DataError(f"'tests.style' is {style_name!r}, which is no test style. {hint}")
    style = TestStyle(style_name)
    cases = require(tests, "cases", list, "tests")
    if not cases:
        raise DataError("'tests.cases' is empty: every program would pass. Add at least one case.")
    setup = require(record, "setup", str) if "setup" in record else ""
    if setup and style is not TestStyle.ASSERT:
        raise DataError(f"'setup' runs before asserts and has no meaning for style {style}. Remove it.")
    check_source(setup, "setup")
    return Problem(
        id=require_text(record, "id"),
        prompt=require_text(record, "prompt"),
        style=style,
        cases=tuple(_CASES[style](case, f"tests.cases[{index}]") for index, case in enumerate(cases)),
        entry_point=_entry_point(tests, style),
        setup=setup,
        completion_prefix=require(record, "completion_prefix", str) if "completion_prefix" in record else "",
        limits=_limits(record),
        metadata=_metadata(record),
    )


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """Return the record that `problem_from_json` reads back as an equal problem; parts at their defaults are left out.

    A tuple in `expected` comes back as a list: JSON has no tuples, and the comparison does not tell them apart.
    """
    tests: dict[str, Any] = {"style": str(problem.style)}
    if problem.entry_point is not None:
        tests["entry_point"] = problem.entry_point
    tests["cases"] = [_case_to_json(case) for case in problem.cases]
    record: dict[str, Any] = {"id": problem.id, "prompt": problem.prompt, "tests": tests}
    if problem.limits != Limits():
        record["limits"] = asdict(problem.limits)
    for key in ("metadata", "setup", "completion_prefix"):
        if value := getattr(problem, key):
            record[key] = value
    return record


def check_entry_point(name: str, where: str) -> str:
    """Return `name` when it is a function's name or `Class.method`. Raises `DataError`."""
    parts = name.split(".")
    if len(parts) > 2 or not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise DataError(f"{where!r} is {name!r}, not a name. Give the function, such as solve, or Solution.solve.")
    return name


def _entry_point(tests: dict[str, Any], style: TestStyle) -> str | None:
    """Read `tests.entry_point`: needed for calls, without meaning elsewhere."""
    if style is TestStyle.CALL:
        return check_entry_point(require(tests, "entry_point", str, "tests"), "tests.entry_point")
    if tests.get("entry_point") is not None:
        raise DataError(f"'tests.entry_point' has no meaning for style {style}. Remove it, or use style call.")
    return None


def _stdin_case(case: Any, where: str) -> Case:
    """Read `{"input": ..., "output": ...}`."""
    record = _case_object(case, where, ("input", "output"))
    return StdinCase(input=require(record, "input", str, where), output=require(record, "output", str, where))


def _call_case(case: Any, where: str) -> Case:
    """Read `{"args": [...] or {...}, "expected": ...}`."""
    record = _case_object(case, where, ("args", "expected"))
    for key in ("args", "expected"):
        if key not in record:
            raise DataError(f"{dotted(where, key)!r} is missing. Add it (null is a value).")
    args = record["args"]
    if not isinstance(args, list | dict):
        raise DataError(
            f"{dotted(where, 'args')!r} must be an array (by position) or an object (by keyword), "
            f"received {excerpt(args)}. Wrap a single argument in an array."
        )
    return CallCase(args=args, expected=record["expected"])


def _assert_case(case: Any, where: str) -> Case:
    """Read one assert statement as a string."""
    if not isinstance(case, str) or not case.strip():
        raise DataError(f"{where!r} must be Python source such as 'assert f(1) == 2', received {excerpt(case)}.")
    check_source(case, where)
    return AssertCase(source=case)


def _case_object(case: Any, where: str, keys: tuple[str, str]) -> dict[str, Any]:
    """Return `case` when it is an object with no other than `keys`."""
    if not isinstance(case, dict):
        raise DataError(f"{where!r} must be an object with {keys[0]!r} and {keys[1]!r}, not {json_name(case)}.")
    check_keys(case, keys, where)
    return case


def _limits(record: dict[str, Any]) -> Limits:
    """Read `limits`; what is not given keeps its default."""
    if "limits" not in record:
        return Limits()
    given = require(record, "limits", dict)
    check_keys(given, _LIMIT_TYPES, "limits")
    for key, value in given.items():
        whole = _LIMIT_TYPES[key] is int
        is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= _MAX_LIMITS[key]:
            kind = "a whole number" if whole else "a number"
            raise DataError(
                f"'limits.{key}' must be {kind} above 0 and at most {_MAX_LIMITS[key]}, received {excerpt(value)}."
            )
    return Limits(**{key: value if _LIMIT_TYPES[key] is int else float(value) for key, value in given.items()})


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    """Read `metadata`; only `float_tolerance` has a meaning, so only that is checked."""
    metadata = require(record, "metadata", dict) if "metadata" in record else {}
    tolerance = metadata.get("float_tolerance", 0.0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise DataError(f"'metadata.float_tolerance' must be a number in [0, 1), received {excerpt(tolerance)}.")
    return metadata


def _case_to_json(case: Case) -> Any:
    """Return one case as our format writes it."""
    return case.source if isinstance(case, AssertCase) else {name: getattr(case, name) for name in case.__slots__}


_CASES = {TestStyle.STDIN: _stdin_case, TestStyle.CALL: _call_case, TestStyle.ASSERT: _assert_case}
