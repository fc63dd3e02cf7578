"""Checkers: who says whether an output is right. Pure functions, on the host's side of the sandbox.

Owns every rule about what counts as right. A checker is a plain function of the problem, one case and the output: the
text of standard output (style `stdin`) or the returned value as plain data (style `call`). It returns "" when the
output is right, else a short reason that never quotes what was expected. A checker meets one accepted output at a time;
`find` makes any checker accept several. Outputs are an adversary's: none may make a built-in checker raise.
"""

import copy
import importlib
import json
import math
import re
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from pgrpo_ray.data.own_format import check_checker
from pgrpo_ray.data.records import did_you_mean, excerpt
from pgrpo_ray.errors import CheckerError, DataError
from pgrpo_ray.types import CallCase, Problem, StdinCase, TestStyle

Checker = Callable[[Problem, Any, Any], str]
"""`checker(problem, case, output)`, with a case and an output of the problem's style."""

_TOLERANCE = 1e-6
"""Relative and absolute, for floats in returned values. Ours: LiveCodeBench compares exactly, which fails programs that
add in another order; 1e-6 is the usual tolerance of judges."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A decimal number and nothing else: `float()` would also take `1_0`, `nan` and full-width digits. Linear in the text:
`\\d+\\.?\\d*` would try every split of a long run of digits."""


def find(problem: Problem) -> Checker:
    """Return the checker of a problem of style `stdin` or `call`; it accepts any of a case's outputs.

    Raises `DataError` when the name is unknown or cannot be imported. The checker that is returned raises
    `CheckerError` when the one behind it is defective: that is never the program's fault.
    """
    if problem.style is TestStyle.ANSWER:
        raise DataError(
            f"problem {problem.id!r} has style answer: its answers are compared and never run, so it has no place in "
            "the sandbox. Have evaluation.maths judge it; actors.judges sends each problem where it belongs."
        )
    name = problem.checker or _DEFAULTS.get(problem.style, "")
    try:
        check_checker(name, problem.style)
        checker = _BUILT_IN.get(name) or _imported(name)
    except DataError as error:
        raise DataError(f"problem {problem.id!r}: {error.args[0]}") from error
    return partial(_check, name, checker)


def prove(problem: Problem) -> None:
    """Raise `DataError` unless each expected output satisfies the problem's checker.

    Finds a checker that is broken, or made for other outputs, before anything is sampled.
    """
    if problem.style is TestStyle.ASSERT:
        return
    checker = find(problem)
    for index, case in enumerate(cast("tuple[StdinCase | CallCase, ...]", problem.cases)):
        for one in _alternatives(case):
            try:
                # A copy: a checker that sorts its output in place would sort what is expected.
                reason = checker(problem, one, copy.deepcopy(_expected(one)))
            except (CheckerError, RecursionError) as error:
                reason = str(error)
            if reason:
                raise DataError(
                    f"problem {problem.id!r}, case {index}: its own expected output is not right to the checker "
                    f"({reason}). Correct the case or the checker."
                )


def tokens(problem: Problem, case: StdinCase, output: str) -> str:
    """Compare token by token; `metadata["float_tolerance"]` is for tokens that are both decimal numbers."""
    return differs(output, case.output, problem.metadata.get("float_tolerance"))


def lines(problem: Problem, case: StdinCase, output: str) -> str:
    """Compare line by line. White space that ends a line and blank lines that end the output are free."""
    got, want = _rows(output), _rows(case.output)
    for index, (left, right) in enumerate(zip(got, want, strict=False)):  # lengths are compared below
        if left != right:
            return f"output differs at line {index + 1}"
    return f"output has {len(got)} lines, not as many as expected" if len(got) != len(want) else ""


def exact(problem: Problem, case: StdinCase, output: str) -> str:
    """Compare byte for byte. (Bytes that are no UTF-8 come out of the sandbox as U+FFFD.)"""
    return "" if output == case.output else "output is not byte for byte the expected one"


def unordered_lines(problem: Problem, case: StdinCase, output: str) -> str:
    """Compare lines in whatever order, each as often as expected. Spacing and blank lines are free."""
    same = Counter(_token_rows(output)) == Counter(_token_rows(case.output))
    return "" if same else "output has not the expected lines, in whatever order"


def values(problem: Problem, case: CallCase, output: Any) -> str:
    """Compare a returned value with JSON; see `equal`."""
    try:
        same = equal(output, case.expected)
    except (
        ValueError,
        RecursionError,
        ArithmeticError,
    ):  # such as a key of 5000 digits: whatever it is, it is not right
        return "returned value cannot be compared"
    return "" if same else f"returned value of type {type(output).__name__} differs"


def identical(problem: Problem, case: CallCase, output: Any) -> str:
    """Compare a returned value by Python's own `==`, as an assert does: floats exactly, and no tuple equals a list.

    NaN equals nothing, where Python's containers take one and the same NaN for equal.
    """
    try:
        same = output == case.expected and not _holds_nan(case.expected)
    except (RecursionError, ArithmeticError):
        return "returned value cannot be compared"
    return "" if same else f"returned value of type {type(output).__name__} differs"


