"""The starter's judge against reasoning whose flaw is known."""

import random

import pytest

from pgrpo_ray.starter.demonstrations import Plan, mistakes, reasoning
from pgrpo_ray.starter.judge import examine
from pgrpo_ray.starter.problems import Exercise, Step, generate, run_pipeline


def exercise(*steps, reduction="sum"):
    arguments = ([1, 5, 9, 12], [3, 3, 10], [20, -4, 7])
    cases = tuple((argument, run_pipeline(steps, reduction, argument)) for argument in arguments)
    return Exercise("words", steps, reduction, False, cases)


DOUBLE_THEN_KEEP = exercise(Step("add", 8, "2 * 4", 4), Step("above", 12, "", 12))
COMMUTING = exercise(Step("above", 2, "", 2), Step("even"))


@pytest.mark.parametrize(
    ("text", "sound", "stated", "true"),
    [
        ("Work it out: 2 * 4 = 8. First x + 8, then x > 12. Return sum.", True, 4, 4),
        ("Work it out: First x + 8, then x > 12. Return sum.", True, 3, 3),
        ("Steps: x + 8, x > 12, sum.", True, 3, 3),
        ("  Steps: x + 8, x > 12, sum.\n", True, 3, 3),
        ("Work it out: 2 * 4 = 9. First x + 8, then x > 12. Return sum.", False, 4, 3),
        ("Work it out: 1 + 7 = 8. First x + 8, then x > 12. Return sum.", False, 4, 3),  # true, but not of this problem
        ("Work it out: 2 * 4 = 8. First x > 12, then x + 8. Return sum.", False, 4, 4),  # the order matters here
        ("Steps: x + 4, x > 12, sum.", False, 3, 2),
        ("Steps: x + 8, x > 12, len.", False, 3, 2),
        ("Steps: x + 8, sum.", False, 2, 2),
        ("Steps: x + 8, x > 12, x > 12, sum.", False, 4, 3),  # said twice
        ("Easy: add and above.", False, 2, 2),  # says no constants
        ("Easy: add and below.", False, 2, 1),
        ("Go through the list and do what is asked.", False, 0, 0),
        ("", False, 0, 0),
        ("Steps: x + 8, x > 12, sum. And so on.", False, 0, 0),  # not a way in which the starter speaks
    ],
)
def test_reasoning_about_a_known_exercise(text, sound, stated, true):
    found = examine(DOUBLE_THEN_KEEP, text)
    assert (found.sound, found.stated, found.true) == (sound, stated, true)
    assert str(found).startswith("sound" if sound else "flawed")


def test_steps_that_may_change_places_may_be_said_in_either_order():
    for steps in ("x > 2, x % 2 == 0", "x % 2 == 0, x > 2"):
        assert examine(COMMUTING, f"Steps: {steps}, sum.").sound


def test_it_agrees_with_how_the_starter_demonstrates_and_errs():
    rng = random.Random(0)
    for one in generate(3, 60):
        right = Plan(one.steps, one.reduction)
        assert examine(one, reasoning(right, "careful", rng)).sound
        assert examine(one, reasoning(right, "plain", rng)).sound
        assert not examine(one, reasoning(right, "vague", rng)).sound
        for _, plan in mistakes(one, rng):
            if not one.solved_by(plan.steps, plan.reduction):
                assert not examine(one, reasoning(plan, "careful", rng)).sound
