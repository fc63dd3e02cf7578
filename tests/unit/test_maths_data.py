"""Maths problems: their files, where an answer stands in a text, its plain form."""

import json

import pytest

from pgrpo_ray.data.answers import (
    final_answer,
    in_words,
    join_numbers,
    last_boxed,
    lone_numeral,
    plain,
    same_text,
    spell_powers_of_ten,
    spell_unicode,
)
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.data.own_format import problem_to_json
from pgrpo_ray.data.prompts import encode_prompts
from pgrpo_ray.errors import DataError
from pgrpo_ray.sandbox import checkers
from pgrpo_ray.sandbox.plan import plan_of
from pgrpo_ray.types import AnswerCase, CallCase, Problem, TestStyle

MATH500 = {
    "problem": "What is a half?",
    "solution": r"It is $\boxed{\frac{1}{2}}$.",
    "answer": r"\frac{1}{2}",
    "subject": "Prealgebra",
    "level": 2,
    "unique_id": "test/prealgebra/1.json",
}
MINERVA = {"problem": "How hot?", "solution": r"First \boxed{1}, then $\boxed{4.5e33}$ K.", "type": "Physics", "idx": 3}
AIME = {"id": 60, "problem": "How many?", "solution": "...", "answer": "073", "url": "u"}
GSM8K = {"question": "How many eggs?", "answer": "She has 3 * 400 = 1200.\n#### 1,200"}
HALF = {"id": "half", "prompt": "?", "tests": {"style": "answer", "cases": [{"answer": "1/2"}]}}


@pytest.fixture
def load(tmp_path):
    def load(format, *records):
        path = tmp_path / "problems.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return load_problems(path, format)

    return load


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{3}", "3"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{7} and \boxed{cut", "7"),
        (r"\fbox{5}", "5"),
        (r"\boxed{1\\{2}\}} and", r"1\\{2}\}"),
        (r"\boxed{a\boxed{b}}", "b"),
        ("nothing", None),
        (r"\boxed{never closed", None),
    ],
)
def test_the_last_whole_box_counts(text, boxed):
    assert last_boxed(text) == boxed


def test_many_open_boxes_take_no_long_time():
    assert last_boxed(r"\boxed{" * 20_000) is None


def test_the_answer_is_the_box_or_all():
    assert final_answer("The answer:\n \\boxed{ 42 }\n") == "42"
    assert final_answer("  42\n") == "42"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (r"$\text{East}$.", "East"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\$5", "5"),
        (r"\leftarrow", r"\leftarrow"),
        ("1 000", "1 000"),
        (r"1\,1/2", "1 1/2"),
        (r"1~1\;/\ 2", "1 1/2"),
        (r"10,\!080", "10,080"),
        ("$1$ $2$", "1 2"),
        ("$1$$2$", "1 2"),
        ("1 .5", "1 .5"),
        (r"2 x \cos t + 1", r"2x\cos t+1"),
        (r"1 \\ 2", r"1\\2"),
    ],
)
def test_plain_form(text, bare):
    assert plain(text) == bare


def test_words_are_the_same_whatever_their_case():
    assert same_text(r"\text{East}", "east.")
    assert same_text("(C)", "C")
    assert not same_text("east", "west")
    assert not same_text("", "")


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("½", r"\frac{1}{2}"),
        ("1½", r"1\frac{1}{2}"),
        ("2√13", r"2\sqrt{13}"),
        ("√(x + 1)", r"\sqrt{x + 1}"),
        ("(-∞, 2]", r"(-\infty , 2]"),
        ("3x²", "3x^{2}"),
        ("52₈", "52_{8}"),
        ("x ≤ 6", r"x \le  6"),
        ("12 ÷ 4", r"12 \div  4"),
        ("é", "é"),
    ],
)
def test_common_signs_are_spelled_out(text, spelled):
    assert spell_unicode(text) == spelled


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("1 1/2", "(3/2)"),
        ("-1 1/2", "-(3/2)"),
        (r"137 \frac{1}{2}", "(275/2)"),
        (r"1\tfrac12 cups", "(3/2) cups"),
        ("1 3/2", "1 3/2"),
        ("x_1 1/2", "x_1 1/2"),
        ("58 500", "58500"),
        ("1 2", "1 2"),
        ("1 2345", "1 2345"),
    ],
)
def test_one_number_in_pieces_is_joined(text, joined):
    assert join_numbers(text) == joined


@pytest.mark.parametrize(
    ("text", "numeral"),
    [
        ("52_8", ("52", 8)),
        ("052_{8}", ("52", 8)),
        ("(52)_8", ("52", 8)),
        (r"52_{\text{eight}}", ("52", 8)),
        ("52 (base 8)", ("52", 8)),
        ("52", ("52", None)),
        ("52_8 + 1", None),
        ("x_8", None),
    ],
)
def test_a_whole_number_says_its_base(text, numeral):
    assert lone_numeral(text) == numeral


@pytest.mark.parametrize("text", [r"\text{Evelyn}", "(C)", r"$\text{in order}$"])
def test_references_that_say_they_are_words(text):
    assert in_words(text)