_BUILT_IN: dict[str, Checker] = {
    checker.__name__: checker for checker in (tokens, lines, exact, unordered_lines, values, identical)
}
_DEFAULTS = {TestStyle.STDIN: "tokens", TestStyle.CALL: "values"}


def differs(output: str, expected: str, tolerance: float | None = None) -> str:
    """Compare token by token (split at white space); return "" when equal, else where they part.

    `tolerance` is absolute and relative, for tokens that are both decimal numbers; 0 compares their exact values, None
    compares text alone.
    """
    got, want = output.split(), expected.split()
    for index, (left, right) in enumerate(zip(got, want, strict=False)):  # lengths are compared below
        if left != right and not _close(left, right, tolerance):
            return f"output differs at token {index + 1}"
    return f"output has {len(got)} tokens, not as many as expected" if len(got) != len(want) else ""


def equal(value: Any, expected: Any) -> bool:
    """Compare a returned value with an expected JSON value.

    Python's equality, widened where JSON is narrower than Python: a tuple equals a list; a set equals a list with the
    same members, each once, in any order; a key that is no string equals its JSON spelling. Floats are equal within
    1e-6, relative or absolute, except inside sets. NaN equals nothing.
    """
    if isinstance(value, (list, tuple)) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(equal, value, expected))
    if isinstance(value, (set, frozenset)) and isinstance(expected, list):
        return len(value) == len(expected) and _frozen(value) == frozenset(map(_frozen, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        spelled = {_json_key(key): item for key, item in value.items()}
        return (
            len(spelled) == len(value) == len(expected)
            and spelled.keys() == expected.keys()
            and all(equal(spelled[key], expected[key]) for key in expected)
        )
    if isinstance(value, float) or (isinstance(expected, float) and isinstance(value, int)):
        return isinstance(expected, (int, float)) and _near(value, expected)
    return bool(value == expected)


def _check(name: str, checker: Checker, problem: Problem, case: StdinCase | CallCase, output: Any) -> str:
    """Return "" when `checker` finds `output` right by any accepted output of the case, else its first reason."""
    reasons = []
    for one in _alternatives(case):
        try:
            reason = checker(problem, one, output)
        except (Exception, SystemExit) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise CheckerError(
                f"checker {name!r} raised {excerpt(error)} at {Path(frame.filename).name}:{frame.lineno}. "
                "It must return a reason for every output that a program may print or return.",
                checker=name,
            ) from error
        if not isinstance(reason, str):
            message = f"checker {name!r} returned {excerpt(reason)}. Return '' when right, else a short reason."
            raise CheckerError(message, checker=name)
        if not reason:
            return ""
        reasons.append(reason)
    return reasons[0]


def _alternatives(case: StdinCase | CallCase) -> list[StdinCase | CallCase]:
    """Return a case for each accepted output."""
    if not case.also:
        return [case]
    key = "output" if isinstance(case, StdinCase) else "expected"
    return [replace(case, **{key: accepted}, also=()) for accepted in (_expected(case), *case.also)]


def _expected(case: StdinCase | CallCase) -> Any:
    return case.output if isinstance(case, StdinCase) else case.expected


def _imported(name: str) -> Checker:
    """Import `module:function` from the host's Python path. Raises `DataError`."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise DataError(
            f"'tests.checker' is {name!r}, and module {module_name!r} cannot be imported "
            f"({type(error).__name__}: {error}). Put its folder on PYTHONPATH, on every node."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        hint = did_you_mean(function_name, [key for key, value in vars(module).items() if callable(value)])
        raise DataError(f"'tests.checker' is {name!r}, and {module_name!r} has no function {function_name!r}. {hint}")
    return function


def _rows(text: str) -> list[str]:
    # Not splitlines(), which would also cut at form feeds and U+2028.
    return [row.rstrip() for row in text.rstrip().split("\n")]


def _token_rows(text: str) -> list[str]:
    return [" ".join(found) for row in text.split("\n") if (found := row.split())]


def _close(left: str, right: str, tolerance: float | None) -> bool:
    if tolerance is None or not (_NUMBER.fullmatch(left) and _NUMBER.fullmatch(right)):
        return False
    a, b = float(left), float(right)
    if tolerance and math.isfinite(a) and math.isfinite(b):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    try:
        # Exactly: floats take different integers above 2**53 for the same, and all above 2e308.
        return Decimal(left) == Decimal(right)
    except ArithmeticError:  # an exponent beyond every decimal
        return False


def _near(value: float, expected: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    except OverflowError:  # an integer beyond every float
        return value == expected


def _frozen(value: Any) -> Any:
    """Make lists and tuples one hashable kind, for comparison of sets."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, (set, frozenset)):
        return frozenset(map(_frozen, value))
    return object() if isinstance(value, dict) else value  # equals nothing, as no set can hold a dict


def _json_key(key: Any) -> Any:
    """Spell a key as `json.dumps` would; keys that JSON lacks stay what they are and match none."""
    return json.dumps(key) if key is None or isinstance(key, (bool, int, float)) else key


def _holds_nan(value: Any) -> bool:
    """True where `value`, or anything inside, does not equal itself."""
    if isinstance(value, dict):
        return any(map(_holds_nan, chain(value.keys(), value.values())))
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(_holds_nan, value))
    return value != value
