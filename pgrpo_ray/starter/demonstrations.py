"""What the warm start imitates: reasoning and programs of four habits, good and bad.

A real base model is capable but unreliable: sometimes it works a problem out, often it guesses. The four modes mirror
that on purpose, and the first words of the reasoning give the mode away, so that reinforcement can shift the habit.
Owns the text of responses and the planted mistakes. Light: standard library only.

Invariants: a careful demonstration is always right; a mistaken program really fails its problem's cases; the text is
exactly `<think>...</think>`, a newline, `<answer>...</answer>`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pgrpo_ray.starter.problems import OPERATIONS, REDUCTIONS, Exercise, Step


@dataclass(frozen=True, slots=True)
class Mode:
    """One habit of reasoning."""

    share: float
    """Of all demonstrations."""
    mistaken_frac: float
    """Share of its demonstrations whose program is wrong."""


MODES: dict[str, Mode] = {
    "careful": Mode(0.30, 0.0),
    "plain": Mode(0.25, 0.5),
    "hasty": Mode(0.25, 0.7),
    "vague": Mode(0.20, 0.8),
}
"""Ours: chosen so that the warm start passes about 40 % when sampled, though its careful mode passes most."""

_VAGUE = (
    "Go through the list and do what is asked.",
    "This looks easy, just write the code.",
    "Do it with a loop and return the value.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline as someone understood it, rightly or not."""

    steps: tuple[Step, ...]
    reduction: str


def demonstrate(exercise: Exercise, mode: str, rng: random.Random) -> str:
    """Return the response text of one demonstration in `mode`."""
    plan = Plan(exercise.steps, exercise.reduction)
    if rng.random() < MODES[mode].mistaken_frac:
        plan = mistaken_plan(exercise, rng) or plan
    return respond(reasoning(plan, mode, rng), program(plan))


def respond(thinking: str, source: str) -> str:
    """Put reasoning and program into the response format."""
    return f"<think>{thinking}</think>\n<answer>\n{source}</answer>"


def draw_mode(rng: random.Random) -> str:
    """Draw a mode by its share."""
    return rng.choices(list(MODES), [mode.share for mode in MODES.values()])[0]


def program(plan: Plan) -> str:
    """Write the plan as Python source."""
    lines = [f"    a = {OPERATIONS[step.operation].code.format(k=step.constant)}" for step in plan.steps]
    return "\n".join(["def f(a):", *lines, f"    return {REDUCTIONS[plan.reduction].code}\n"])


def reasoning(plan: Plan, mode: str, rng: random.Random) -> str:
    """Write the reasoning of `mode` about a plan; only careful reasoning works the constants out."""
    said = [OPERATIONS[step.operation].expression.format(k=step.constant) for step in plan.steps]
    result = REDUCTIONS[plan.reduction].expression
    if mode == "careful":
        workings = [f"{step.working} = {step.constant}. " for step in plan.steps if step.working]
        ordered = ", then ".join(said)
        return f"Work it out: {''.join(workings)}First {ordered}. Return {result}."
    if mode == "plain":
        return f"Steps: {', '.join(said)}, {result}."
    if mode == "hasty":
        return f"Easy: {' and '.join(step.operation for step in plan.steps)}."
    return rng.choice(_VAGUE)


def mistaken_plan(exercise: Exercise, rng: random.Random) -> Plan | None:
    """Return a plan with one realistic mistake that fails the cases; None when every mistake happens to pass."""
    candidates = [plan for _, plan in mistakes(exercise, rng)]
    rng.shuffle(candidates)
    for plan in candidates:
        if not exercise.solved_by(plan.steps, plan.reduction):
            return plan
    return None


def mistakes(exercise: Exercise, rng: random.Random) -> list[tuple[str, Plan]]:
    """Return (kind, plan) for every mistake that applies: `constant`, `order`, `dropped`, `operation`."""
    steps, reduction = exercise.steps, exercise.reduction
    found = [("order", Plan(steps[::-1], reduction))]
    found += [("dropped", Plan(steps[:at] + steps[at + 1 :], reduction)) for at in range(len(steps))]
    for at, step in enumerate(steps):
        if step.constant:
            wrong = step.hasty if step.working else step.constant + rng.choice((-1, 1))
            found.append(("constant", _with_step(exercise, at, replace(step, constant=wrong))))
        other = _CONFUSED.get(step.operation)
        if other:
            found.append(("operation", _with_step(exercise, at, replace(step, operation=other))))
    return found


_CONFUSED = {
    "add": "sub",
    "sub": "add",
    "above": "below",
    "below": "above",
    "take": "skip",
    "skip": "take",
    "sort": "reverse",
    "reverse": "sort",
}
"""Operations that a careless reader mistakes for each other."""


def _with_step(exercise: Exercise, at: int, step: Step) -> Plan:
    """Return the right plan with one step replaced."""
    steps: Sequence[Step] = exercise.steps
    return Plan((*steps[:at], step, *steps[at + 1 :]), exercise.reduction)
