"""Preference pairs from the starter's own exercises: good reasoning against reasoning with one planted flaw.

A stand-in for the paper's Optimized-Degraded pairs along the same three dimensions: factual accuracy (a wrong constant
or operation), logical rigour (a step dropped, the order turned round, nothing worked out) and coherence (a redundant
step, words without content). Most flaws keep the length, and a flawed text is as often the longer as the shorter one,
so that neither length nor style wins alone. Light: standard library only.
"""

import random
from collections.abc import Sequence

from pgrpo_ray.starter.demonstrations import Plan, mistakes, reasoning
from pgrpo_ray.starter.problems import Exercise, Step
from pgrpo_ray.types import PreferencePair

_FLAWS = {
    "constant": "wrong_constant",
    "operation": "wrong_operation",
    "order": "wrong_order",
    "dropped": "dropped_step",
}
_PLANTED_FRAC = 0.65
"""Share of pairs whose worse side has a mistake in an otherwise equal text: the kinds that are hard to learn."""
_ORDER_FRAC = 0.35
"""Share of planted mistakes that swap the steps, where that matters: the slowest kind to learn, so it is shown most."""


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


def _planted(exercise: Exercise, rng: random.Random) -> PreferencePair | None:
    """Pair right reasoning with the same text after one mistake; now and then the mistaken text is the careful one."""
    found = [
        (kind, plan) for kind, plan in mistakes(exercise, rng) if not exercise.solved_by(plan.steps, plan.reduction)
    ]
    if not found:
        return None
    swapped = [one for one in found if one[0] == "order"]
    kind, plan = swapped[0] if swapped and rng.random() < _ORDER_FRAC else rng.choice(found)
    mode = "careful" if rng.random() < 0.7 else "plain"
    right = Plan(exercise.steps, exercise.reduction)
    if mode == "plain" and rng.random() < 0.5:
        return _pair(exercise, reasoning(right, "plain", rng), reasoning(plan, "careful", rng), "careful_but_wrong")
    return _pair(exercise, reasoning(right, mode, rng), reasoning(plan, mode, rng), _FLAWS[kind])


def _stylistic(exercise: Exercise, rng: random.Random) -> PreferencePair | None:
    """Pair right reasoning with reasoning that is vaguer, unworked or padded."""
    right = Plan(exercise.steps, exercise.reduction)
    careful = reasoning(right, "careful", rng)
    kind = rng.choice(("unworked", "names_only", "vague", "redundant"))
    if kind == "unworked":
        return _pair(exercise, careful, reasoning(right, "plain", rng), kind)
    if kind == "names_only":
        return _pair(exercise, careful, reasoning(right, "hasty", rng), kind)
    if kind == "vague":
        better = rng.choice((careful, reasoning(right, "plain", rng), reasoning(right, "hasty", rng)))
        return _pair(exercise, better, reasoning(right, "vague", rng), kind)
    return _pair(
        exercise, careful, reasoning(Plan(_padded(exercise.steps, rng), exercise.reduction), "careful", rng), kind
    )


def _padded(steps: tuple[Step, ...], rng: random.Random) -> tuple[Step, ...]:
    """Say one step twice: redundant, whatever it does."""
    at = rng.randrange(len(steps))
    return (*steps[: at + 1], *steps[at:])


def _pair(exercise: Exercise, better: str, worse: str, kind: str) -> PreferencePair | None:
    """Return the pair; None when both sides came out as the same text."""
    return None if better == worse else PreferencePair(exercise.prompt, better, worse, kind)
