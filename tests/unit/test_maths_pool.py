"""The judge of answers: what is equal, what ends a comparison, and that a failing machine gives no verdict.

Equalities are golden by hand: mathematics, or a rule that docs/maths.md states.
"""

import os
import re
import signal
import threading
import time

import pytest

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.errors import DataError
from pgrpo_ray.evaluation.maths import process as processes
from pgrpo_ray.evaluation.maths.pool import MathsPool
from pgrpo_ray.types import AnswerCase, CallCase, Limits, Problem, TestStyle, Verdict

LONG = "9^{9^{9^{9}}} - 9^{9^{9^{8}}}"
"""A comparison of it with a number does not end on its own."""


@pytest.fixture(scope="module")
def pool():
    pool = MathsPool(SandboxSection(slots=2, retries=2))
    yield pool
    pool.close()


def problem(reference, *also, **fields):
    return Problem("p", "?", TestStyle.ANSWER, (AnswerCase(reference, also),), **fields)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("1/2", r"\dfrac{2}{4}"),
        ("1234", "1,234"),
        (r"\sqrt{2}", "1.414214"),
        ("1.6e-19", r"1.6 \times 10^{-19}"),
        ("10", r"10\%"),
        (r"10\%", "0.1"),
        (r"12 \text{ cm}", "12"),
        ("12", "So there are 12 apples."),
        ("12", r"First \boxed{3}, in the end \boxed{12}."),
        (r"90^\circ", "90"),
        ("5", r"\$5"),
        ("x^2 - 1", "(x - 1)(x + 1)"),
        ("5", "x = 5"),
        (r"\{1, 2\}", "2, 1"),
        ("(1, 2)", "1, 2"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\frac{1}{3} E_{1} + \frac{2}{3} E_{2}", r"\frac{E_1 + 2 E_2}{3}"),
        ("-1./3", r"-\frac{1}{3}"),
        ("73", r"\textbf{(073)}"),
        (r"\frac{3}{2}", "1 1/2"),
        (r"\frac{3}{2}", r"1\,1/2"),
        (r"\frac{3}{2}", r"1 \frac{1}{2}"),
        (r"-\frac{3}{2}", "-1 1/2"),
        (r"\frac{3}{2}", "So 1 1/2 cups."),
        (r"1\frac{4}{5}", "9/5"),
        ("10080", r"10\,080"),
        (r"\frac{5}{9}", r"\frac 59"),
        ("5", r"x = \frac{10}{2} = 5"),
        ("5", "f(2) = 5"),
        ("58,500", "x = 58,500"),
        ("5", "2 + 3 = 5"),
        ("5", "m + n = 5"),
        ("5", r"x \approx 5"),
        ("5", "So 2 + 3 = 5 apples."),
        ("5", "1 + 1 = 2 and 2 + 3 = 5 apples"),
        ("5", "With x = 3 there are 5 apples."),
        ("(1, 2)", "(x, y) = (1, 2)"),
        ("x^2 - 1", "f(x) = (x - 1)(x + 1) = x^2 - 1"),
        ("1, -2", "x = 1, x = -2"),
        ("x = 5", "5"),
        ("y = 2x + 3", "y - 2x = 3"),
        ("2516_8", "2516"),
        ("2516_8", "x = 2516_{8}"),
        ("2516_8", r"2516_{\text{eight}}"),
        ("2516_8", "So it is $2516_8$."),
        ("2516_8", "2516₈"),
        (r"\frac{1}{2}", "½"),
        (r"\frac{3}{2}", "1½"),
        (r"2\sqrt{13}", "2√13"),
        (r"(-\infty, 2]", "(-∞,2]"),
        (r"90^\circ", "90°"),
        ("6", "12 ÷ 2"),
        (r"x \le 6", "x ≤ 6"),
    ],
)
def test_equal(pool, reference, answer):
    judgement = pool.judge(problem(reference), answer)
    assert judgement.verdict is Verdict.PASSED, judgement
    assert (judgement.tests_passed, judgement.tests_total, judgement.sandbox) == (1, 1, "maths")


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("12", "13"),
        (r"\frac{1}{3}", "0.33"),
        ("1.6e-19", "2.0e-19"),
        ("0.00000016", "0.0"),
        ("0.0001234", "0.000123"),
        ("5", "5x"),
        ("5", "5 or 6"),
        ("5", r"\{5, 6\}"),
        ("x + 1", "y + 1"),
        ("(1, 2)", "(2, 1)"),
        ("(1, 2)", "[1, 2]"),
        ("x^2 - 1", "(x - 1)^2"),
        (r"\hbar \omega (v + 1/2)", r"\hbar \omega (v + 2/2)"),
        (r"\frac{1}{3} E_{1} + \frac{2}{3} E_{2}", r"\frac{1}{3}"),
        ("12", r"First \boxed{12}, in the end \boxed{3}."),
        ("5", "__import__('os').getpid()"),
        ("11/2", "1 1/2"),
        ("11/2", r"1\,1/2"),
        ("1 1/2", "11/2"),
        ("12", "1 2"),
        ("12", "5 7"),
        ("12", r"5\,7"),
        ("12", r"5 \quad 7"),
        ("12", "5{7}"),
        ("12", "$1$$2$"),
        ("1.5", "1 .5"),
        ("25", "24 = 25"),
        ("24", "24 = 25"),
        ("25", "x = 24 = 25"),
        ("25", "$x = 24 = 25$"),
        ("25", "$24$ = 25"),
        ("24", "$24$ = 25"),
        ("25", "The answer is $24 = 25$."),
        ("25", "So 24 = 25 apples."),
        ("25", r"\angle ABC = 24 = 25"),
        ("25", r"\text{24} = 25"),
        ("25", r"\pi = 25"),
        ("25", "2x = 25"),
        ("17", "x = 3 = 17"),
        ("5", "6 = 5"),
        ("204", r"204 \approx 205"),
        ("205", r"204 \approx 205"),
        ("204", "204 ≈ 205"),
        ("1, -2", "x = 3 = 1, x = -2"),
        ("x^2 - 1", "f(x) = x^2 = x^2 - 1"),
        ("I(0)", "I(1) = I(0)"),
        ("p - q", "q - p = p - q"),
        ("x = 5", "x = 4 = 5"),
        (r"m c^2 (\gamma^{2}-1) \sin^2 \theta", r"m c^2 (\gamma^{2}-5) \sin^2 \theta"),
        ("2516_8", "2516_9"),
        ("2516_9", "2516_8"),
        ("2516_8", "2516_{10}"),
        ("2516_8", "$2516_9$"),
        ("2516_8", "2516_8 = 2516_9"),
        ("2516_8", "2516 base 9"),
        ("2516_8", "2517"),
        ("2516_8", "1358"),
    ],
)
def test_not_equal(pool, reference, answer):
    judgement = pool.judge(problem(reference), answer)
    assert judgement.verdict in (Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR), judgement
    assert (judgement.tests_passed, judgement.first_failed) == (0, 0)


