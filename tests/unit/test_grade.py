"""From answers to judgements, without a sandbox: `ask` is scripted. Golden by hand."""

import json

import pytest
from bare_problems import assert_problem, call_problem, stdin_problem

from pgrpo_ray.errors import CheckerError
from pgrpo_ray.sandbox.grade import FIRST_WAVE, WAVE_CHARS, decide, judge, printable, waves
from pgrpo_ray.sandbox.plan import plan_of
from pgrpo_ray.types import CallCase, Problem, StdinCase, TestStyle, Verdict


def result(status="ok", fresh=True, **fields):
    return {"status": status, "fresh": fresh, "wall_ms": 10.0, "cpu_ms": 5.0, "peak_kib": 2048, "detail": "", **fields}


def returned(*values, **fields):
    """Result of a case whose calls returned plain JSON values."""
    return result(value=json.dumps(values), **fields)


SKIPPED = result("skipped", fresh=False, wall_ms=0.0, cpu_ms=0.0, peak_kib=0)


class Script:
    """A sandbox that says of each case what is written down for it, first to last, and notes what it was asked."""

    def __init__(self, *by_case):
        self.left = [list(one) if isinstance(one, list) else [one] for one in by_case]
        self.asked = []

    def __call__(self, cases, alone):
        self.asked.append((list(cases), alone))
        return [dict(self.left[case].pop(0)) for case in cases]


def judged(problem, *by_case, fail_fast=True):
    """Return the judgement, and what was asked for it."""
    script = Script(*by_case)
    return judge(problem, script, "docker", fail_fast=fail_fast), script.asked


# Waves


def test_without_haste_all_cases_are_one_wave():
    plan = plan_of(call_problem(*range(100)))
    assert list(waves(plan, False)) == [list(range(100))]


def test_waves_double_where_the_first_failure_ends_it():
    found = list(waves(plan_of(call_problem(*range(120))), True))
    assert [len(wave) for wave in found] == [FIRST_WAVE, 2 * FIRST_WAVE, 4 * FIRST_WAVE, 120 - 7 * FIRST_WAVE]
    assert [index for wave in found for index in wave] == list(range(120))
    assert list(waves(plan_of(call_problem(*range(FIRST_WAVE))), True)) == [list(range(FIRST_WAVE))]


@pytest.mark.parametrize("fail_fast", [True, False])
def test_no_wave_holds_more_input_than_one_request_may(fail_fast):
    half, big = "x" * (WAVE_CHARS // 2), "x" * (WAVE_CHARS + 1)
    problem = stdin_problem(*(StdinCase(text, "") for text in (half, half, "y", big, "z")))
    assert list(waves(plan_of(problem), fail_fast)) == [[0, 1], [2], [3], [4]]


# One result


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("failed", Verdict.WRONG_ANSWER),
        ("error", Verdict.RUNTIME_ERROR),
        ("exit", Verdict.RUNTIME_ERROR),
        ("compile_error", Verdict.COMPILE_ERROR),
        ("time_limit", Verdict.TIME_LIMIT),
        ("memory_limit", Verdict.MEMORY_LIMIT),
        ("output_limit", Verdict.OUTPUT_LIMIT),
        ("skipped", Verdict.TAMPERED),
        ("gone", Verdict.TAMPERED),
        ("passed", Verdict.TAMPERED),
        ("OK", Verdict.TAMPERED),
        (None, Verdict.TAMPERED),
    ],
)
@pytest.mark.parametrize("problem", [stdin_problem(), call_problem("right"), assert_problem("for _ in '': f()")])
def test_what_each_status_means(problem, status, verdict):
    outcome = decide(problem, 0, result(status, detail="why", output="right", value='["right"]'))
    assert (outcome.verdict, outcome.detail, outcome.in_doubt) == (verdict, "why", False)


def test_a_result_without_a_status_is_tampered():
    assert decide(stdin_problem(), 0, {}).verdict is Verdict.TAMPERED


