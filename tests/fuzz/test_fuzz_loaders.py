"""Data files of every format: `DataError` with file and line, or problems that can be sent, written and run."""

import base64
import gzip
import inspect
import io
import json
import pickle
import sys
import zlib

import pyarrow as pa
import pytest
from fuzzing import as_file, damaged, edited, fuzz, nested
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from pgrpo_ray.data.livecodebench import read_pickled_string
from pgrpo_ray.data.loaders import FORMATS, load_problems, load_programs
from pgrpo_ray.data.own_format import problem_from_json, problem_to_json
from pgrpo_ray.errors import DataError

MATHS = {"problem": "1 + 1?", "solution": "It is $\\boxed{2}$.", "answer": "2"}
LCB_CASES = [{"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional"}]


def packed(data: bytes) -> str:
    """Private tests as LiveCodeBench publishes them."""
    return base64.b64encode(zlib.compress(data)).decode()


RECORDS = {
    "jsonl": [
        {
            "id": "double",
            "prompt": "Print twice the number.",
            "tests": {"style": "stdin", "checker": "lines", "language": "cpp", "cases": [{"input": "2",
            "any_of": ["4"]}]},
            "limits": {"cpu_s": 1, "wall_s": 2.5, "memory_mib": 128, "output_kib": 64},
            "metadata": {"float_tolerance": 1e-6},
        },
        {
            "id": "add",
            "prompt": "Write add(a, b).",
            "tests": {"style": "call", "entry_point": "add", "cases": [{"args": [1, [2]], "expected": {"a": 3}}]},
            "completion_prefix": "def add(a, b):",
        },
        {
            "id": "inc",
            "prompt": "Write inc(x).",
            "tests": {"style": "assert", "entry_point": "inc", "cases": ["assert inc(1) == 2"]},
            "setup": "import math",
        },
        {"id": "sum", "prompt": "1 + 1?", "tests": {"style": "answer", "checker": "maths", "cases": [{"answer": "2"}]}},
    ],
    "humaneval": [
        {
            "task_id": "HumanEval/0",
            "prompt": "def one():\n",
            "entry_point": "one",
            "test": "def check(candidate):\n    assert candidate() == 1\n",
        }
    ],
    "mbpp": [
        {
            "task_id": 7,
            "text": "Return one.",
            "code": "def one():\r\n  return 1",
            "test_setup_code": "x = 1\r\n",
            "test_list": ["assert one() == 1"],
            "test_imports": ["import math"],
        }
    ],
    "livecodebench": [
        {
            "question_id": "abc_a",
            "question_content": "Do it.",
            "question_title": "A",
            "contest_date": "2024-01-01T00:00:00",
            "starter_code": "class Solution:\n    def f(self, a, b):\n        ",
            "public_test_cases": json.dumps(LCB_CASES),
            "private_test_cases": private,
            "metadata": json.dumps({"func_name": "f"}),
        }
        for private in (
            "[]", json.dumps(LCB_CASES), packed(pickle.dumps(json.dumps(LCB_CASES))), packed(pickle.dumps("[]", 0))
        )
    ],
    "deepcoder": [
        {"problem": "p", "tests": json.dumps({"inputs": ["1"], "outputs": ["2"]}), "difficulty": 3},
        {"problem": "p", "tests": {"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [[3]]},
        "starter_code": "def f(a):"},
        {"problem": "p", "tests": [{"type": "function_call", "fn_name": "f", "input": [1], "output": {"a": 1}}]},
        {"problem": "p", "tests": [{"testtype": "functional", **LCB_CASES[0]}], "metadata": {"func_name": "f"}},
        {"problem": "p", "tests": json.dumps([{"input": "1", "output": ["2"]}])},
    ],
    "math500": [{**MATHS, "unique_id": "test/1.json", "subject": "Algebra", "level": 2}],
    "minerva": [{**MATHS, "idx": 5, "type": "a"}],
    "aime24": [{**MATHS, "id": 60, "url": "https://example.org"}],
    "gsm8k": [{"question": "1 + 1?", "answer": "It is two.\n#### 2"}],
}  # fmt: skip


def lines_of(records: list) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet_of(records: list) -> bytes:
    rows = [
        {key: value if isinstance(value, str | int) else json.dumps(value) for key, value in one.items()}
        for one in records
    ]
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


NAMES = list(FORMATS)
LINES = [lines_of(records) for records in RECORDS.values()]
SEEDS = [bytes([number]) + data for number, data in enumerate(LINES)]
"""First byte: the number of the format."""


def read(data: bytes) -> None:
    """Load `data` behind its first byte as the format of that number."""
    load(data[1:], NAMES[data[0] % len(NAMES)] if data else "jsonl")


def load(data: bytes, format: str) -> None:
    file = as_file(data, "problems")
    try:
        problems = load_problems(file, format)
    except DataError as error:
        assert error.file == str(file)
        assert 0 <= error.line <= data.count(b"\n") + 1 or data[:4] == b"PAR1"
        assert len(str(error)) < 1000 + 4 * len(data)
        return
    assert len({problem.id for problem in problems}) == len(problems)
    for problem in problems:
        text = json.dumps(problem_to_json(problem), ensure_ascii=False)
        again = json.loads(text.encode("utf-8"))  # half a character would break whoever sends it on
        if format == "jsonl":
            assert problem_from_json(again) == problem


DEEP = {
    "jsonl": {
        "id": "\U0001f600",  # written as a pair of surrogates, which has the value walked through once more
        "prompt": "p",
        "tests": {"style": "call", "entry_point": "f", "cases": [{"args": ["?"], "expected": "?"}]},
    },
    "deepcoder": {"problem": "p", "tests": {"fn_name": "f", "inputs": [["?"]], "outputs": ["?"]}},
    "livecodebench": RECORDS["livecodebench"][0] | {"public_test_cases": [LCB_CASES[0] | {"output": "?"}]},
}


@pytest.mark.parametrize("format", DEEP)
def test_depths_that_the_parser_just_takes(format):
    """What works through a value calls itself as well: it may not fail in another way where the parser did not."""
    room = sys.getrecursionlimit() - len(inspect.stack())
    for depth in [100, *range(room - 40, room)]:
        load(json.dumps(DEEP[format]).replace('"?"', nested(depth)).encode(), format)
        load(json.dumps(DEEP[format]).replace('"?"', f'"{nested(depth)}"').encode(), format)


@pytest.mark.parametrize("format", NAMES)
def test_edited_records(format):
    @fuzz(120)
    @given(edited(RECORDS[format]) | st.sampled_from(RECORDS[format]))
    def property(record):
        load(lines_of([record]), format)

    property()


def test_a_kind_of_test_that_is_no_word_is_refused():
    file = as_file(lines_of([{"problem": "p", "tests": [{"type": [], "input": "1", "output": "2"}]}]))
    with pytest.raises(DataError, match=r"'tests\[0\]' is of type \[\]"):
        load_problems(file, "deepcoder")


@fuzz(400)
@given(
    damaged(
        LINES, [b"\n", b"[", b"]", b"{}", b",", b"NaN", b"1e999", b"\\ud800", nested(900).encode(), b"\xef\xbb\xbf"]
    )
)
def test_damaged_lines(data):
    for format in NAMES:
        load(data, format)


CONTAINERS = [
    gzip.compress(LINES[0]),
    json.dumps(RECORDS["jsonl"], indent=1).encode(),
    *map(parquet_of, RECORDS.values()),
]


@fuzz(300)
@given(
    damaged(CONTAINERS, [b"PAR1", b"\x1f\x8b", b"\x00" * 9, b"\xff" * 9]) | st.binary(max_size=80),
    st.sampled_from(NAMES),
)
def test_damaged_containers(data, format):
    load(data, format)


PICKLES = [pickle.dumps(value, protocol) for value in ("[]", "é", 1, print, ["a"]) for protocol in range(6)]
PAYLOADS = [json.dumps(LCB_CASES).encode(), *PICKLES]


@fuzz(300)
@given(damaged(PAYLOADS, [b"cos\nsystem\n", b"(S'x'\ntR", b"V\\ud800\n", b"\x8c\x01a", b".", b"\x95" + b"\xff" * 8]))
@example(b"V\\ud800\n.")
def test_pickles_are_never_run(data):
    try:
        text = read_pickled_string(data)
    except DataError:
        return
    text.encode("utf-8")


@fuzz(300)
@given(
    damaged([zlib.compress(data) for data in PAYLOADS]).map(lambda data: base64.b64encode(data).decode())
    | damaged([packed(data).encode() for data in PAYLOADS]).map(lambda data: data.decode("latin-1"))
)
def test_private_tests(text):
    load(lines_of([RECORDS["livecodebench"][0] | {"private_test_cases": text}]), "livecodebench")


PROGRAMS = [{"problem_id": "a", "program": "x"}, {"problem_id": 11, "program": "", "more": [1]}]


@fuzz(200)
@given(edited(PROGRAMS).map(lambda record: lines_of([record])) | damaged([lines_of(PROGRAMS)]))
def test_programs(data):
    file = as_file(data, "programs")
    try:
        for submission in load_programs(file, {"a", "11"}):
            assert submission.problem_id in ("a", "11") and isinstance(submission.program, str)
    except DataError as error:
        assert error.file == str(file)
