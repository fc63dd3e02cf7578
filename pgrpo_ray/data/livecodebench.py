"""LiveCodeBench records as problems, private tests included.

Private tests arrive as base64(zlib(pickle(JSON text))). What this protects against: a pickle is a program, so it is
never unpickled; its opcodes are walked without being executed, and anything but one plain string is refused. A
compressed text is expanded up to `MAX_TESTS_BYTES` and no further. It does not protect against wrong tests.

Kept from the benchmark's own evaluation: all public and private cases count; a functional input holds one JSON value
per line, each an argument; numbers in the output are equal when their values are ("0.50" and "0.5"). Not kept: the long
list of imports that the benchmark puts before every program; the statement asks for them instead.
"""

import base64
import binascii
import pickletools
import re
import zlib
from typing import Any

from pgrpo_ray.data.own_format import check_entry_point
from pgrpo_ray.data.records import did_you_mean, excerpt, loads, require, require_text
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import CallCase, Case, Problem, StdinCase, TestStyle

MAX_TESTS_BYTES = 1 << 30
"""Expanded private tests of one problem, bytes. Ours: real ones stay well below; a bomb of 1 MB expands to 1 GB."""

_STRING_OPCODES = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_HARMLESS_OPCODES = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"})
"""What any pickle protocol wraps around one string: version, frame, memo, end. None of them names or calls a thing."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_KEPT = ("question_title", "platform", "contest_id", "contest_date", "difficulty")
SOLUTION_CLASS = re.compile(r"^class[ \t]+Solution\b", re.MULTILINE)
"""In starter code: the entry point is a method of this class."""


def livecodebench_problem(record: dict[str, Any]) -> Problem:
    """Build a problem from one record of the code generation set. Raises `DataError`."""
    tests = [*_tests(record, "public_test_cases", _public), *_tests(record, "private_test_cases", _private)]
    if not tests:
        raise DataError("'public_test_cases' and 'private_test_cases' are both empty: every program would pass.")
    kinds = {test["testtype"] for _, test in tests}
    if len(kinds) > 1:
        raise DataError("the test cases mix testtype stdin and functional. Split the problem.")
    # A call without arguments has an empty input, so the style comes from `testtype`, never from the text.
    functional = kinds == {"functional"}
    starter = require(record, "starter_code", str) if record.get("starter_code") is not None else ""
    read_case = functional_case if functional else _stdin_case
    return Problem(
        id=require_text(record, "question_id"),
        prompt=prompt_of(require_text(record, "question_content"), starter, functional),
        style=TestStyle.CALL if functional else TestStyle.STDIN,
        cases=tuple(read_case(test, where) for where, test in tests),
        entry_point=_entry_point(record, starter) if functional else None,
        metadata={
            "benchmark": "livecodebench",
            "float_tolerance": 0.0,
            **{key: record[key] for key in _KEPT if key in record},
        },
    )


def read_pickled_string(data: bytes) -> str:
    """Return the one string that the pickle `data` holds, without executing it. Raises `DataError` for any other."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _STRING_OPCODES and isinstance(argument, str):
                strings.append(argument)
            elif opcode.name not in _HARMLESS_OPCODES:
                raise DataError(
                    f"'private_test_cases' holds a pickle with opcode {opcode.name}: more than a plain string, so it "
                    "could run code. It was not executed. Do not use this file; download it from its publisher."
                )
    except DataError:
        raise
    except (ValueError, OverflowError) as error:
        raise DataError(f"'private_test_cases' holds a damaged pickle ({error}). Download the file again.") from error
    if len(strings) != 1:
        raise DataError(f"'private_test_cases' holds a pickle of {len(strings)} strings, not one. Download it again.")
    if _SURROGATE.search(strings[0]):  # pickle lets them pass, and they break the first process that encodes them
        raise DataError(
            "'private_test_cases' holds half of a surrogate pair, which is no character. Download it again."
        )
    return strings[0]