def test_ok_means_passed_only_where_the_checker_agrees():
    assert decide(stdin_problem(), 0, result(output="right\n")).verdict is Verdict.PASSED
    assert decide(stdin_problem(), 0, result(output="wrong")).verdict is Verdict.WRONG_ANSWER
    assert decide(call_problem(1, 2), 1, returned(2)).verdict is Verdict.PASSED
    assert decide(call_problem(1, 2), 1, returned(1)).verdict is Verdict.WRONG_ANSWER
    assert decide(assert_problem("assert f(1) == 2"), 0, returned(2)).verdict is Verdict.PASSED
    assert decide(assert_problem("assert f(1) == 2"), 0, returned(3)).verdict is Verdict.WRONG_ANSWER
    assert decide(assert_problem("for _ in '': f()"), 0, result()).verdict is Verdict.PASSED


def test_a_case_meets_its_own_comparison():
    problem = assert_problem("assert f(1) == 2", "assert f(1) == 2\nassert f(2) == 3")
    assert decide(problem, 0, returned(2)).verdict is Verdict.PASSED
    assert decide(problem, 1, returned(2, 3)).verdict is Verdict.PASSED
    assert decide(problem, 1, returned(2)).verdict is Verdict.TAMPERED


def test_a_method_and_its_keywords_are_judged_by_one_value():
    problem = Problem("p", "", TestStyle.CALL, (CallCase({"a": 1}, [5], (6,)),), entry_point="C.f")
    got = [decide(problem, 0, returned(value)).verdict for value in ([5], 6, 7)]
    assert got == [Verdict.PASSED, Verdict.PASSED, Verdict.WRONG_ANSWER]


@pytest.mark.parametrize(
    ("stray", "output", "verdict"),
    [
        (True, "right", Verdict.TAMPERED),
        (True, "wrong", Verdict.WRONG_ANSWER),
        (False, "right", Verdict.PASSED),
        (False, "wrong", Verdict.WRONG_ANSWER),
    ],
)
def test_stray_writes_spoil_only_what_would_pass(stray, output, verdict):
    assert decide(stdin_problem(), 0, result(output=output, stray=stray)).verdict is verdict


@pytest.mark.parametrize(
    "value",
    [
        "", "{", "1", "[]", "null", "[1,1]", '{"d":[]}', '"1"', '{"t":[1]}', '[{"t":[1],"s":[]}]', "[{}]",
        '[{"nonsense":1}]', '[{"h":0}]', '[{"D":"x"}]', '[{"F":[1,0]}]', '[{"r":[0,1,0]}]', '[{"s":[[]]}]',
        '[{"d":[[1]]}]', '[{"b":"zz"}]', '[{"i":"zz"}]', '[{"c":["1"]}]', '[{"F":[1e999,1]}]', "[" * 100_000,
        "[" + "9" * 5000 + "]", '[{"t":' * 3000, None, 5,
    ],
)  # fmt: skip
@pytest.mark.parametrize("problem", [call_problem(1), assert_problem("assert f(1) == 1")])
def test_damaged_values_are_tampered(problem, value):
    outcome = decide(problem, 0, result(value=value))
    assert outcome.verdict is Verdict.TAMPERED
    assert not outcome.in_doubt


def test_a_missing_value_is_tampered():
    assert decide(call_problem(1), 0, result()).verdict is Verdict.TAMPERED


@pytest.mark.parametrize("value", ['{"?":"object"}', '{"D":"sNaN"}', '{"D":"NaN"}', '{"f":"nan"}', '{"d":[[1,2]]}'])
@pytest.mark.parametrize(
    "problem",
    [
        call_problem(1),
        call_problem([1]),
        call_problem({"a": 1}),
        call_problem(1.5),
        call_problem(1, checker="identical"),
        assert_problem("assert f(1) == 1"),
    ],
)
def test_odd_values_are_wrong_and_break_no_checker(problem, value):
    assert decide(problem, 0, result(value=f"[{value}]")).verdict is Verdict.WRONG_ANSWER


