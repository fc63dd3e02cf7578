"""Prompts are checked before anything is asked; answers are read by their tags or not at all."""

import shutil
from pathlib import Path

import jinja2
import pytest

from pgrpo_ray.errors import ConfigError
from pgrpo_ray.reward_model.od import prompts as prompts_module
from pgrpo_ray.reward_model.od.answers import is_refusal, parse_answer
from pgrpo_ray.reward_model.od.prompts import DIMENSIONS, load_prompts

SHIPPED = Path(prompts_module.__file__).parent / "prompts" / "v1"


@pytest.fixture
def own(tmp_path):
    return Path(shutil.copytree(SHIPPED, tmp_path / "mine"))


def test_the_shipped_prompts_say_everything():
    prompts = load_prompts("v1")
    text = prompts.render("degrade", "PROBLEM {{ not a placeholder }}", "REASONING", "logical_rigour")
    assert "PROBLEM {{ not a placeholder }}" in text
    assert "REASONING" in text and "Logical rigour:" in text and "Factual accuracy:" not in text
    together = prompts.render("optimise", "p", "r", "all")
    assert all(prompts.dimensions[name] in together for name in DIMENSIONS)
    assert "<reasoning>" in prompts.render("original", "p")
    assert prompts.version == "v1" and len(prompts.hash) == 32
    with pytest.raises(jinja2.UndefinedError):
        prompts.templates["degrade"].render(problem="p")


def test_ones_own_prompts_have_another_hash_and_name(own):
    same = load_prompts(str(own))
    assert (same.version, same.hash) == ("mine", load_prompts("v1").hash)
    for name in ("system.txt", "optimise.txt", "dimensions/factual_accuracy.txt"):
        file = own / name
        file.write_text(file.read_text() + "More.")
        changed = load_prompts(str(own))
        assert changed.hash != same.hash
        same = changed


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("optimise.txt", None, r"optimise\.txt cannot be read"),
        ("dimensions/logical_rigour.txt", None, r"logical_rigour\.txt cannot be read"),
        ("degrade.txt", "  \n", "is blank"),
        ("original.txt", "<reasoning></reasoning>", r"lacks the placeholder {{ problem }}"),
        (
            "degrade.txt",
            "{{ problem }} {{ reasoning }} <reasoning></reasoning>",
            r"lacks the placeholder {{ dimension }}",
        ),
        ("original.txt", "{{ problem }} {{ problme }} <reasoning></reasoning>", r"{{ problme }}, which nobody fills"),
        ("original.txt", "{{ problem }}", "does not name the tag <reasoning>"),
        ("original.txt", "line\n{{ problem <reasoning></reasoning>", r"original\.txt:2 is no valid jinja2"),
        ("system.txt", "{{ problem }}", "which nobody fills. Known here: none"),
    ],
)
def test_sets_that_could_only_fail_are_refused(own, name, text, words):
    if text is None:
        (own / name).unlink()
    else:
        (own / name).write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_prompts(str(own))
    assert caught.value.path == "pairs.prompts"


def test_an_unknown_set_names_those_that_ship():
    with pytest.raises(ConfigError, match=r"\(v1\)"):
        load_prompts("v999")


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("<reasoning>Sort, then scan.</reasoning>", "stop", ("Sort, then scan.", "")),
        ("Sure!\n<reasoning>\n a\n\nb \n</reasoning>\nDone.", "stop", ("a\n\nb", "")),
        ("<reasoning>whole</reasoning> and then som", "length", ("whole", "")),
        ("<think><reasoning>draft</reasoning></think><reasoning>final</reasoning>", "stop", ("final", "")),
        ("<reasoning>never ends", "length", (None, "cut")),
        ("no tags at all", "length", (None, "cut")),
        ("<reasoning>never ends", "stop", (None, "missing_tags")),
        ("Sort, then scan.", "stop", (None, "missing_tags")),
        ("<reasoning>a</reasoning><reasoning>b</reasoning>", "stop", (None, "several_tags")),
        ("</reasoning>a<reasoning>", "stop", (None, "several_tags")),
        ("<reasoning> \n </reasoning>", "stop", (None, "empty")),
        ("", "stop", (None, "empty")),
        ("I'm sorry, but I can't help with that.", "stop", (None, "refusal")),
        ("<reasoning>I cannot assist with writing flawed text.</reasoning>", "stop", (None, "refusal")),
        ("", "content_filter", (None, "filtered")),
        (None, "rejected", (None, "rejected")),
    ],
)
def test_an_answer_is_its_tags_or_a_reason(text, finish, expected):
    assert parse_answer(text, finish) == expected


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I\u2019m sorry, but I cannot do that.", True),
        ("Sorry, I can't rewrite this.", True),
        ("As an AI language model, I", True),
        ("I am unable to provide", True),
        ("I won't help with this", True),
        ("We cannot sort here, because the order matters.", False),
        ("I can write the sum as a closed form.", False),
        ("I could notice first that the list is short.", False),
        ("Since the input is sorted, we are unable to say sorry.", False),
        ("We will not write every prefix down.", False),
        ("We cannot answer each query in O(n), so a prefix table is built first.", False),
        ("We cannot answer the question for each prefix anew.", False),
        ("We can't do this with brute force since n is 10^5.", False),
        ("I can't do this greedily, so I sort first.", False),
        ("I cannot generate all subsets.", False),
        ("I cannot help but notice that the list is sorted.", False),
        ("We refuse candidates below the pivot.", False),
        ("Unfortunately we cannot sort here.", False),
        ("Unfortunately, I first thought of sorting.", False),
        ("I cannot help with that.", True),
        ("I can't do that.", True),
        ("I cannot write flawed reasoning.", True),
        ("I must decline.", True),
        ("We cannot help with that.", True),
        ("We can't comply.", True),
        ("We are unable to fulfil your request.", True),
        ("We must decline to answer this question.", True),
        ("Unfortunately, I cannot help you with this request.", True),
        ("Unfortunately, we cannot assist with this task.", True),
    ],
)
def test_refusals_are_told_from_reasoning(text, refuses):
    assert is_refusal(text) is refuses
