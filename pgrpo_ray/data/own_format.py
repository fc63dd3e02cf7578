"""Our own JSON form of a problem: one record to a `Problem` and back.

Strict where a slip would silently change what is measured: unknown keys, wrong types, tests without cases and keys
that have no meaning for a style are errors. The format is described for users in `docs/problems.md`.
"""

import json
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
from pgrpo_ray.types import (
    CHECKERS,
    LANGUAGES,
    AnswerCase,
    AssertCase,
    CallCase,
    Case,
    Limits,
    Problem,
    StdinCase,
    TestStyle,
)

_KEYS = ("id", "prompt", "tests", "limits", "metadata", "setup", "completion_prefix")
_TEST_KEYS = ("style", "entry_point", "language", "checker", "cases")
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
    if style is TestStyle.ANSWER:
        _check_answer_form(record, cases)
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
        language=_language(tests, style),
        checker=check_checker(require_text(tests, "checker", "tests"), style) if "checker" in tests else "",
        limits=_limits(record),
        metadata=_metadata(record),
    )


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """Return the record that `problem_from_json` reads back as an equal problem; parts at their defaults are left out.

    A tuple in `expected` comes back as a list: JSON has no tuples, and the comparison does not tell them apart. Checker
    `identical` does: there, values that JSON would change raise `DataError`.
    """
    if problem.checker == "identical":
        _check_kept(problem)
    tests: dict[str, Any] = {"style": str(problem.style)}
    if problem.entry_point is not None:
        tests["entry_point"] = problem.entry_point
    if problem.language != "python":
        tests["language"] = problem.language
    if problem.checker:
        tests["checker"] = problem.checker
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


def check_checker(name: str, style: TestStyle) -> str:
    """Return `name` when it may be a checker for `style`: built in, or `module:function`. Raises `DataError`.

    Nothing is imported: reading problems runs nobody's code.
    """
    if style is TestStyle.ASSERT:
        raise DataError("'tests.checker' has no meaning for style assert, whose cases compare themselves. Remove it.")
    module, colon, function = name.partition(":")
    if colon and style is TestStyle.ANSWER:
        raise DataError(f"'tests.checker' is {name!r}; style answer has only {' and '.join(CHECKERS[style])}. Use one.")
    if colon and not all(part.isidentifier() for part in (*module.split("."), function)):
        raise DataError(f"'tests.checker' is {name!r}, not of the form module:function. Write it like checks:judge.")
    if not colon and name not in CHECKERS[style]:
        hint = did_you_mean(name, CHECKERS[style])
        own = "" if style is TestStyle.ANSWER else " One of your own is written module:function."
        raise DataError(f"'tests.checker' is {name!r}, which is no checker for style {style}. {hint}{own}")
    return name


def _language(tests: dict[str, Any], style: TestStyle) -> str:
    """Read `tests.language`; calls and asserts can only be of Python."""
    language = require(tests, "language", str, "tests") if "language" in tests else "python"
    if language not in LANGUAGES:
        raise DataError(f"'tests.language' is {language!r}, which is not known. {did_you_mean(language, LANGUAGES)}")
    if language != "python" and style is not TestStyle.STDIN:
        raise DataError(f"'tests.language' is {language!r}, which has no style {style}. Use style stdin.")
    return language


def _entry_point(tests: dict[str, Any], style: TestStyle) -> str | None:
    """Read `tests.entry_point`: needed for calls, optional for asserts, without meaning for scripts."""
    if style is TestStyle.CALL or (style is TestStyle.ASSERT and tests.get("entry_point") is not None):
        return check_entry_point(require(tests, "entry_point", str, "tests"), "tests.entry_point")
    if tests.get("entry_point") is not None:
        raise DataError(f"'tests.entry_point' has no meaning for style {style}. Remove it, or use style call.")
    return None


def _stdin_case(case: Any, where: str) -> Case:
    """Read `{"input": ..., "output": ...}`, or `any_of` in place of `output`."""
    record = _case_object(case, where, ("input", "output"))
    given, accepted = require(record, "input", str, where), _accepted(record, "output", where)
    output, *also = (require(accepted, place, str, where) for place in accepted)
    return StdinCase(input=given, output=output, also=tuple(also))


def _call_case(case: Any, where: str) -> Case:
    """Read `{"args": [...] or {...}, "expected": ...}`, or `any_of` in place of `expected`."""
    record = _case_object(case, where, ("args", "expected"))
    if "args" not in record:
        raise DataError(f"{dotted(where, 'args')!r} is missing. Add it: an array or an object.")
    args = record["args"]
    if not isinstance(args, list | dict):
        raise DataError(
            f"{dotted(where, 'args')!r} must be an array (by position) or an object (by keyword), "
            f"received {excerpt(args)}. Wrap a single argument in an array."
        )
    expected, *also = _accepted(record, "expected", where).values()
    return CallCase(args=args, expected=expected, also=tuple(also))