@pytest.mark.parametrize(
    ("cpu_ms", "fields", "verdict"),
    [
        (2000.0, {}, Verdict.PASSED),
        (2040.0, {}, Verdict.PASSED),
        (2040.1, {}, Verdict.TIME_LIMIT),
        (2500.0, {"cpu_limit_ms": 3000.0}, Verdict.PASSED),
        (1500.0, {"cpu_limit_ms": 1000.0}, Verdict.TIME_LIMIT),
    ],
)
def test_an_answer_that_took_too_long_is_in_doubt(cpu_ms, fields, verdict):
    outcome = decide(stdin_problem(), 0, result(output="right", cpu_ms=cpu_ms, **fields))
    assert outcome.verdict is verdict
    assert outcome.in_doubt is (verdict is Verdict.TIME_LIMIT)


@pytest.mark.parametrize("in_doubt", [True, False])
def test_the_warden_says_whether_a_time_limit_is_in_doubt(in_doubt):
    assert decide(stdin_problem(), 0, result("time_limit", in_doubt=in_doubt)).in_doubt is in_doubt


def test_a_defective_checker_is_no_verdict():
    problem = stdin_problem(checker="json:loads")  # a function, but not of three arguments
    with pytest.raises(CheckerError):
        decide(problem, 0, result(output="right"))


# Whole judgements


def test_every_case_passed():
    judgement, asked = judged(
        call_problem(1, 2, 3),
        returned(1, wall_ms=1.5, cpu_ms=1.0, peak_kib=1024),
        returned(2, fresh=False, wall_ms=2.25, cpu_ms=0.5, peak_kib=4096),
        returned(3, fresh=False, wall_ms=4.0, cpu_ms=0.25, peak_kib=2048),
    )
    assert judgement.passed
    assert (judgement.tests_passed, judgement.tests_total, judgement.first_failed) == (3, 3, None)
    assert (judgement.duration_ms, judgement.cpu_ms, judgement.peak_mib) == (7.75, 1.75, 4.0)
    assert (judgement.sandbox, judgement.detail, judgement.error) == ("docker", "", None)
    assert asked == [([0, 1, 2], False)]


def test_the_first_case_that_fails_gives_the_verdict():
    cases = (returned(1), result("error", detail="ValueError: x"), returned(5), result("time_limit"))
    judgement, _ = judged(call_problem(1, 2, 5, 4), *cases, fail_fast=False)
    assert (judgement.verdict, judgement.first_failed, judgement.detail) == (Verdict.RUNTIME_ERROR, 1, "ValueError: x")
    assert (judgement.tests_passed, judgement.tests_total) == (2, 4)
    judgement, _ = judged(call_problem(1, 2, 5, 4), *cases, fail_fast=True)
    assert (judgement.verdict, judgement.first_failed, judgement.tests_passed) == (Verdict.RUNTIME_ERROR, 1, 1)


def test_haste_ends_after_the_wave_that_failed():
    problem = call_problem(*range(20))
    good = [returned(index) for index in range(20)]
    judgement, asked = judged(problem, *good[:3], returned("wrong"), *good[4:], fail_fast=True)
    assert asked == [(list(range(16)), False)]
    assert (judgement.tests_passed, judgement.first_failed, judgement.tests_total) == (3, 3, 20)
    judgement, asked = judged(problem, *good[:3], returned("wrong"), *good[4:], fail_fast=False)
    assert asked == [(list(range(20)), False)]
    assert (judgement.tests_passed, judgement.first_failed) == (19, 3)
    judgement, asked = judged(problem, *good[:17], returned("wrong"), *good[18:], fail_fast=True)
    assert asked == [(list(range(16)), False), ([16, 17, 18, 19], False)]
    assert (judgement.tests_passed, judgement.first_failed) == (17, 17)


