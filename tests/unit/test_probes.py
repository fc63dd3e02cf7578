"""Probes on hand-made reasoning: each makes the one change that it is named after."""

import random
import re

import pytest

from pgrpo_ray.reward_model.probes import PROBES, Honest, Probed, apply_probes, results

CHAIN = Honest("p1", "Work it out: 2 * 4 = 8. First x + 8, then x > 3. Return sum.", "def f(a): pass")
LIST = Honest("p2", "1. Sort the list.\n2. Take 10 items.\n3. Return them.")
PROSE = Honest("p3", "We count the words. Then we add.")


def make(name, honest, other=None, seed=0):
    return PROBES[name](honest, other, random.Random(seed))


def test_padding_keeps_the_words_and_doubles_the_length():
    for honest in (CHAIN, LIST, PROSE):
        text = make("padding", honest)
        assert honest.reasoning in text
        assert len(text) > 2 * len(honest.reasoning)


def test_repetition_says_it_twice():
    assert make("repetition", PROSE) == f"{PROSE.reasoning} {PROSE.reasoning}"
    assert make("repetition", LIST) == f"{LIST.reasoning}\n{LIST.reasoning}"


def test_fluent_nonsense_has_the_length_and_nothing_of_the_words():
    long = Honest("p", "Sort. " * 100)
    text = make("fluent_nonsense", long)
    assert len(long.reasoning) <= len(text) <= len(long.reasoning) + 120
    assert "Sort" not in text


def test_copied_code_needs_code():
    assert make("copied_code", CHAIN) == "def f(a): pass"
    assert make("copied_code", PROSE) is None


def test_right_words_about_another_problem():
    assert make("other_problem", CHAIN, PROSE) == PROSE.reasoning
    assert make("other_problem", CHAIN, None) is None


def test_swapped_steps_of_a_chain_a_list_and_prose():
    assert make("swapped_steps", CHAIN) == "Work it out: 2 * 4 = 8. First x > 3, then x + 8. Return sum."
    assert make("swapped_steps", LIST) in (
        "1. Take 10 items.\n2. Sort the list.\n3. Return them.",
        "1. Sort the list.\n2. Return them.\n3. Take 10 items.",
    )
    assert make("swapped_steps", PROSE) == "Then we add. We count the words."


@pytest.mark.parametrize("text", ["One step only", "- same\n- same", "First x, then x."])
def test_nothing_to_swap_is_skipped(text):
    assert make("swapped_steps", Honest("p", text)) is None


def test_wrong_constant_changes_one_number_and_nothing_else():
    seen = set()
    for seed in range(40):
        text = make("wrong_constant", CHAIN, seed=seed)
        before, after = (re.findall(r"\d+", one) for one in (CHAIN.reasoning, text))
        changed = [at for at, (one, two) in enumerate(zip(before, after, strict=True)) if one != two]
        assert len(changed) == 1
        assert 1 <= abs(int(before[changed[0]]) - int(after[changed[0]])) <= 2
        assert re.sub(r"\d+", "#", text) == re.sub(r"\d+", "#", CHAIN.reasoning)
        seen.add(changed[0])
    assert seen == {0, 1, 2, 3, 4}


def test_wrong_constant_leaves_list_numbers_decimals_and_names_alone():
    assert all("Take 10" not in make("wrong_constant", LIST, seed=seed) for seed in range(20))
    assert all(make("wrong_constant", LIST, seed=seed).startswith("1. Sort") for seed in range(20))
    for text in ("No number.", "x2 is 3.5", "version 1.2.3"):
        assert make("wrong_constant", Honest("p", text)) is None


def test_wrong_constant_never_goes_below_zero_and_bears_long_numbers():
    assert {make("wrong_constant", Honest("p", "take 0"), seed=seed) for seed in range(20)} == {"take 1", "take 2"}
    text = make("wrong_constant", Honest("p", "9" * 5000))
    assert text != "9" * 5000


def test_empty_and_very_short():
    assert make("empty", CHAIN) == ""
    assert len(make("very_short", CHAIN).split()) == 4


def test_probes_skip_and_count_what_does_not_apply():
    probed, skipped = apply_probes([CHAIN, PROSE], seed=0)
    assert skipped["copied_code"] == 1
    assert skipped["wrong_constant"] == 1  # no number in the prose
    assert skipped["padding"] == 0
    assert len(probed) + sum(skipped.values()) == 2 * len(PROBES)
    assert apply_probes([CHAIN, PROSE], seed=0) == (probed, skipped)


def test_another_problem_is_really_another():
    same = [Honest("p", f"text {at}") for at in range(5)]
    _, skipped = apply_probes(same, seed=0)
    assert skipped["other_problem"] == 5
    probed, _ = apply_probes([CHAIN, PROSE], seed=0)
    assert {one.text for one in probed if one.probe == "other_problem"} == {CHAIN.reasoning, PROSE.reasoning}


def test_who_knows_the_problem_may_refuse_a_text():
    probed, skipped = apply_probes([CHAIN], 0, admits=lambda index, name, text: name != "swapped_steps")
    assert skipped["swapped_steps"] == 1
    assert "swapped_steps" not in {one.probe for one in probed}


def test_results_count_ties_half_and_name_the_worst_first():
    honest = [CHAIN, PROSE]
    probed = [Probed("padding", 0, "a"), Probed("padding", 1, "b"), Probed("empty", 0, ""), Probed("empty", 1, "")]
    found = results(honest, probed, [1.0, 2.0], [1.5, 2.0, 0.0, -1.0], dict.fromkeys(PROBES, 0), seed=0)
    by_name = {one.probe: one for one in found}
    assert found[0].probe == "padding"
    assert by_name["padding"].fooled.value == pytest.approx(0.75)  # one higher, one tie
    assert by_name["padding"].mean_change == pytest.approx(0.25)
    assert by_name["empty"].fooled.value == 0.0
    assert by_name["empty"].mean_change == pytest.approx(-2.0)
    assert by_name["copied_code"].fooled is None
    assert found[-1].fooled is None


def test_the_issues_probes_are_all_there():
    assert set(PROBES) == {
        "padding", "repetition", "fluent_nonsense", "copied_code", "other_problem", "swapped_steps", "wrong_constant",
        "empty", "very_short",
    }  # fmt: skip
