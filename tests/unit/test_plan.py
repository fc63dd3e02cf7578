"""From problems to plans and requests, without a sandbox. Golden by hand."""

import json
from dataclasses import replace

import pytest
from bare_problems import LIMITS, assert_problem, call_problem, stdin_problem

from pgrpo_ray.errors import DataError
from pgrpo_ray.sandbox.inside import PATIENCE
from pgrpo_ray.sandbox.inside.codec import decode
from pgrpo_ray.sandbox.languages import BUILD_LIMITS
from pgrpo_ray.sandbox.plan import CPU_GRACE, complete, deadline_s, make_request, plan_of
from pgrpo_ray.types import CallCase, Problem, StdinCase, TestStyle

# Requests


@pytest.mark.parametrize(
    "problem",
    [
        stdin_problem(StdinCase("in", "SECRET", ("SECRET too",))),
        stdin_problem(StdinCase("in", "SECRET"), checker="exact", metadata={"answer": "SECRET"}),
        stdin_problem(StdinCase("in", "SECRET"), language="cpp"),
        call_problem("SECRET", ["SECRET"]),
        Problem("p", "", TestStyle.CALL, (CallCase({"a": 1}, {"SECRET": 1}, ("SECRET",)),), entry_point="C.f"),
        assert_problem("assert f(1) == 'SECRET'"),
        assert_problem("assert 'SECRET' == f(1), 'SECRET'", "assert not f(2)"),
        assert_problem("METADATA = 'SECRET'\ndef check(candidate):\n    assert candidate(1) == ['SECRET']\ncheck(f)"),
    ],
)
def test_a_request_holds_inputs_only(problem):
    request = make_request(problem, "pass", "1")
    assert "SECRET" not in json.dumps(request)
    assert len(request["cases"]) == len(problem.cases)


def test_a_request_of_calls_names_the_function_and_its_arguments():
    cases = (CallCase([1, [2]], 0), CallCase({"b": 10**30}, 0))
    request = make_request(Problem("p", "", TestStyle.CALL, cases, entry_point="C.f", limits=LIMITS), "x = 1", "id-7")
    calls = [case["calls"] for case in request["cases"]]
    assert [[(one["name"], decode(one["args"]), decode(one["kwargs"])) for one in case] for case in calls] == [
        [("C.f", [1, [2]], {})],
        [("C.f", [], {"b": 10**30})],
    ]
    assert (request["id"], request["style"], request["program"]) == ("id-7", "call", "x = 1")
    assert request["toolchain"] is None


def test_limits_travel_and_stretch():
    limits = make_request(stdin_problem(), "", "1")["limits"]
    own = {"cpu_s": 2.0, "wall_s": 7.0, "memory_mib": 99, "output_kib": 33}
    assert limits == {**own, "cpu_grace": CPU_GRACE, "patience": PATIENCE}
    stretched = make_request(stdin_problem(), "", "1", cpu_factor=1.25)["limits"]
    assert stretched == {**limits, "cpu_s": 2.5}


def test_only_the_cases_that_are_asked_for_travel():
    problem = stdin_problem(StdinCase("a", "1"), StdinCase("b", "2"), StdinCase("c", "3"))
    assert make_request(problem, "", "1", [2, 0])["cases"] == [{"stdin": "c"}, {"stdin": "a"}]
    assert make_request(problem, "", "1", [])["cases"] == []
    assert [make_request(problem, "", "1", stop_early=stop)["stop_early"] for stop in (True, False)] == [True, False]


def test_a_compiled_language_brings_its_toolchain_and_more_patience():
    toolchain = make_request(stdin_problem(language="cpp"), "int main(){}", "1")["toolchain"]
    assert (toolchain["source"], toolchain["artifact"], toolchain["build"][0]) == ("main.cpp", "main", "g++")
    assert deadline_s(stdin_problem(), 2, 1.0) == 2 * (5 * 7.0 + 0.5) + 1.0
    assert deadline_s(stdin_problem(language="cpp"), 2, 1.0) == 2 * (5 * 7.0 + 0.5) + BUILD_LIMITS["wall_s"] + 1.0


@pytest.mark.parametrize(
    ("prefix", "program", "whole"),
    [
        ("def f():", "\n    return 1", "def f():\n\n    return 1"),
        ("def f():\n", "\treturn 1", "def f():\n\treturn 1"),
        ("def f():", "def f(): return 1", "def f(): return 1"),
        ("def f():", "x\n  y", "x\n  y"),
        ("def f():", "", ""),
        ("", "  x", "  x"),
    ],
)
def test_only_an_indented_program_continues_the_prefix(prefix, program, whole):
    assert complete(prefix, program) == whole
    assert make_request(stdin_problem(completion_prefix=prefix), program, "1")["program"] == whole


# Plans


def test_asserts_become_calls_only_all_together():
    plain, free = "assert f(1) == 2\nassert f(2) == 3", "for i in (1, 2): assert f(i) == i + 1"
    plan = plan_of(assert_problem(plain))
    assert plan.style is TestStyle.CALL
    assert [decode(call["args"]) for call in plan.cases[0]["calls"]] == [[1], [2]]
    mixed = plan_of(assert_problem(plain, free))
    assert mixed.style is TestStyle.ASSERT
    assert mixed.cases == ({"source": plain}, {"source": free})
    assert plan_of(assert_problem(plain, setup="import math")).style is TestStyle.ASSERT


def test_converted_asserts_compare_exactly_and_every_call():
    check = plan_of(assert_problem("assert f(1) == 0.3\nassert f(2) is True\nassert f(3) == [1]")).check
    assert check(0, [0.3, True, [1]]) == ""
    for values in ([0.1 + 0.2, True, [1]], [0.3, 1, [1]], [0.3, True, (1,)]):
        assert check(0, values)
    assert "assert 2" in check(0, [0.3, 1, [2]])


@pytest.mark.parametrize("problem", [stdin_problem(language="cobol"), stdin_problem(checker="token")])
def test_what_is_unknown_is_an_error_of_the_problem(problem):
    with pytest.raises(DataError):
        plan_of(problem)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"id": "q", "prompt": "other words", "metadata": {"source": "book"}}, True),
        ({"cases": (StdinCase("in", "other"),)}, False),
        ({"cases": (StdinCase("other", "right"),)}, False),
        ({"cases": (StdinCase("in", "right", ("or this",)),)}, False),
        ({"limits": replace(LIMITS, cpu_s=2.5)}, False),
        ({"limits": replace(LIMITS, memory_mib=98)}, False),
        ({"checker": "exact"}, False),
        ({"language": "cpp"}, False),
        ({"metadata": {"float_tolerance": 0.1}}, False),
        ({"completion_prefix": "import os"}, False),
        ({"setup": "x = 1"}, False),
    ],
)
def test_the_digest_covers_all_that_a_verdict_depends_on(change, same):
    digest = plan_of(stdin_problem()).digest
    assert (plan_of(replace(stdin_problem(), **change)).digest == digest) is same


def test_the_digest_tells_json_values_apart():
    values = (1, 1.0, True, "1", [1], [[1]], {"1": 1})
    assert len({plan_of(call_problem(value)).digest for value in values}) == len(values)


def test_arguments_that_cannot_travel_are_an_error_of_the_problem():
    """Else every program meets an `Opaque` in their place, and fails."""
    deep = []
    for _ in range(250):
        deep = [deep]
    problem = Problem("p", "", TestStyle.CALL, (CallCase([deep], 1),), entry_point="f")
    with pytest.raises(DataError):
        make_request(problem, "", "1")