def test_a_fresh_failure_is_believed():
    judgement, asked = judged(call_problem(1, 2), returned("wrong"), returned(2, fresh=False))
    assert (judgement.verdict, asked) == (Verdict.WRONG_ANSWER, [([0, 1], False)])


@pytest.mark.parametrize("first", [returned("wrong", fresh=False), result("error", fresh=False)])
@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        (returned(2), Verdict.PASSED),
        (returned("wrong"), Verdict.WRONG_ANSWER),
        (result("exit"), Verdict.RUNTIME_ERROR),
        (returned("wrong", fresh=False), Verdict.WRONG_ANSWER),  # asked once more, not for ever
    ],
)
def test_a_failure_behind_other_cases_is_asked_again_once(first, second, verdict):
    judgement, asked = judged(call_problem(1, 2, 3), returned(1), [first, second], returned(3, fresh=False))
    assert judgement.verdict is verdict
    assert asked == [([0, 1, 2], False), ([1], False)]
    assert judgement.first_failed == (None if verdict is Verdict.PASSED else 1)
    assert judgement.duration_ms == 40.0  # the case that was asked again counts twice
    assert judgement.cpu_ms == 20.0


@pytest.mark.parametrize(
    "first", [result("time_limit", in_doubt=True), returned(2, cpu_ms=2500.0), returned("wrong", cpu_ms=2500.0)]
)
@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        (returned(2), Verdict.PASSED),
        (returned(2, cpu_ms=2500.0, cpu_limit_ms=4000.0), Verdict.PASSED),
        (returned("wrong"), Verdict.WRONG_ANSWER),
        (returned(2, cpu_ms=2500.0), Verdict.TIME_LIMIT),
        (result("time_limit", in_doubt=True), Verdict.TIME_LIMIT),
    ],
)
def test_a_time_limit_in_doubt_is_asked_again_once_alone(first, second, verdict):
    judgement, asked = judged(call_problem(1, 2), returned(1), [first, second])
    assert judgement.verdict is verdict
    assert asked == [([0, 1], False), ([1], True)]


def test_a_time_limit_beyond_doubt_is_believed():
    judgement, asked = judged(call_problem(1), result("time_limit", in_doubt=False))
    assert (judgement.verdict, asked) == (Verdict.TIME_LIMIT, [([0], False)])


def test_a_doubtful_time_limit_behind_others_is_first_asked_in_a_process_of_its_own():
    slow = returned(2, fresh=False, cpu_ms=2500.0)
    judgement, asked = judged(call_problem(1, 2), returned(1), [slow, returned(2)])
    assert (judgement.passed, asked) == (True, [([0, 1], False), ([1], False)])
    slow_alike = [slow, returned(2, cpu_ms=2500.0), returned(2)]
    judgement, asked = judged(call_problem(1, 2), returned(1), slow_alike)
    assert (judgement.passed, asked) == (True, [([0, 1], False), ([1], False), ([1], True)])


@pytest.mark.parametrize("fail_fast", [True, False])
def test_what_was_skipped_behind_a_limit_counts_as_not_passed(fail_fast):
    cases = (returned(1), result("memory_limit"), SKIPPED, SKIPPED)
    judgement, asked = judged(call_problem(1, 2, 3, 4), *cases, fail_fast=fail_fast)
    assert (judgement.verdict, judgement.first_failed) == (Verdict.MEMORY_LIMIT, 1)
    assert (judgement.tests_passed, judgement.tests_total) == (1, 4)
    assert asked == [([0, 1, 2, 3], False)]


