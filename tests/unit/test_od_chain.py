"""What decides a request decides its key, and nothing else does."""

from dataclasses import replace

from pgrpo_ray.reward_model.od.chain import Call, Recipe, pairs_of, rewrites
from pgrpo_ray.reward_model.od.prompts import load_prompts
from pgrpo_ray.types import Problem, StdinCase, TestStyle

PROBLEM = Problem("a", "Sort the list.", TestStyle.STDIN, (StdinCase("", ""),))
RECIPE = Recipe(load_prompts("v1"), "gen", "each", 0.7, 100, 0)
CALL = Call(PROBLEM, "degrade", "logical_rigour", "First this.")


def test_everything_that_decides_the_answer_is_in_the_key():
    others = [
        (replace(CALL, problem=replace(PROBLEM, prompt="Reverse the list.")), RECIPE),
        (replace(CALL, stage="optimise"), RECIPE),
        (replace(CALL, dimension="factual_accuracy"), RECIPE),
        (replace(CALL, source="First that."), RECIPE),
        (CALL, replace(RECIPE, prompts=replace(RECIPE.prompts, hash="0" * 32))),
        (CALL, replace(RECIPE, generator="other")),
        (CALL, replace(RECIPE, temperature=0.0)),
        (CALL, replace(RECIPE, max_tokens=101)),
        (CALL, replace(RECIPE, seed=1)),
    ]
    keys = [call.key(recipe) for call, recipe in [(CALL, RECIPE), *others]]
    assert len(set(keys)) == 10
    same = replace(CALL, problem=replace(PROBLEM, id="b", prompt="Sort  the\nlist."))
    assert same.key(RECIPE) == CALL.key(RECIPE)


def test_a_request_carries_what_the_recipe_says():
    request = CALL.request(RECIPE)
    assert request.id == CALL.key(RECIPE)
    assert (request.temperature, request.max_tokens) == (0.7, 100)
    assert 0 <= request.seed < 2**31
    assert request.system == RECIPE.prompts.system
    assert "Sort the list." in request.prompt and "First this." in request.prompt


def test_a_problem_is_asked_about_seven_or_three_times():
    for dimensions, calls in (("each", 7), ("all", 3)):
        recipe = replace(RECIPE, dimensions=dimensions)
        assert 1 + len(rewrites(PROBLEM, "First this.", recipe)) == recipe.calls_per_problem == calls


def test_a_missing_version_takes_its_pairs_and_no_others():
    versions = {("optimise", "logical_rigour"): "better", ("degrade", "factual_accuracy"): "worse"}
    pairs = [
        (row["dimension"], row["kind"], row["better"], row["worse"])
        for row in pairs_of(PROBLEM, "original", versions, RECIPE)
    ]
    assert pairs == [
        ("factual_accuracy", "original_over_degraded", "original", "worse"),
        ("logical_rigour", "optimised_over_original", "better", "original"),
    ]
