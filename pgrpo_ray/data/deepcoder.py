"""DeepCoder-Preview records (agentica-org/DeepCoder-Preview-Dataset) as problems. One record in, one `Problem` out.

A record has `problem` (the statement), `tests` (JSON text), and of some subsets `starter_code`, `metadata`, `solutions`
(not kept). The tests come in the shapes of the sets that DeepCoder was gathered from:

    taco            {"inputs": [...], "outputs": [...]} and `fn_name` where a function is called
    primeintellect  [{"type": "stdin_stdout" | "function_call", "input", "output", "fn_name"}, ...] (SYNTHETIC-1)
    lcbv5           [{"testtype": "stdin" | "functional", "input", "output"}, ...], `metadata.func_name`
    codeforces      [{"input", "output"}, ...], all by standard input

Where a shape leaves open what was meant, the record is refused instead of guessed at: `_args`, `_text` and
`_check_keys_kept` say where. Expected values of calls in the first two shapes are often, and not always, wrapped in an
array of one; harnesses in the style of APPS accept both readings, and so does this. As in LiveCodeBench, numbers in
standard output are equal when their values are. The records have no ids: `deepcoder-` and 16 hex digits of the prompt's
SHA-256 stand for one, so records with the same statement collide; `pgrpo data prepare` leaves the later ones out.
"""

import hashlib
import re
from typing import Any

from pgrpo_ray.data.livecodebench import SOLUTION_CLASS, functional_case, prompt_of
from pgrpo_ray.data.own_format import check_entry_point
from pgrpo_ray.data.records import excerpt, json_name, loads, require_text
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import CallCase, Case, Problem, StdinCase, TestStyle

MAX_TESTS_BYTES = 64 << 20
"""Longest `tests` text of one record, characters. Ours: parsing takes several times as much memory, and a pool would
have to send the cases to its runners for every program."""

_KEPT = ("difficulty", "contest_date", "contest_id", "platform", "question_id", "question_title")
"""What is taken over of the record's metadata."""
_CALLED = {"function_call": True, "functional": True, "stdin_stdout": False, "stdin": False}
_WHOLE_NUMBER = re.compile(r"[+-]?\d+", re.ASCII)


class NoTestsError(DataError):
    """A record without a test: every program would pass. Leave it out."""


def deepcoder_problem(record: dict[str, Any]) -> Problem:
    """Build a problem from one record of any subset, with all of its tests. Raises `DataError`."""
    statement = require_text(record, "problem")
    tests = _parsed(record.get("tests"))
    metadata = _metadata(record)
    starter = record.get("starter_code") or ""
    if not isinstance(starter, str):
        raise DataError(f"'starter_code' must be a string, received {excerpt(starter)}.")
    shape, name, pairs = _pairs(tests, metadata)
    if not pairs:
        raise NoTestsError("'tests' holds no case: every program would pass. Leave the record out.")
    if name is None:
        cases: list[Case] = [_stdin_case(given, right, where) for where, given, right in pairs]
        if not any(case.output.strip() for case in cases):  # type: ignore[union-attr]
            raise NoTestsError("'tests' expects blank output everywhere: a program that does nothing would pass.")
        prompt, entry_point = prompt_of(statement, "", False), None
    else:
        listed = shape != "lcbv5"
        cases = [(_listed_case if listed else _lined_case)(given, right, where) for where, given, right in pairs]
        entry_point = check_entry_point(f"Solution.{name}" if SOLUTION_CLASS.search(starter) else name, "fn_name")
        if starter.strip():
            prompt = prompt_of(statement, starter, True)
        else:
            prompt = f"{statement.strip()}\n\nWrite the function `{name}`. Write every import that you use.\n"
    return Problem(
        id=f"deepcoder-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}",
        prompt=prompt,
        style=TestStyle.STDIN if name is None else TestStyle.CALL,
        cases=tuple(cases),
        entry_point=entry_point,
        metadata={
            "benchmark": "deepcoder",
            "tests_shape": shape,
            "float_tolerance": 0.0,
            **{key: metadata[key] for key in _KEPT if isinstance(metadata.get(key), str | int)},
        },
    )