def test_after_a_limit_no_further_wave_is_asked_for():
    half = "x" * (WAVE_CHARS // 2)
    problem = stdin_problem(*(StdinCase(half, "right") for _ in range(4)))
    judgement, asked = judged(problem, result("time_limit"), SKIPPED, SKIPPED, SKIPPED, fail_fast=False)
    assert (judgement.verdict, asked) == (Verdict.TIME_LIMIT, [([0, 1], False)])


def test_skipped_without_a_failure_before_it_passes_nothing():
    judgement, _ = judged(call_problem(1, 2), returned(1), SKIPPED)
    assert (judgement.verdict, judgement.first_failed) == (Verdict.TAMPERED, 1)


@pytest.mark.parametrize("fail_fast", [True, False])
@pytest.mark.parametrize(
    ("failure", "alone"),
    [
        (result("time_limit", in_doubt=True), True),
        (result("time_limit", in_doubt=True, fresh=False), False),
        (result("output_limit", fresh=False), False),  # the warden's bound on all cases together
        (result("error", fresh=False), False),
    ],
)
def test_what_was_skipped_behind_a_failure_that_is_taken_back_is_judged(failure, alone, fail_fast):
    """The second answer clears case 1, so case 2 was skipped for nothing: it is asked for, and never tampered."""
    cases = (returned(1), [failure, returned(2)], [SKIPPED, returned(3)], [SKIPPED, returned(4)])
    judgement, asked = judged(call_problem(1, 2, 3, 4), *cases, fail_fast=fail_fast)
    assert judgement.passed, judgement
    assert judgement.tests_passed == 4
    assert asked[:2] == [([0, 1, 2, 3], False), ([1], alone)]
    cases = (returned(1), [failure, returned(2)], [SKIPPED, returned("wrong")], [SKIPPED, returned(4)])
    judgement, _ = judged(call_problem(1, 2, 3, 4), *cases, fail_fast=fail_fast)
    assert (judgement.verdict, judgement.first_failed) == (Verdict.WRONG_ANSWER, 2)


@pytest.mark.parametrize("fail_fast", [True, False])
@pytest.mark.parametrize("answers", [[], [returned(1)], [returned(1), returned(2), returned(3)]])
def test_a_wrong_number_of_answers_is_tampered(answers, fail_fast):
    judgement = judge(call_problem(1, 2), lambda cases, alone: list(answers), "docker", fail_fast=fail_fast)
    assert judgement.verdict is Verdict.TAMPERED
    assert (judgement.tests_passed, judgement.tests_total) == (0, 2)


@pytest.mark.parametrize("again", [[], [returned(1), returned(1)]])
@pytest.mark.parametrize("first", [returned("wrong", fresh=False), result("time_limit", in_doubt=True)])
def test_a_wrong_number_of_second_answers_is_tampered(first, again):
    answers = iter([[first], again])
    judgement = judge(call_problem(1), lambda cases, alone: list(next(answers)), "docker", fail_fast=True)
    assert judgement.verdict is Verdict.TAMPERED


def test_a_tampered_case_among_right_ones():
    judgement, _ = judged(call_problem(1, 2), returned(1), returned(2, stray=True))
    assert (judgement.verdict, judgement.first_failed, judgement.tests_passed) == (Verdict.TAMPERED, 1, 1)


@pytest.mark.parametrize(
    ("problem", "wrong"),
    [
        (stdin_problem(StdinCase("", "SECRET", ("SECRET",))), result(output="x")),
        (call_problem("SECRET"), returned("x")),
        (assert_problem("assert f(1) == 'SECRET', 'SECRET'"), returned("x")),
    ],
)
def test_detail_never_quotes_what_was_expected(problem, wrong):
    judgement, _ = judged(problem, wrong)
    assert judgement.verdict is Verdict.WRONG_ANSWER
    assert judgement.detail
    assert "SECRET" not in judgement.detail


def test_details_are_short_printable_ascii():
    text = printable("\x1b[31m\u2028\n\ud800\x00" + "x" * 1000)
    assert text.isascii()
    assert text.isprintable()
    assert 1 <= len(text) <= 300
    assert printable("plain é\n") == "plain \\xe9\\n"
    assert len(printable("word " * 100)) <= 300
    judgement, _ = judged(call_problem(1), result("error", detail="\x1b]0;x\x07"))
    assert judgement.detail == "\\x1b]0;x\\x07"
