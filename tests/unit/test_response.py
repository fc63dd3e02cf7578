"""The template rule of `data.response`."""

import time

import pytest

from pgrpo_ray.data.response import TAGS, parse

GOOD = "<think>count up</think>\n<answer>\nprint(1)\n</answer>"


def test_a_well_formed_response_is_split_into_reasoning_and_program():
    parsed = parse(f"  {GOOD}\n")
    assert (parsed.format_ok, parsed.thinking, parsed.program) == (True, "count up", "print(1)")


@pytest.mark.parametrize("tag", TAGS)
def test_a_missing_tag_is_a_wrong_format(tag):
    assert not parse(GOOD.replace(tag, "")).format_ok


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_that_stands_twice_is_a_wrong_format(tag):
    assert not parse(GOOD.replace("count up", f"count {tag} up")).format_ok
    assert not parse(GOOD.replace(tag, tag + tag)).format_ok


@pytest.mark.parametrize(
    "text",
    [
        "<answer>print(1)</answer><think>later</think>",
        "<think>a<answer>b</think>c</answer>",
        "</think>a<think><answer>b</answer>",
        "Sure! " + GOOD,
        GOOD + " done",
        GOOD.replace("\n<answer>", " so <answer>"),
        "",
        "print(1)",
        GOOD.replace("<think>", "<THINK>"),
    ],
)
def test_wrong_order_or_text_outside_is_a_wrong_format(text):
    parsed = parse(text)
    assert (parsed.format_ok, parsed.thinking, parsed.program) == (False, None, None)


@pytest.mark.parametrize("answer", ["", " \n\t ", "```python\n```", "```\n\n  \n```"])
def test_an_empty_answer_is_a_wrong_format(answer):
    assert not parse(f"<think>x</think><answer>{answer}</answer>").format_ok


def test_empty_reasoning_is_allowed():
    assert parse("<think></think><answer>pass</answer>").thinking == ""


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nx = 1\ny = 2\n```",
        "\n  ```py\nx = 1\ny = 2\n```\n",
        "```\r\nx = 1\ny = 2\n```",
        "````python3\nx = 1\ny = 2\n````",
        "\n\nx = 1\ny = 2\n\n",
    ],
)
def test_one_enclosing_fence_is_taken_off(answer):
    assert parse(f"<think>x</think><answer>{answer}</answer>").program == "x = 1\ny = 2"


@pytest.mark.parametrize(
    "answer", ["Here:\n```python\nx = 1\n```", "```python\nx = 1", "x = '''\n```\n'''", "```two words\nx\n```"]
)
def test_anything_but_one_enclosing_fence_stays_as_written(answer):
    assert parse(f"<think>x</think><answer>{answer}</answer>").program == answer


def test_the_first_line_keeps_its_indentation_because_it_may_continue_a_prefix():
    assert parse("<think></think><answer>\n    return 1\n</answer>").program == "    return 1"
    assert parse("<think></think><answer>```python\n    return 1\n```</answer>").program == "    return 1"


@pytest.mark.parametrize("hostile", ["<think>", "```" + " " * 50, " ", "`", "\n", "<", "</answer"])
def test_parsing_is_linear_in_hostile_text(hostile):
    text = f"<think></think><answer>```{hostile * (4_000_000 // len(hostile))}</answer>"
    start = time.process_time()
    parse(text)
    assert time.process_time() - start < 2.0  # a quadratic rule would take hours at 4 MB