def _parsed(tests: Any) -> Any:
    """Return the value of `tests`, which is JSON text as published."""
    if tests is None or tests == "":
        raise NoTestsError("'tests' is missing or empty: every program would pass. Leave the record out.")
    if not isinstance(tests, str):
        return tests
    if len(tests) > MAX_TESTS_BYTES:
        raise DataError(f"'tests' has {len(tests)} characters, more than {MAX_TESTS_BYTES}. Leave the record out.")
    try:
        return loads(tests)
    except DataError as error:
        raise DataError(f"'tests' {error.args[0]}") from error


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record's metadata, an object or JSON text of one, with the record's own keys of that kind."""
    metadata = record.get("metadata") or {}
    if isinstance(metadata, str):
        try:
            metadata = loads(metadata)
        except DataError as error:
            raise DataError(f"'metadata' {error.args[0]}") from error
    if not isinstance(metadata, dict):
        raise DataError(f"'metadata' must be an object, received {excerpt(metadata)}.")
    return metadata | {key: record[key] for key in _KEPT if key in record}


def _pairs(tests: Any, metadata: dict[str, Any]) -> tuple[str, str | None, list[tuple[str, Any, Any]]]:
    """Return (subset whose shape it is, function or None for standard input, [(where, input, output)])."""
    if isinstance(tests, dict):
        inputs, outputs = tests.get("inputs"), tests.get("outputs")
        if not isinstance(inputs, list) or not isinstance(outputs, list):
            raise DataError("'tests' must have the arrays 'inputs' and 'outputs', or be an array of cases.")
        if len(inputs) != len(outputs):
            raise DataError(f"'tests' has {len(inputs)} inputs and {len(outputs)} outputs: which belong together?")
        name = _name(tests.get("fn_name"), "tests.fn_name")
        both = enumerate(zip(inputs, outputs, strict=True))
        return "taco", name, [(f"tests[{index}]", given, right) for index, (given, right) in both]
    if not isinstance(tests, list):
        raise DataError(f"'tests' must hold an object or an array, not {json_name(tests)}.")
    kinds, names, pairs, shape = set(), set(), [], "codeforces"
    for index, test in enumerate(tests):
        where = f"tests[{index}]"
        if not isinstance(test, dict) or "input" not in test or "output" not in test:
            raise DataError(f"{where!r} must be an object with 'input' and 'output', received {excerpt(test)}.")
        shape = "lcbv5" if "testtype" in test else "primeintellect" if "type" in test else shape
        kind = test.get("testtype", test.get("type", "stdin"))
        if not isinstance(kind, str) or kind not in _CALLED:
            raise DataError(f"{where!r} is of type {excerpt(kind)}; known are {', '.join(_CALLED)}.")
        kinds.add(_CALLED[kind])
        if _CALLED[kind]:
            own = test["metadata"] if isinstance(test.get("metadata"), dict) else {}
            given_name = test.get("fn_name") or own.get("func_name") or metadata.get("func_name")
            names.add(_name(given_name, f"{where}.fn_name"))
        pairs.append((where, test["input"], test["output"]))
    if len(kinds) > 1:
        raise DataError("'tests' mixes calls of a function with standard input. Split the problem.")
    if kinds == {True} and (len(names) != 1 or None in names):
        raise DataError(f"'tests' calls {len(names - {None})} different functions; a problem has one entry point.")
    return shape, names.pop() if names else None, pairs


def _name(value: Any, where: str) -> str | None:
    """Return a function's name; None where there is none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise DataError(f"{where!r} must be a function's name, received {excerpt(value)}.")
    return value.strip()


def _stdin_case(given: Any, right: Any, where: str) -> StdinCase:
    """Return a case of style `stdin`."""
    # Several expected lines as an array: one harness joins them, another takes the first. Not ours to choose.
    if isinstance(right, list) and len(right) != 1:
        raise DataError(f"'{where}.output' is an array of {len(right)}: lines, or alternatives? Leave the record out.")
    return StdinCase(input=_text(given, f"{where}.input"), output=_text(right, f"{where}.output"))


def _text(value: Any, where: str) -> str:
    """Return text; an array of strings is its lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise DataError(f"{where!r} must be text or an array of lines, received {excerpt(value)}.")
    return value


def _lined_case(given: Any, right: Any, where: str) -> CallCase:
    """Return a call as LiveCodeBench writes it: each line of the input is one JSON argument."""
    if not isinstance(given, str) or not isinstance(right, str):
        raise DataError(f"{where!r} must have JSON text as 'input' and 'output' (testtype functional).")
    return functional_case({"input": given, "output": right}, where)


def _listed_case(given: Any, right: Any, where: str) -> CallCase:
    """Return a call with an array of arguments; an expected array of one also accepts what is in it."""
    args = _args(given, f"{where}.input")
    _check_keys_kept(right, f"{where}.output")
    if isinstance(right, list) and len(right) == 1:
        return CallCase(args=args, expected=right[0], also=(right,))
    return CallCase(args=args, expected=right)


def _args(given: Any, where: str) -> list[Any]:
    """Return the arguments by position. Text could be one argument or JSON lines of several: refused."""
    if not isinstance(given, list):
        raise DataError(f"{where!r} must be an array of arguments, received {excerpt(given)}.")
    _check_keys_kept(given, where)
    return given


def _check_keys_kept(value: Any, where: str) -> None:
    """Refuse objects whose keys read as whole numbers: JSON lost whether they were numbers or text."""
    if isinstance(value, list):
        for item in value:
            _check_keys_kept(item, where)
    elif isinstance(value, dict):
        if any(_WHOLE_NUMBER.fullmatch(key) for key in value):
            raise DataError(
                f"{where!r} has keys such as {excerpt(next(iter(value)))}: numbers or text? JSON lost which."
            )
        for item in value.values():
            _check_keys_kept(item, where)