@pytest.mark.parametrize("text", ["x", "xy", "p - q", "12", r"\frac12", r"5 \text{ cm}", "(1, 2)"])
def test_references_that_do_not(text):
    assert not in_words(text)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("4.5e33", r"4.5 \times 10^{33}"),
        ("-1E-3 m", r"-1 \times 10^{-3} m"),
        ("2e", "2e"),
        ("e2", "e2"),
        ("x1e5", "x1e5"),
        ("1e5x", "1e5x"),
    ],
)
def test_powers_of_ten_are_spelled_out(text, spelled):
    assert spell_powers_of_ten(text) == spelled


def test_each_published_form_becomes_one_answer(load):
    (math500,) = load("math500", MATH500)
    assert math500 == Problem(
        "test/prealgebra/1.json",
        "What is a half?",
        TestStyle.ANSWER,
        (AnswerCase(r"\frac{1}{2}"),),
        metadata={"benchmark": "math500", "subject": "Prealgebra", "level": 2},
    )
    (minerva,) = load("minerva", MINERVA)
    assert (minerva.id, minerva.cases, minerva.metadata["type"]) == ("3", (AnswerCase("4.5e33"),), "Physics")
    (aime,) = load("aime24", AIME)
    assert (aime.id, aime.cases) == ("60", (AnswerCase("73"),))
    (gsm8k,) = load("gsm8k", GSM8K)
    assert gsm8k.cases == (AnswerCase("1200"),)
    assert gsm8k.id.startswith("gsm8k/")
    assert "1,200" not in gsm8k.prompt


def test_references_in_words_are_compared_as_words(load):
    (word,) = load("math500", MATH500 | {"answer": r"\text{east}"})
    assert word.checker == "text"


def test_references_known_to_be_unreadable_are_known_by_number_and_text(load):
    (known,) = load("minerva", MINERVA | {"idx": 5, "solution": r"\boxed{np.arcsin(10/13)}"})
    assert known.checker == "text"
    (other,) = load("minerva", MINERVA | {"idx": 5})
    assert other.checker == "", "another release may count otherwise"


@pytest.mark.parametrize(
    ("format", "record", "said"),
    [
        ("math500", AIME, "'problem', 'answer', 'unique_id' were expected, 'unique_id' is missing"),
        ("math500", AIME, "looks like format 'aime24'"),
        ("gsm8k", MATH500, "'question' is missing"),
        ("minerva", MINERVA | {"solution": "no box"}, r"has no \boxed"),
        ("aime24", AIME | {"answer": "1000"}, "whole numbers from 0 to 999"),
        ("aime24", AIME | {"answer": True}, "answer"),
        ("gsm8k", GSM8K | {"answer": "42"}, "does not end with"),
    ],
)
def test_a_wrong_file_says_what_was_expected(load, format, record, said):
    with pytest.raises(DataError) as caught:
        load(format, record)
    assert caught.value.line == 1
    assert said in str(caught.value)


def test_our_own_format_keeps_answers(load):
    several = {
        "id": "s",
        "prompt": "?",
        "tests": {"style": "answer", "checker": "text", "cases": [{"any_of": ["a", "b"]}]},
    }
    half, both = load("jsonl", HALF, several)
    assert both.cases == (AnswerCase("a", ("b",)),)
    assert load("jsonl", *map(problem_to_json, (half, both))) == [half, both]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cases": [{"answer": "1"}, {"answer": "2"}]}, "style answer has one"),
        ({"cases": [{"answer": " "}]}, "blank"),
        ({"cases": [{"answer": 1}]}, "answer"),
        ({"cases": [{"output": "1"}]}, "output"),
        ({"entry_point": "f"}, "entry_point"),
        ({"checker": "tokens"}, "no checker for style answer"),
        ({"checker": "checks:mine"}, "only maths and text"),
        ({"language": "cpp"}, "cpp"),
    ],
)
def test_what_has_no_meaning_for_answers_is_refused(load, change, said):
    with pytest.raises(DataError) as caught:
        load("jsonl", HALF | {"tests": HALF["tests"] | change})
    assert said in str(caught.value)


def test_the_sandbox_refuses_answers(load):
    (half,) = load("jsonl", HALF)
    for refuse in (plan_of, checkers.prove):
        with pytest.raises(DataError, match="has style answer"):
            refuse(half)


def test_the_system_prompt_follows_the_style_unless_it_is_given(load):
    class Tokenizer:
        chat_template = None

        def __call__(self, text):
            return {"input_ids": [ord(character) for character in text]}

    (half,) = load("jsonl", HALF)
    call = Problem("call", "?", TestStyle.CALL, (CallCase([], 1),), "f")

    def texts(system_prompt):
        ids = encode_prompts(Tokenizer(), [half, call], system_prompt, 10_000)
        return ["".join(map(chr, ids[problem.id])) for problem in (half, call)]

    assert "mathematics" in texts(None)[0]
    assert "Python" in texts(None)[1]
    assert texts("") == ["?\n", "?\n"]
    assert texts("Say it.") == ["Say it.\n\n?\n", "Say it.\n\n?\n"]


@pytest.mark.parametrize(
    ("name", "format", "count", "in_text"),
    [
        ("math500.jsonl", "math500", 500, 8),
        ("minerva_math.jsonl", "minerva", 272, 3),
        ("aime24.jsonl", "aime24", 30, 0),
    ],
)
def test_the_published_files_load_whole(shared_data, name, format, count, in_text):
    problems = load_problems(shared_data / "datasets" / name, format)
    assert len(problems) == count
    assert sum(problem.checker == "text" for problem in problems) == in_text
    assert all(problem.cases[0].answer not in ("", problem.prompt) for problem in problems)
