"""The starter's word problems: all follows from the seed, splits are apart, reasoning is what it says, mistakes too."""

import random
import re

import pytest

from pgrpo_ray.config import StarterSection
from pgrpo_ray.data.own_format import problem_from_json
from pgrpo_ray.data.response import parse
from pgrpo_ray.starter import artifacts
from pgrpo_ray.starter.maths.demonstrations import MODES, Plan, demonstrate, mistakes, reasoning, right_plan
from pgrpo_ray.starter.maths.pairs import make_pairs, make_texts
from pgrpo_ray.starter.maths.problems import LARGEST, Exercise, Step, generate, generate_apart, tally
from pgrpo_ray.types import AnswerCase, TestStyle

EXERCISES = generate(3, 400)
FACT = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)\.")


def holds(fact):
    """Whether one stated fact is true, by Python's own arithmetic."""
    left, sign, right, said = int(fact[0]), fact[1], int(fact[2]), int(fact[3])
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / max(1, right)}[sign] == said


def test_a_problem_by_hand():
    steps = (Step("gain", 8, "2 * 4", 4), Step("halve", 2, "", 2), Step("lose", 3, "", 3))
    exercise = Exercise("Ann has 12 shells. ...", 12, steps, False)
    assert tally(12, steps) == [20, 10, 7]
    assert exercise.answer == 7
    said = reasoning(right_plan(exercise), "careful", random.Random(0))
    assert said == "Work it out: 2 * 4 = 8. 12 + 8 = 20. 20 / 2 = 10. 10 - 3 = 7."
    assert tally(13, steps) is None, "a half of 21 is no whole number"
    assert tally(60, steps) is None, "too large"
    assert Plan(12, steps, slip_at=0, slip=2).tallies == [22, 11, 8]


def test_everything_follows_from_the_seed():
    assert generate(3, 50) == EXERCISES[:50]
    assert generate(4, 50) != EXERCISES[:50]
    assert generate_apart(3, 20, EXERCISES, "a") != generate_apart(3, 20, EXERCISES, "b")


def test_splits_share_neither_english_nor_numbers():
    apart = generate_apart(3, 2000, EXERCISES, "train")
    assert not {one.key for one in apart} & {one.key for one in EXERCISES}
    assert not {one.prompt for one in apart} & {one.prompt for one in EXERCISES}
    assert len({one.key for one in EXERCISES}) == len(EXERCISES)


def test_numbers_stay_small_and_the_order_matters_where_it_is_turned():
    for exercise in EXERCISES:
        assert all(0 <= number <= LARGEST for number in tally(exercise.start, exercise.steps))
        if exercise.reversed_order:
            first, second, *rest = exercise.steps
            as_said = tally(exercise.start, (second, first, *rest))
            assert as_said is None or as_said[-1] != exercise.answer
    assert 0.2 < sum(one.reversed_order for one in EXERCISES) / len(EXERCISES) < 0.6


def test_problems_are_of_style_answer_and_do_not_show_it():
    for number, exercise in enumerate(EXERCISES):
        record = exercise.to_json(f"p-{number}")
        problem = problem_from_json(record)
        assert (problem.style, problem.cases) == (TestStyle.ANSWER, (AnswerCase(str(exercise.answer)),))
        assert problem.prompt == exercise.prompt
        assert Exercise.from_json(record) == exercise


def test_careful_demonstrations_are_right_and_all_their_facts_true():
    rng = random.Random(0)
    for exercise in EXERCISES:
        response = parse(demonstrate(exercise, "careful", rng))
        assert response.format_ok
        assert response.program == str(exercise.answer)
        facts = FACT.findall(response.thinking)
        assert len(facts) >= 3
        assert all(map(holds, facts))
        assert facts[-1][3] == response.program


def test_lesser_habits_are_wrong_as_often_as_they_say_and_work_nothing_out():
    rng = random.Random(0)
    for mode in ("plain", "hasty", "vague"):
        responses = [parse(demonstrate(exercise, mode, rng)) for exercise in EXERCISES]
        wrong = [r.program != str(e.answer) for r, e in zip(responses, EXERCISES, strict=True)]
        assert abs(sum(wrong) / len(wrong) - MODES[mode].mistaken_frac) < 0.1
        assert not any(FACT.search(response.thinking) for response in responses)
    assert sum(mode.share for mode in MODES.values()) == pytest.approx(1)


def test_mistakes_have_another_answer_and_only_a_slip_is_false_arithmetic():
    rng = random.Random(0)
    kinds = set()
    for exercise in EXERCISES:
        for kind, plan in mistakes(exercise, rng):
            kinds.add(kind)
            assert plan.tallies[-1] != exercise.answer
            false = [fact for fact in FACT.findall(reasoning(plan, "careful", rng)) if not holds(fact)]
            wrong_working = kind == "number"  # a number that was misreckoned on the way to a step
            assert len(false) == (1 if kind == "slip" else 0) or wrong_working
    assert kinds == {"order", "dropped", "slip", "number", "operation"}


def test_pairs_are_better_on_one_side_and_length_tells_little():
    pairs = make_pairs(EXERCISES, 2000, 0)
    assert make_pairs(EXERCISES, 2000, 0) == pairs
    assert all(pair.better != pair.worse for pair in pairs)
    longer = sum(len(pair.better) > len(pair.worse) for pair in pairs) / len(pairs)
    shorter = sum(len(pair.better) < len(pair.worse) for pair in pairs) / len(pairs)
    assert longer < 0.55 and shorter < 0.55
    kinds = {pair.kind for pair in pairs}
    assert {"wrong_sum", "wrong_order", "careful_but_wrong", "unworked", "vague", "redundant"} <= kinds
    for pair in pairs:
        if pair.kind != "careful_but_wrong":
            assert all(map(holds, FACT.findall(pair.better)))


def test_texts_to_proofread_differ():
    texts = make_texts(EXERCISES, 300, 0)
    assert len(texts) == 300
    assert all(right != wrong and all(map(holds, FACT.findall(right))) for _, right, wrong in texts)


def test_each_family_has_a_key_of_its_own_sources(monkeypatch):
    section = StarterSection(family="maths")
    assert artifacts.content_key(section) == artifacts.content_key(section.model_copy(update={"threads": 7}))
    assert artifacts.content_key(section) != artifacts.content_key(section.model_copy(update={"seed": 7}))
    assert not any("maths" in pattern for pattern in artifacts.FAMILIES["code"].sources)
    assert artifacts.content_key(section) != artifacts.content_key(StarterSection())
    before = artifacts.content_key(section)
    monkeypatch.setattr(artifacts, "_LIBRARIES", ("torch",))  # as another version of the code
    assert artifacts.content_key(section) != before