def _accepted(record: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return the right outputs of a case by their place in it: the one under `key`, or those of `any_of`."""
    if "any_of" not in record:
        if key not in record:
            null = " (null is a value)" if key == "expected" else ""
            raise DataError(f"{dotted(where, key)!r} is missing. Add it{null}, or 'any_of' for several.")
        return {key: record[key]}
    if key in record:
        raise DataError(f"{where!r} has both {key!r} and 'any_of'. Keep one; 'any_of' may hold all.")
    accepted = require(record, "any_of", list, where)
    if not accepted:
        raise DataError(f"{dotted(where, 'any_of')!r} is empty: no output would be right. Add at least one.")
    return {f"any_of[{index}]": value for index, value in enumerate(accepted)}


def _assert_case(case: Any, where: str) -> Case:
    """Read one assert statement as a string."""
    if not isinstance(case, str) or not case.strip():
        raise DataError(f"{where!r} must be Python source such as 'assert f(1) == 2', received {excerpt(case)}.")
    check_source(case, where)
    return AssertCase(source=case)


def _answer_case(case: Any, where: str) -> Case:
    """Read `{"answer": ...}`, or `any_of` in place of `answer`."""
    if not isinstance(case, dict):
        raise DataError(f"{where!r} must be an object with 'answer', not {json_name(case)}.")
    check_keys(case, ("answer", "any_of"), where)
    accepted = _accepted(case, "answer", where)
    answers = [require(accepted, place, str, where) for place in accepted]
    if blank := next((place for place, answer in zip(accepted, answers, strict=True) if not answer.strip()), None):
        raise DataError(f"{dotted(where, blank)!r} is blank: no answer would be right. Give the answer.")
    return AnswerCase(answers[0], tuple(answers[1:]))


def _check_answer_form(record: dict[str, Any], cases: list[Any]) -> None:
    """Refuse what has no meaning where answers are compared."""
    if len(cases) != 1:
        raise DataError(
            f"'tests.cases' holds {len(cases)} cases; style answer has one, as a problem has one answer. Put answers "
            "that are as right into its 'any_of'."
        )
    if "completion_prefix" in record:
        raise DataError("'completion_prefix' continues programs and has no meaning for style answer. Remove it.")


def _case_object(case: Any, where: str, keys: tuple[str, str]) -> dict[str, Any]:
    """Return `case` when it is an object with no other than `keys` and `any_of`."""
    if not isinstance(case, dict):
        raise DataError(f"{where!r} must be an object with {keys[0]!r} and {keys[1]!r}, not {json_name(case)}.")
    check_keys(case, (*keys, "any_of"), where)
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
    limits: dict[str, Any] = {key: value if _LIMIT_TYPES[key] is int else float(value) for key, value in given.items()}
    return Limits(**limits)


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    """Read `metadata`; only `float_tolerance` has a meaning, so only that is checked."""
    metadata = require(record, "metadata", dict) if "metadata" in record else {}
    tolerance = metadata.get("float_tolerance", 0.0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise DataError(f"'metadata.float_tolerance' must be a number in [0, 1), received {excerpt(tolerance)}.")
    return metadata


def _case_to_json(case: Case) -> Any:
    """Return one case as our format writes it."""
    if isinstance(case, AssertCase):
        return case.source
    if isinstance(case, AnswerCase):
        return {"any_of": [case.answer, *case.also]} if case.also else {"answer": case.answer}
    given, right = ("input", "output") if isinstance(case, StdinCase) else ("args", "expected")
    first = getattr(case, right)
    return {given: getattr(case, given)} | ({"any_of": [first, *case.also]} if case.also else {right: first})


def _check_kept(problem: Problem) -> None:
    """Refuse expected values of calls that JSON would give back as other ones, such as tuples."""
    for index, case in enumerate(problem.cases):
        for value in (case.expected, *case.also):  # type: ignore[union-attr]
            try:
                kept = json.loads(json.dumps(value)) == value
            except (TypeError, ValueError):
                kept = False
            if not kept:
                raise DataError(
                    f"case {index} expects {excerpt(value)}, which JSON does not hold and checker 'identical' needs as "
                    "it is. Use checker 'values'."
                )


_CASES = {
    TestStyle.STDIN: _stdin_case,
    TestStyle.CALL: _call_case,
    TestStyle.ASSERT: _assert_case,
    TestStyle.ANSWER: _answer_case,
}
