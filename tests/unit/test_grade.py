"""What counts as right. Expected values here are worked out by hand."""

import json

import pytest

from pgrpo_ray.sandbox.grade import Opaque, complete, decide, decode, differs, equal, make_request, printable
from pgrpo_ray.sandbox.harness import Encoder
from pgrpo_ray.types import AssertCase, CallCase, Problem, StdinCase, TestStyle, Verdict


def call_problem(*expected):
    return Problem("p", "", TestStyle.CALL, tuple(CallCase([1], value) for value in expected), entry_point="f")


def answer(*results):
    return {"id": "1", "cases": [{"wall_ms": 1.0, "detail": "", **result} for result in results], "dirty": False}


def ok(value):
    return {"status": "ok", "value": json.dumps(value)}


def round_trip(value):
    return decode(json.loads(json.dumps(Encoder(10_000).encode(value))))


def test_request_holds_no_expected_output():
    stdin = Problem("p", "", TestStyle.STDIN, (StdinCase("in", "SECRET"),))
    assert "SECRET" not in json.dumps(make_request(stdin, "pass", "1"))
    assert "SECRET" not in json.dumps(make_request(call_problem("SECRET"), "pass", "1"))


def test_only_an_indented_program_continues_the_prefix():
    assert complete("def f():", "\n    return 1") == "def f():\n\n    return 1"
    assert complete("def f():", "def f(): return 1") == "def f(): return 1"
    assert complete("", "  x") == "  x"


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1 2\n", "1\n2", True),
        ("1", "1 2", False),  # a prefix is not enough
        ("1 2 3", "1 2", False),
        ("yes", "YES", False),
        ("0.30000000000000004", "0.3", False),
        ("", "", True),
    ],
)
def test_output_is_compared_token_by_token(output, expected, same):
    assert (differs(output, expected) == "") is same


@pytest.mark.parametrize(
    ("token", "same"),
    [("0.3000000001", True), ("3e-1", True), ("nan", False), ("0_3", False), ("0.31", False)],
)
def test_tolerance_is_for_decimal_numbers_only(token, same):
    assert (differs(token, "0.3", 1e-6) == "") is same


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -5,
        1 << 200,
        1.5,
        float("inf"),
        "text \ud800",
        b"\x00\xff",
        (1, (2,)),
        [[]],
        {1: "a", (1, 2): None},
        2j,
    ],
)
def test_plain_data_survives_the_wire(value):
    decoded = round_trip(value)
    assert decoded == value
    assert type(decoded) is type(value)


def test_lying_subclasses_are_flattened():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__
        __int__ = __index__ = lambda self: 42

    assert type(round_trip(Liar(7))) is int
    assert round_trip(Liar(7)) == 7


def test_unknown_objects_equal_nothing():
    value = round_trip(object())
    assert isinstance(value, Opaque)
    assert value != value
    assert not equal(value, None)


def test_cycles_and_depth_end():
    cycle = []
    cycle.append(cycle)
    assert not equal(round_trip(cycle), [[]])


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        ((1, [2]), [1, [2]], True),
        (frozenset({1, 2}), [2, 1], True),
        (frozenset({1, 2}), [1, 2, 2], False),
        (frozenset({(1, 2)}), [[1, 2]], True),
        ({1: "a"}, {"1": "a"}, True),
        ({1: "a", "1": "b"}, {"1": "b"}, False),
        (0.1 + 0.2, 0.3, True),
        (0.31, 0.3, False),
        (float("nan"), 0.3, False),
        (3, 3.0, True),
        (10**400, 1.0, False),
        ([1], [1, 2], False),
        (1.0, "1.0", False),
        (None, 0, False),
    ],
)
def test_returned_values_equal_json(value, expected, same):
    assert equal(value, expected) is same


def test_first_failing_case_gives_the_verdict():
    results = answer(ok(1), {"status": "error", "detail": "ValueError: x"}, ok(5), {"status": "time_limit"})
    judgement = decide(call_problem(1, 2, 3, 4), results, "docker")
    assert judgement.verdict is Verdict.RUNTIME_ERROR
    assert (judgement.first_failed, judgement.tests_passed, judgement.tests_total) == (1, 1, 4)
    assert judgement.detail == "ValueError: x"
    assert judgement.duration_ms == 4.0


def test_passed_only_when_every_case_passed():
    judgement = decide(call_problem(1, 2), answer(ok(1), ok(2)), "process")
    assert judgement.passed
    assert (judgement.first_failed, judgement.sandbox) == (None, "process")


@pytest.mark.parametrize(
    "results", [(ok(1),), (ok(1), {"status": "nonsense"}), (ok(1), {"status": "ok", "value": "{"})]
)
def test_answers_that_do_not_fit_are_tampered(results):
    assert decide(call_problem(1, 2), answer(*results), "docker").verdict is Verdict.TAMPERED


def test_a_failed_assert_is_a_wrong_answer():
    problem = Problem("p", "", TestStyle.ASSERT, (AssertCase("assert f()"),))
    assert decide(problem, answer({"status": "failed"}), "docker").verdict is Verdict.WRONG_ANSWER
    assert decide(problem, answer({"status": "exit"}), "docker").verdict is Verdict.RUNTIME_ERROR


def test_detail_never_quotes_what_was_expected():
    problem = Problem("p", "", TestStyle.STDIN, (StdinCase("", "SECRET"),))
    assert "SECRET" not in decide(problem, answer({"status": "ok", "output": "x"}), "docker").detail


def test_details_are_short_printable_ascii():
    text = printable("\x1b[31m\u2028\n" + "x" * 1000)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 300
