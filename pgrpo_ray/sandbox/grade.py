"""From a problem to a harness request, and from the harness's answer to a verdict. Pure functions, no I/O.

Owns every rule about what counts as right. Expected outputs stay on this side: a request holds inputs only, and a
judgement's `detail` never quotes what was expected. (That they cannot be read from a file is the sandbox's part: the
process sandbox as an ordinary user cannot prevent it.) An answer comes from a place where an adversary ran, so nothing
in it is believed beyond what it says about itself: the number of cases must be the number asked, values are decoded
into plain Python objects and compared here.
"""

import json
import math
import re
import textwrap
from typing import Any

from pgrpo_ray.types import AssertCase, CallCase, Judgement, Problem, StdinCase, TestStyle, Verdict

_DETAIL_CHARS = 300
_TOLERANCE = 1e-6
"""Relative and absolute, for floats in returned values. Ours: LiveCodeBench compares exactly, which fails programs that
add in another order; 1e-6 is the usual tolerance of judges."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A decimal number and nothing else: `float()` would also take `1_0`, `nan` and full-width digits."""
_VERDICTS = {
    "failed": Verdict.WRONG_ANSWER,
    "error": Verdict.RUNTIME_ERROR,
    "exit": Verdict.RUNTIME_ERROR,
    "compile_error": Verdict.COMPILE_ERROR,
    "time_limit": Verdict.TIME_LIMIT,
    "memory_limit": Verdict.MEMORY_LIMIT,
    "output_limit": Verdict.OUTPUT_LIMIT,
}


class Opaque:
    """A value that is not plain data. Equals nothing, itself included."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return False


def make_request(problem: Problem, program: str, request_id: str, *, together: bool = False) -> dict[str, Any]:
    """Build the harness request for one program. It holds inputs only.

    `together`: all cases of style `call` in one process; see `settled`. A program whose first non-blank line is
    indented continues `problem.completion_prefix`.
    """
    limits = problem.limits
    return {
        "id": request_id,
        "style": problem.style.value,
        "program": complete(problem.completion_prefix, program),
        "entry_point": problem.entry_point,
        "setup": problem.setup,
        "limits": {
            "cpu_s": limits.cpu_s,
            "wall_s": limits.wall_s,
            "memory_mib": limits.memory_mib,
            "output_kib": limits.output_kib,
        },
        "cases": [_inputs(case) for case in problem.cases],
        "together": together,
    }


def _apart(result: dict[str, Any], total: int) -> list[dict[str, Any]]:
    """Split the one result of a `together` run into one a case.

    A program that does not even load fails its first case, and the others need not run. Any other failure of the whole,
    and a statement that has not the form of outcomes, stays too short to settle on.
    """
    if result["status"] in ("compile_error", "error") and "signal" not in result:
        return [result] + [{"status": "skipped"}] * (total - 1)
    if result["status"] != "ok":
        return [result]
    try:
        outcomes = [(str(status), str(text)) for status, text in json.loads(result["value"])]
    except (ValueError, TypeError, RecursionError):
        return []
    cases: list[dict[str, Any]] = [
        {"status": "ok", "value": text} if status == "value" else {"status": status, "detail": text}
        for status, text in outcomes
    ]
    if cases:
        cases[0]["wall_ms"] = result["wall_ms"]  # of all of them
    return cases


def may_run_together(problem: Problem) -> bool:
    """True where one process for all cases can save forks."""
    return problem.style is TestStyle.CALL and len(problem.cases) > 1


def settled(judgement: Judgement) -> bool:
    """True when a `together` run need not be repeated with a process for each case.

    All cases passed within the limits of one, or the first case failed, which met the program in its fresh state.
    A later failure may be owed to state that earlier cases left, and a limit to their sum: those are run again apart.
    What passes only because of state that it keeps between calls passes here; it still gave every right value.
    (`tests_passed` of a settled failure counts cases that ran after it in the same process.)
    """
    fresh = judgement.verdict in (Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR, Verdict.COMPILE_ERROR)
    return judgement.passed or (judgement.first_failed == 0 and fresh)


def _inputs(case: StdinCase | CallCase | AssertCase) -> dict[str, Any]:
    if isinstance(case, StdinCase):
        return {"stdin": case.input}
    return {"args": case.args} if isinstance(case, CallCase) else {"source": case.source}


def complete(prefix: str, program: str) -> str:
    """Prepend `prefix` to a program that starts indented, as a bare function body does; others stand alone."""
    first = next((line for line in program.splitlines() if line.strip()), "")
    return prefix.rstrip("\n") + "\n" + program if prefix and first[:1] in (" ", "\t") else program


def deadline_s(problem: Problem, slack_s: float) -> float:
    """Return the host's patience for one program, seconds: every case at its wall limit, plus `slack_s`."""
    return len(problem.cases) * (problem.limits.wall_s + 0.5) + slack_s