def test_another_right_answer_is_right(pool):
    assert pool.judge(problem("1", "2"), "2").passed
    assert not pool.judge(problem("1", "2"), "3").passed


def test_words_are_compared_as_words(pool):
    east = problem(r"\text{East}", checker="text")
    assert pool.judge(east, "east").passed
    assert pool.judge(east, "west").verdict is Verdict.WRONG_ANSWER


@pytest.mark.parametrize("answer", ["", "?", "12 " * 400])
def test_where_nothing_can_be_read(pool, answer):
    assert pool.judge(problem("12"), answer).verdict is Verdict.RUNTIME_ERROR


def test_an_answer_that_never_ends_meets_its_limit_and_the_next_is_judged(pool):
    before = pool.stats().restarts
    limits = Limits(cpu_s=0.5)
    items = [(problem("1", limits=limits), LONG), (problem("2"), "2"), (problem("3"), "4"), (problem("5"), "5")]
    judged = pool.judge_many(items)
    expected = [Verdict.TIME_LIMIT, Verdict.PASSED, Verdict.WRONG_ANSWER, Verdict.PASSED]
    assert [judgement.verdict for judgement in judged] == expected
    assert pool.stats().restarts == before + 1


def test_an_answer_gets_no_more_memory_than_its_limit(pool):
    judgement = pool.judge(problem("1", limits=Limits(memory_mib=8, cpu_s=20)), "2^{2^{33}} + 1")  # 1 GiB as a number
    assert judgement.verdict in (Verdict.MEMORY_LIMIT, Verdict.WRONG_ANSWER), judgement
    assert judgement.peak_mib < 200
    assert pool.judge(problem("2"), "2").passed