def _private(text: str) -> str:
    """Return the JSON text inside `private_test_cases`: as it is, or unpacked."""
    if text.lstrip().startswith("["):  # not in base64's alphabet
        return text
    try:
        packed = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"'private_test_cases' is neither a JSON array nor base64 ({error}). Download the file again."
        raise DataError(message) from error
    expander = zlib.decompressobj()
    try:
        data = expander.decompress(packed, MAX_TESTS_BYTES)
    except zlib.error as error:
        message = f"'private_test_cases' is not zlib data inside its base64 ({error}). Download the file again."
        raise DataError(message) from error
    # Input is left over only when the bound stopped the expansion.
    if expander.unconsumed_tail:
        raise DataError(f"'private_test_cases' expands to more than {MAX_TESTS_BYTES} bytes. Remove the problem.")
    if not expander.eof:
        raise DataError("'private_test_cases' ends in the middle of its zlib data. Download the file again.")
    return read_pickled_string(data)


def _public(text: str) -> str:
    """Return the JSON text inside `public_test_cases`."""
    return text


def _tests(record: dict[str, Any], key: str, unpack: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return (where, test) for each case under `key`; an absent or empty list is allowed, an ill-formed one is not."""
    value = record.get(key)
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = loads(unpack(value))
        except DataError as error:
            message = error.args[0]
            raise DataError(message if message.startswith("'") else f"{key!r} {message}") from error
    if not isinstance(value, list):
        raise DataError(f"{key!r} must hold an array of test cases, received {excerpt(value)}.")
    tests = []
    for index, test in enumerate(value):
        where = f"{key}[{index}]"
        if not isinstance(test, dict):
            raise DataError(f"{where!r} must be an object with 'input' and 'output', received {excerpt(test)}.")
        for part in ("input", "output", "testtype"):
            require(test, part, str, where)
        if test["testtype"] not in ("stdin", "functional"):
            hint = did_you_mean(test["testtype"], ("stdin", "functional"))
            raise DataError(f"'{where}.testtype' is {test['testtype']!r}. {hint}")
        tests.append((where, test))
    return tests


def _stdin_case(test: dict[str, Any], where: str) -> Case:
    """Return a case of style `stdin`; the text is taken as it stands."""
    return StdinCase(input=test["input"], output=test["output"])


def functional_case(test: dict[str, Any], where: str) -> CallCase:
    """Return a case of style `call`: every line of the input is one JSON argument, the output one JSON value."""
    text = test["input"].strip()
    lines = text.split("\n") if text else []
    args = [_json_part(line, f"{where}.input (its line {number})") for number, line in enumerate(lines, start=1)]
    return CallCase(args=args, expected=_json_part(test["output"], f"{where}.output"))


def _json_part(text: str, where: str) -> Any:
    """Parse one JSON value of a functional case."""
    try:
        return loads(text)
    except DataError as error:
        raise DataError(f"'{where}' {error.args[0]}") from error


def _entry_point(record: dict[str, Any], starter: str) -> str:
    """Return `func_name` of the metadata, as a method when the starter code has `class Solution`."""
    metadata = record.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = loads(metadata)
        except DataError as error:
            raise DataError(f"'metadata' {error.args[0]}") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("func_name"), str):
        raise DataError("'metadata' has no 'func_name', which functional tests need. Add the function's name.")
    name = metadata["func_name"]
    return check_entry_point(f"Solution.{name}" if SOLUTION_CLASS.search(starter) else name, "metadata.func_name")


def prompt_of(content: str, starter: str, functional: bool) -> str:
    """Return the statement as the policy sees it, after the benchmark's own two wordings."""
    if functional:
        rule = "Complete this starter code. Write every import that you use."
        return f"{content.strip()}\n\n{rule}\n\n{starter.rstrip()}\n"
    return f"{content.strip()}\n\nRead the input from standard input and print the answer to standard output.\n"