def decide(problem: Problem, answer: dict[str, Any], sandbox: str, *, together: bool = False) -> Judgement:
    """Turn the harness's answer into a judgement. The first case that does not pass gives the verdict.

    `together`: as the request was. `tests_passed` counts passed cases among those that ran: after a limit the harness
    skips the rest.
    """
    total, results = len(problem.cases), answer["cases"]
    if together:
        results = _apart(results[0], total)
    duration_ms = sum(result.get("wall_ms", 0.0) for result in results)
    if len(results) != total:
        detail = f"{len(results)} cases answered, {total} asked"
        return Judgement(Verdict.TAMPERED, 0, total, duration_ms, sandbox, detail=detail)
    judged = [_decide_case(problem, case, result) for case, result in zip(problem.cases, results, strict=True)]
    failed = next((index for index, (verdict, _) in enumerate(judged) if verdict is not Verdict.PASSED), None)
    verdict, detail = (Verdict.PASSED, "") if failed is None else judged[failed]
    return Judgement(
        verdict=verdict,
        tests_passed=sum(verdict is Verdict.PASSED for verdict, _ in judged),
        tests_total=total,
        duration_ms=round(duration_ms, 3),
        sandbox=sandbox,
        first_failed=failed,
        detail=printable(detail),
    )


def _decide_case(problem: Problem, case: Any, result: dict[str, Any]) -> tuple[Verdict, str]:
    status = result.get("status")
    if status != "ok":
        # An unknown status, or `skipped` with no failure before it, can only be a forgery.
        return _VERDICTS.get(status, Verdict.TAMPERED), result.get("detail", "")
    if problem.style is TestStyle.ASSERT:
        return Verdict.PASSED, ""
    if problem.style is TestStyle.STDIN:
        difference = differs(result["output"], case.output, problem.metadata.get("float_tolerance"))
        return (Verdict.WRONG_ANSWER, difference) if difference else (Verdict.PASSED, "")
    try:
        value = decode(json.loads(result["value"]))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return Verdict.TAMPERED, "the reported value is damaged"
    try:
        if equal(value, case.expected):
            return Verdict.PASSED, ""
    except (ValueError, RecursionError, OverflowError):  # such as a key of 5000 digits: whatever it is, it is not right
        return Verdict.WRONG_ANSWER, "returned value cannot be compared"
    return Verdict.WRONG_ANSWER, f"returned value of type {type(value).__name__} differs"


def differs(output: str, expected: str, tolerance: float | None = None) -> str:
    """Compare token by token (split at white space); return "" when equal, else where they part.

    `tolerance` is absolute and relative, for tokens that are both decimal numbers; None compares text alone.
    """
    got, want = output.split(), expected.split()
    for index, (left, right) in enumerate(zip(got, want, strict=False)):  # lengths are compared below
        if left != right and not _close(left, right, tolerance):
            return f"output differs at token {index + 1}"
    return f"output has {len(got)} tokens, not as many as expected" if len(got) != len(want) else ""


def _close(left: str, right: str, tolerance: float | None) -> bool:
    if tolerance is None or not (_NUMBER.fullmatch(left) and _NUMBER.fullmatch(right)):
        return False
    return math.isclose(float(left), float(right), rel_tol=tolerance, abs_tol=tolerance)


def decode(encoded: Any) -> Any:
    """Turn the harness's tagged JSON into plain Python objects. Raises `ValueError` and its like when damaged."""
    if isinstance(encoded, list):
        return [decode(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    ((tag, content),) = encoded.items()
    if tag == "t":
        return tuple(decode(item) for item in content)
    if tag == "s":
        return frozenset(decode(item) for item in content)
    if tag == "d":
        return {decode(key): decode(value) for key, value in content}
    if tag == "c":
        return complex(float(content[0]), float(content[1]))
    simple = {"i": lambda text: int(text, 16), "f": float, "b": bytes.fromhex, "?": lambda _: Opaque()}
    return simple[tag](content)


def equal(value: Any, expected: Any) -> bool:
    """Compare a returned value with an expected JSON value.

    Python's equality, widened where JSON is narrower than Python: a tuple equals a list; a set equals a list with the
    same members, each once, in any order; a key that is no string equals its JSON spelling. Floats are equal within
    1e-6, relative or absolute, except inside sets. NaN equals nothing.
    """
    if isinstance(value, (list, tuple)) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(equal, value, expected))
    if isinstance(value, frozenset) and isinstance(expected, list):
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


def _near(value: float, expected: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    except OverflowError:  # an integer beyond every float
        return value == expected


def _frozen(value: Any) -> Any:
    """Make lists and tuples one hashable kind, for comparison of sets."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, frozenset):
        return frozenset(map(_frozen, value))
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _json_key(key: Any) -> Any:
    """Spell a key as `json.dumps` would; keys that JSON lacks stay what they are and match none."""
    return json.dumps(key) if key is None or isinstance(key, (bool, int, float)) else key


def printable(text: str) -> str:
    """Escape to printable ASCII on one line and cut, so that a detail can go to logs and reports as it is."""
    escaped = text.encode("unicode_escape").decode("ascii")
    return textwrap.shorten(escaped, _DETAIL_CHARS, placeholder="...") if len(escaped) > _DETAIL_CHARS else escaped