def test_details_never_quote_the_reference(pool):
    judgement = pool.judge(problem("271828"), "31415\u20ac\n9")
    assert not judgement.passed
    assert "271828" not in judgement.detail
    assert "\\u20ac\\n" in judgement.detail


def test_verdicts_are_remembered_and_equal_answers_asked_once(pool):
    before = pool.stats()
    item = (problem("17"), "34/2")
    assert all(judgement.passed for judgement in pool.judge_many([item, item, item]))
    assert all(judgement.passed for judgement in pool.judge_many([item]))
    after = pool.stats()
    assert (after.cache_lookups - before.cache_lookups, after.cache_hits - before.cache_hits) == (4, 3)
    assert pool.judge(problem("18"), "34/2").verdict is Verdict.WRONG_ANSWER, "another reference is another question"


def test_a_process_that_dies_is_replaced_and_is_no_verdict(pool):
    for process in list(pool._processes):
        os.kill(process._child.pid, signal.SIGKILL)
    assert pool.judge(problem("1"), "1.0").passed


def test_machinery_that_keeps_failing_becomes_an_error(monkeypatch):
    pool = MathsPool(SandboxSection(slots=1, retries=1))
    try:
        (process,) = pool._processes
        monkeypatch.setattr(processes, "_START_S", 0.0)
        os.kill(process._child.pid, signal.SIGKILL)
        judgement = pool.judge(problem("1"), "1")
        assert judgement.verdict is None
        assert "1 retries" in judgement.error
    finally:
        pool.close()


def test_close_answers_those_who_wait():
    pool = MathsPool(SandboxSection(slots=1, retries=0))
    judged = []
    items = [(problem(str(number), limits=Limits(cpu_s=60, wall_s=60)), LONG) for number in range(3)]
    waiting = threading.Thread(target=lambda: judged.extend(pool.judge_many(items)))
    waiting.start()
    time.sleep(0.3)
    pool.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert [judgement.verdict for judgement in judged] == [None] * 3
    assert pool.judge(problem("1"), "1").verdict is None, "a closed pool answers too"


def test_a_deadline_is_kept():
    pool = MathsPool(SandboxSection(slots=1, retries=0, queue_programs=1))
    try:
        hard = problem("1", limits=Limits(cpu_s=3, wall_s=60))
        began = time.monotonic()
        judged = pool.judge_many([(hard, LONG), (hard, "2"), (hard, "3")], deadline_s=0.5)
        assert time.monotonic() - began < 2
        assert [judgement.verdict for judgement in judged] == [None] * 3
        assert all(judgement.error for judgement in judged)
    finally:
        pool.close()


def test_references_are_proved(pool):
    pool.prove([problem(r"\frac{1}{2}"), problem("anything at all", checker="text")])
    with pytest.raises(DataError, match=r"'p'.*arcsin.*tests\.checker"):
        pool.prove([problem("1"), problem("np.arcsin(10/13)")])


def test_programs_are_refused(pool):
    with pytest.raises(DataError, match="has style call"):
        pool.judge(Problem("c", "?", TestStyle.CALL, (CallCase([], 1),), "f"), "1")


@pytest.mark.parametrize(
    ("name", "format"), [("math500.jsonl", "math500"), ("minerva_math.jsonl", "minerva"), ("aime24.jsonl", "aime24")]
)
def test_published_references_pass_and_corrupted_ones_fail(pool, shared_data, name, format):
    problems = load_problems(shared_data / "datasets" / name, format)[:40]
    pool.prove(problems)
    boxed = [f"We get 7, hence $\\boxed{{{one.cases[0].answer}}}$." for one in problems]
    assert all(judgement.passed for judgement in pool.judge_many(list(zip(problems, boxed, strict=True))))
    judged = pool.judge_many([(one, corrupted(one.cases[0].answer)) for one in problems])
    assert [one.id for one, judgement in zip(problems, judged, strict=True) if judgement.passed] == []
    assert all(judgement.verdict for judgement in judged)


def corrupted(reference):
    """Raise the first digit by one; of a reference without digits, add one."""
    digit = re.search(r"\d", reference)
    if digit is None:
        return r"\text{other}" if "text" in reference else f"{reference} + 1"
    return f"{reference[: digit.start()]}{(int(digit[0]) + 1) % 10 or 1}{reference[digit.end() :]}"
