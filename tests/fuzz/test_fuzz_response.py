"""What a policy writes: no text raises, the template rule holds, and twice the text takes twice the time."""

import pytest
from fuzzing import damaged, fuzz, growth, timed_s
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.data import answers
from pgrpo_ray.data.response import TAGS, parse, strip_fence
from pgrpo_ray.evaluation.prompting import judged_part
from pgrpo_ray.reward_model.judging import parse_preference, parse_soundness
from pgrpo_ray.reward_model.od.answers import FAILURES, parse_answer
from pgrpo_ray.types import TestStyle

SEEDS = [
    b"<think>count up</think>\n<answer>\nprint(1)\n</answer>",
    b"<think>a\n</think> <answer>```python\n    return 1\n```</answer> ",
    rb"so <think>x</think><answer>\boxed{\frac{1}{2}} and \fbox{\text{east}}</answer>",
    b"```py\nx\n```\n````\ny\n````",
    r"$1\,234.5e-3$, √(2) 3² 52₈ \dfrac 1 2, (52)_{8}, 52 \text{ (base eight)}, 1 1/2, \left( ½, ∞ \right]".encode(),
    b"Side A: sound\nSide B: flawed\nBetter: A\n<reasoning>I cannot help with this request.</reasoning>",
]
PIECES = [
    *TAGS, "<think", "think>", "<reasoning>", "</reasoning>", "```", "````", "~~~", "`", "\n", "\r\n", " ", "\t", "x",
    "\\boxed{", "\\fbox{", "{", "}", "\\{", "\\", "$", "\\text{", "\\frac", "\\!", "\\,", "~", "_", "^", "(", ")",
    ".", ",",
    "0", "1", "12", "1 234", "e5", "-", "1 1/2", "½", "√", "²", "₈", "\N{FRACTION SLASH}", "٣", "I'm sorry",
    "Verdict A: sound",
    "A: sound", "B: flawed", "Better: B", "\u2028", "\0", "\ud800", "\x1c", "\x85",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)
DAMAGED = damaged(SEEDS, [piece.encode("utf-8", "surrogatepass") for piece in PIECES])


def read(data: bytes) -> None:
    """Have every reader of a model's text read `data`; check what they promise."""
    text = data.decode("utf-8", "replace")
    check_template(text)
    check_answers(text)
    check_others(text)


def check_template(text: str) -> None:
    parsed = parse(text)
    assert parsed.format_ok == (parsed.program is not None) == (parsed.thinking is not None)
    if parsed.format_ok:
        assert [text.count(tag) for tag in TAGS] == [1, 1, 1, 1]
        assert sorted(TAGS, key=text.index) == list(TAGS)
        assert parsed.thinking == parsed.thinking.strip()
        assert parsed.program.strip() and parsed.program in text
        assert parsed.program == parsed.program.rstrip() or "`" in text
        assert parse(f"\n{text} ") == parsed  # white space outside does not count
        assert not parse(f"{text}x").format_ok and not parse(f"x{text}").format_ok
    assert strip_fence(text) in text


def check_answers(text: str) -> None:
    boxed = answers.last_boxed(text)
    if boxed is not None:
        assert f"{{{boxed}}}" in text
    final = answers.final_answer(text)
    assert final in text and final == final.strip()
    assert answers.same_text(text, text) == bool(answers.plain(text).casefold().strip("()"))
    answers.in_words(text)
    for spell in (answers.spell_powers_of_ten, answers.spell_unicode, answers.join_numbers, answers.spaced):
        assert isinstance(spell(text), str)
    for digits, base in [*answers.numerals(text), *filter(None, [answers.lone_numeral(text)])]:
        assert digits.isdecimal() and (base is None or base >= 0)


def check_others(text: str) -> None:
    for style in TestStyle:
        for rule in ("tags", "fenced"):
            part = judged_part(text, style, rule)
            assert part is None or (part.strip() and part in text)
    assert (parse_soundness(text, 0) is None) == (parse_soundness(text, 1) is None)
    one, other = (parse_preference(text, order) for order in (0, 1))
    assert (one is None and other is None) or one is not other
    for reason in ("stop", "length"):
        reasoning, failure = parse_answer(text, reason)
        assert (reasoning is None) == (failure in FAILURES)


@fuzz(1500)
@given(TEXT)
def test_texts_of_pieces(text):
    check_template(text)
    check_answers(text)
    check_others(text)


@fuzz(500)
@given(DAMAGED)
def test_damaged_responses(data):
    read(data)


READERS = {
    "template": parse,
    "fence": strip_fence,
    "judged": lambda text: judged_part(text, TestStyle.STDIN, "fenced"),
    "soundness": lambda text: parse_soundness(text, 0),
    "preference": lambda text: parse_preference(text, 0),
    "reasoning": lambda text: parse_answer(text, "stop"),
    "boxed": answers.last_boxed,
    "plain": answers.plain,
    "spelled": lambda text: answers.spell_powers_of_ten(answers.spell_unicode(text)),
    "joined": answers.join_numbers,
    "numerals": answers.numerals,
    "words": answers.in_words,
    "lone": answers.lone_numeral,
}
HOSTILE = [
    *("<think>", "</think>", "<answer>", "```", "```\n", "```a", "`", " ", "\n", "\r", "\\", "{", "}", "\\boxed{"),
    *("\\text{", "\\text{ ", "$", "1", "1 ", "1 1/", "1,", "123 ", "1.", "(", "( ", "_", "_{", "√(", "√ ", "²", "½",
    "1_", "e"),
    *("1e", "\\!", "\\! ", "\\frac", "1\\frac{", "1 \\frac1", "base", "1 (base ", "~", "\\,", "I'm ", "A: sound\n",
    "<think> "),
    *("1\N{FRACTION SLASH}", "a", "\\text{a}", "(A)", ".1", "-", "```a\n", "\n```", "1 1/2", "1_1", "1 \\frac{1}{2}",
    "52 base 8 "),
]  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_time_is_linear(name):
    """Of the worst of many texts: a rule that backtracks over the text takes four times as long for twice of it."""
    run = READERS[name]

    def text(piece, end, size):
        return piece * (size // len(piece)) + end

    texts = [(piece, end) for piece in HOSTILE for end in ("", "x", "\n```")]
    worst = max(texts, key=lambda parts: timed_s(run, text(*parts, 10_000)))
    assert growth(run, lambda size: text(*worst, size), 25_000) < 3.2, worst


@pytest.mark.parametrize(
    "text", ["1 " + "9" * 5000 + "/7", "1 \\frac{7}{" + "9" * 5000 + "}", "52_{" + "8" * 5000 + "}"]
)
def test_numbers_longer_than_python_reads_are_left_as_they_are(text):
    """CPython refuses to make integers of more than 4300 digits."""
    check_answers(text)
    assert answers.join_numbers(text) == text
