"""Preference pairs from the starter's own exercises: good reasoning against reasoning with one planted flaw.

A stand-in for the paper's Optimized-Degraded pairs along the same three dimensions: factual accuracy (a wrong constant
or operation), logical rigour (a step dropped or made up, the order turned round, nothing worked out) and coherence (a
redundant step, words without content). Light: standard library only.

Invariants: a planted mistake fails the exercise's cases; every surface sign that a flaw leaves on the worse side (fewer
steps, more steps, another style, another number) stands about as often on the better side of other pairs, so that
neither length nor a bag of words orders more than 60 % of them. Only `vague` is told by its words.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pgrpo_ray.starter.demonstrations import Plan, mistakes, reasoning
from pgrpo_ray.starter.problems import OPERATIONS, Exercise, Step
from pgrpo_ray.types import PreferencePair

_PLANTED_FRAC = 0.65
"""Share of pairs whose worse side has a mistake: the kinds that are hard to learn."""
_CARELESS_FRAC = 0.27
"""Share of planted mistakes written in the careful style, against right reasoning in a lesser one: as many as the
`unworked` and `names_only` pairs, in which the careful style wins."""
MISTAKES = {"order": 0.45, "constant": 0.24, "operation": 0.20, "dropped": 0.20, "added": 0.08}
"""How often each mistake is planted where it can be. Dropped steps are as many as added and redundant ones."""
_STYLES = {"unworked": 0.28, "names_only": 0.22, "vague": 0.27, "redundant": 0.23}
_FLAWS = {
    "constant": "wrong_constant",
    "operation": "wrong_operation",
    "order": "wrong_order",
    "dropped": "dropped_step",
    "added": "added_step",
}


def make_pairs(exercises: Sequence[Exercise], count: int, seed: int) -> list[PreferencePair]:
    """Return `count` pairs, going over the exercises as often as needed; all follows from the seed."""
    rng = random.Random(f"pairs/{seed}")
    pairs: list[PreferencePair] = []
    turn = 0
    while len(pairs) < count:
        exercise = exercises[turn % len(exercises)]
        turn += 1
        pair = _planted(exercise, rng) if rng.random() < _PLANTED_FRAC else _stylistic(exercise, rng)
        if pair is not None:
            pairs.append(pair)
    return pairs


def plant(exercise: Exercise, rng: random.Random, mix: Mapping[str, float] = MISTAKES) -> tuple[str, Plan] | None:
    """Return a mistake and the plan that has it, which fails the cases; None when no mistake applies.

    `mix`: how often each kind is planted where it can be, relative to the others.
    """
    found: dict[str, list[Plan]] = {}
    others = [one for one in mistakes(exercise, rng) if one[0] != "constant"]
    for kind, plan in [*others, *_wrong_constants(exercise, rng), *_added(exercise, rng)]:
        if not exercise.solved_by(plan.steps, plan.reduction):
            found.setdefault(kind, []).append(plan)
    if not found:
        return None
    kind = rng.choices(list(found), [mix[kind] for kind in found])[0]
    return kind, rng.choice(found[kind])


def _planted(exercise: Exercise, rng: random.Random) -> PreferencePair | None:
    """Pair right reasoning with a mistaken text, mostly the same text otherwise, now and then a more careful one."""
    planted = plant(exercise, rng)
    if planted is None:
        return None
    kind, plan = planted
    right = Plan(exercise.steps, exercise.reduction)
    if rng.random() < _CARELESS_FRAC:
        lesser = rng.choices(("plain", "hasty"), (_STYLES["unworked"], _STYLES["names_only"]))[0]
        return _pair(exercise, reasoning(right, lesser, rng), reasoning(plan, "careful", rng), "careful_but_wrong")
    mode = draw_mode(rng)
    return _pair(exercise, reasoning(right, mode, rng), reasoning(plan, mode, rng), _FLAWS[kind])


def _stylistic(exercise: Exercise, rng: random.Random) -> PreferencePair | None:
    """Pair right reasoning with reasoning that is vaguer, unworked or padded."""
    right = Plan(exercise.steps, exercise.reduction)
    careful = reasoning(right, "careful", rng)
    kind = rng.choices(list(_STYLES), list(_STYLES.values()))[0]
    if kind == "unworked":
        return _pair(exercise, careful, reasoning(right, "plain", rng), kind)
    if kind == "names_only":
        return _pair(exercise, careful, reasoning(right, "hasty", rng), kind)
    if kind == "vague":
        better = rng.choice((careful, reasoning(right, "plain", rng), reasoning(right, "hasty", rng)))
        return _pair(exercise, better, reasoning(right, "vague", rng), kind)
    at = rng.randrange(len(exercise.steps))
    padded = (*exercise.steps[: at + 1], *exercise.steps[at:])
    mode = draw_mode(rng)
    return _pair(exercise, reasoning(right, mode, rng), reasoning(Plan(padded, exercise.reduction), mode, rng), kind)


def draw_mode(rng: random.Random) -> str:
    """Draw the style that both sides of a pair share."""
    return "careful" if rng.random() < 0.6 else "plain"


def _wrong_constants(exercise: Exercise, rng: random.Random) -> list[tuple[str, Plan]]:
    """Return plans with one constant misread, miscalculated or not worked out, or with two constants exchanged.

    Wrong numbers are drawn from where right ones come from, so that no number tells on itself.
    """
    steps = exercise.steps
    plans = []
    for at, step in enumerate(steps):
        if step.working:
            slip = step.constant + rng.choice((-2, -1, 1, 2))
            wrong = step.hasty if rng.random() < 0.25 else slip
        elif step.constant:
            wrong = rng.choice([one for one in OPERATIONS[step.operation].constants if one != step.constant])
        else:
            continue
        plans.append((*steps[:at], replace(step, constant=wrong), *steps[at + 1 :]))
    if len(steps) == 2 and steps[0].constant and steps[1].constant:
        first, second = steps
        plans.append((replace(second, operation=first.operation), replace(first, operation=second.operation)))
    return [("constant", Plan(plan, exercise.reduction)) for plan in plans]


def _added(exercise: Exercise, rng: random.Random) -> list[tuple[str, Plan]]:
    """Return one plan with a step that nobody asked for, anywhere among the others."""
    name = rng.choice([name for name in OPERATIONS if all(step.operation != name for step in exercise.steps)])
    constants = OPERATIONS[name].constants
    step = Step(name, rng.choice(constants) if constants else 0)
    at = rng.randrange(len(exercise.steps) + 1)
    return [("added", Plan((*exercise.steps[:at], step, *exercise.steps[at:]), exercise.reduction))]


def _pair(exercise: Exercise, better: str, worse: str, kind: str) -> PreferencePair | None:
    """Return the pair; None when both sides came out as the same text."""
    return None if better == worse else PreferencePair(exercise.prompt, better, worse, kind)
