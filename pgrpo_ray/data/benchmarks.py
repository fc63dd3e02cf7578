"""HumanEval and MBPP records as problems. One record in, one `Problem` out; files are `data.records`' business.

Unknown keys are ignored here, unlike in our own format: these files belong to others and grow.
"""

import ast
from typing import Any

from pgrpo_ray.data.own_format import check_entry_point
from pgrpo_ray.data.records import check_source, excerpt, require, require_text
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import AssertCase, Problem, TestStyle


def humaneval_problem(record: dict[str, Any]) -> Problem:
    """Build a problem from `task_id`, `prompt`, `entry_point`, `test`. Raises `DataError`.

    One case: the record's `check` function and a call of it, as the benchmark runs it.
    """
    entry_point = check_entry_point(require_text(record, "entry_point"), "entry_point")
    prompt, test = require_text(record, "prompt"), require_text(record, "test")
    if "def check(" not in test:
        raise DataError(
            "'test' defines no `check(candidate)`, which HumanEval's tests are. Use our format, style assert."
        )
    check_source(test, "test")
    return Problem(
        id=require_text(record, "task_id"),
        prompt=f"Write a Python program that contains this function, completed.\n\n{prompt.rstrip()}\n",
        style=TestStyle.ASSERT,
        cases=(AssertCase(source=f"{test.rstrip()}\n\n\ncheck({entry_point})\n"),),
        completion_prefix=prompt,
        metadata={"benchmark": "humaneval"},
    )


def mbpp_problem(record: dict[str, Any]) -> Problem:
    """Build a problem from MBPP's fields, full (`text`, `test_setup_code`) or sanitized (`prompt`, `test_imports`).

    The statement shows the asserts, as the benchmark's own prompt does: nothing else names the function. A policy that
    trains on MBPP can therefore learn to write the answers down. Raises `DataError`.
    """
    task_id = record.get("task_id")
    if isinstance(task_id, bool) or not isinstance(task_id, int | str) or task_id == "":
        raise DataError(f"'task_id' must be a number or a string, received {excerpt(task_id)}.")
    statement = require_text(record, "text" if "text" in record else "prompt")
    tests = _lines(record, "test_list")
    if not tests:
        raise DataError("'test_list' is empty: every program would pass. Add at least one assert.")
    setup = require(record, "test_setup_code", str) if "test_setup_code" in record else ""
    imports = _lines(record, "test_imports") if "test_imports" in record else []
    setup = "\n".join([*imports, setup]).replace("\r\n", "\n").strip()
    check_source(setup, "test_setup_code")
    for index, test in enumerate(tests):
        check_source(test, f"test_list[{index}]")
    shown = "\n".join(tests)
    return Problem(
        id=str(task_id),
        prompt=f"{statement.strip()}\n\nYour code should pass these tests:\n\n{shown}\n",
        style=TestStyle.ASSERT,
        cases=tuple(AssertCase(source=test) for test in tests),
        entry_point=_under_test(record.get("code"), tests[0]),
        setup=setup,
        metadata={"benchmark": "mbpp"},
    )


def _under_test(code: Any, test: str) -> str | None:
    """Return the function of the reference solution that `test` calls: one of them is called `sum`, as a builtin is."""
    try:
        defined = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError, TypeError):  # no reference solution, or one for another Python
        return None
    calls = [node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    return next((name for name in reversed(defined) if name in called), None)


def _lines(record: dict[str, Any], key: str) -> list[str]:
    """Return an array of source strings with Unix line ends."""
    values = require(record, key, list)
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"'{key}[{index}]' must be Python source, received {excerpt(value)}.")
    return [value.replace("\r\n", "\n").strip() for value in values]
