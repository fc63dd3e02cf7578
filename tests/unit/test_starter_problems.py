"""The starter's problems: deterministic, disjoint, solvable; its demonstrations tell the truth when careful."""

import json
import random
from collections import Counter

import pytest

from pgrpo_ray.data.response import parse
from pgrpo_ray.starter.demonstrations import (
    MODES,
    Plan,
    demonstrate,
    draw_mode,
    mistaken_plan,
    mistakes,
    program,
    reasoning,
)
from pgrpo_ray.starter.pairs import make_pairs
from pgrpo_ray.starter.problems import generate, generate_apart, read_jsonl, run_pipeline, write_jsonl

HELDOUT = generate(3, 64)
TRAIN = generate_apart(3, 400, HELDOUT, "train")


def passes(source, exercise):
    """Run our own generated program on every case."""
    namespace = {}
    exec(source, namespace)
    try:
        return all(namespace["f"](list(argument)) == expected for argument, expected in exercise.cases)
    except ValueError:  # the largest of an empty list
        return False


def test_everything_follows_from_the_seed():
    assert generate(3, 64) == HELDOUT
    assert generate(3, 10) == HELDOUT[:10]
    assert generate_apart(3, 400, HELDOUT, "train") == TRAIN
    assert generate(4, 64) != HELDOUT
    assert generate_apart(3, 400, HELDOUT, "warmup") != TRAIN


def test_held_out_is_disjoint_in_english_and_in_pipeline():
    assert not {one.prompt for one in HELDOUT} & {one.prompt for one in TRAIN}
    assert not {one.key for one in HELDOUT} & {one.key for one in TRAIN}
    assert len({one.prompt for one in HELDOUT}) == len({one.key for one in HELDOUT}) == len(HELDOUT)


def test_every_problem_can_tell_right_from_wrong():
    for exercise in HELDOUT + TRAIN:
        expected = [value for _, value in exercise.cases]
        assert len(exercise.cases) >= 6
        assert any(value != expected[0] for value in expected)
        assert exercise.solved_by(exercise.steps, exercise.reduction)
        assert not exercise.solved_by(exercise.steps[:1], exercise.reduction)
        assert not exercise.solved_by(exercise.steps[1:], exercise.reduction)


def test_asking_for_more_than_the_family_holds_is_refused(monkeypatch):
    monkeypatch.setattr("pgrpo_ray.starter.problems._draw", lambda rng: HELDOUT[0])
    with pytest.raises(ValueError, match="2 different list pipelines"):
        generate(0, 2)
    with pytest.raises(ValueError, match="apart"):
        generate_apart(0, 2, HELDOUT, "train")


def test_the_file_has_the_projects_format_and_can_be_read_back(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", HELDOUT, "heldout")
    assert read_jsonl(tmp_path / "p.jsonl") == HELDOUT
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert first["id"] == "heldout-00000"
    assert first["tests"]["style"] == "call" and first["tests"]["entry_point"] == "f"
    assert first["tests"]["cases"][0]["args"] == [HELDOUT[0].cases[0][0]]


def test_the_largest_of_nothing_is_an_error_not_a_value():
    above_all = [step for one in TRAIN for step in one.steps if step.operation == "above"][:1]
    assert run_pipeline(above_all, "max", [-5]) == "error"


@pytest.mark.parametrize("mode", MODES)
def test_every_demonstration_keeps_the_response_format(mode):
    rng = random.Random(0)
    for exercise in TRAIN[:50]:
        parsed = parse(demonstrate(exercise, mode, rng))
        assert parsed.format_ok
        assert parsed.program.startswith("def f(a):")


def test_careful_demonstrations_pass_their_problems_and_others_fail_at_their_rate():
    rng = random.Random(1)
    for mode, spec in MODES.items():
        verdicts = [passes(parse(demonstrate(one, mode, rng)).program, one) for one in TRAIN]
        assert abs(sum(verdicts) / len(verdicts) - (1 - spec.mistaken_frac)) < 0.09
        if mode == "careful":
            assert all(verdicts)


def test_a_mistaken_plan_really_fails_as_a_program():
    rng = random.Random(2)
    for exercise in TRAIN[:100]:
        plan = mistaken_plan(exercise, rng)
        assert plan is None or not passes(program(plan), exercise)


def test_modes_are_drawn_by_their_shares():
    rng = random.Random(0)
    drawn = Counter(draw_mode(rng) for _ in range(4000))
    for mode, spec in MODES.items():
        assert abs(drawn[mode] / 4000 - spec.share) < 0.03


def test_careful_reasoning_works_constants_out_before_the_steps():
    exercise = next(one for one in TRAIN if one.steps[0].working)
    step = exercise.steps[0]
    text = reasoning(Plan(exercise.steps, exercise.reduction), "careful", random.Random(0))
    assert text.index(f"{step.working} = {step.constant}.") < text.index("First ")


def test_mistakes_name_their_kind():
    kinds = {kind for one in TRAIN for kind, _ in mistakes(one, random.Random(0))}
    assert kinds == {"order", "dropped", "constant", "operation"}


def test_pairs_follow_from_the_seed_and_never_compare_equal_texts():
    pairs = make_pairs(TRAIN, 500, 0)
    assert pairs == make_pairs(TRAIN, 500, 0)
    assert all(pair.better != pair.worse for pair in pairs)
    longer_wins = [len(pair.better) > len(pair.worse) for pair in pairs if len(pair.better) != len(pair.worse)]
    assert 0.2 < sum(longer_wins) / len(pairs) < 0.7  # length alone must not decide
    assert {"wrong_constant", "wrong_order", "dropped_step", "redundant", "vague"} <= {pair.kind for pair in pairs}
