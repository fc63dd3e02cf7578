"""The starter's curriculum: "list pipelines", small problems that a tiny policy can learn in minutes.

A problem asks for `f(a)` on a list of integers: two steps (add, keep, sort, ...) and a reduction (sum, length, ...),
in varied English. What makes reasoning worth while: steps may be named in the opposite order of their execution, and
constants may be spoken as small arithmetic ("twice 4"). Owns the family, its English and its JSONL; how a solution is
reasoned about and written is `demonstrations`. Light: standard library only.

Invariants: everything follows from the seed; `generate_apart` shares neither English nor steps with constants with
what it is told to avoid; no step is idle (leaving it out changes some output).
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NUM_CASES = 6
"""Cases per problem: enough that a wrong program rarely passes, few enough to be judged in a millisecond (ours)."""

Apply = Callable[[list[int], int], list[int]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of step. `{k}` stands for the constant."""

    phrases: tuple[str, ...]
    """How English says it, in the imperative."""
    expression: str
    """How reasoning says it."""
    code: str
    """What `a` becomes, as a Python expression."""
    apply: Apply
    constants: tuple[int, ...] = ()
    """Constants to draw from; empty when the step has none."""


_SMALL = tuple(range(2, 10))

OPERATIONS: dict[str, Operation] = {
    "add": Operation(
        ("add {k} to each", "increase each by {k}"),
        "x + {k}",
        "[x + {k} for x in a]",
        lambda a, k: [x + k for x in a],
        _SMALL,
    ),
    "sub": Operation(
        ("subtract {k} from each", "decrease each by {k}"),
        "x - {k}",
        "[x - {k} for x in a]",
        lambda a, k: [x - k for x in a],
        _SMALL,
    ),
    "mul": Operation(
        ("multiply each by {k}", "scale each by {k}"),
        "x * {k}",
        "[x * {k} for x in a]",
        lambda a, k: [x * k for x in a],
        _SMALL,
    ),
    "above": Operation(
        ("keep those above {k}", "drop those up to {k}"),
        "x > {k}",
        "[x for x in a if x > {k}]",
        lambda a, k: [x for x in a if x > k],
        _SMALL,
    ),
    "below": Operation(
        ("keep those below {k}", "drop those from {k} up"),
        "x < {k}",
        "[x for x in a if x < {k}]",
        lambda a, k: [x for x in a if x < k],
        _SMALL,
    ),
    "take": Operation(
        ("take the first {k}", "keep only the first {k}"), "a[:{k}]", "a[:{k}]", lambda a, k: a[:k], (2, 3, 4, 5)
    ),
    "skip": Operation(
        ("skip the first {k}", "leave out the first {k}"), "a[{k}:]", "a[{k}:]", lambda a, k: a[k:], (2, 3, 4, 5)
    ),
    "negate": Operation(("negate each", "flip each sign"), "-x", "[-x for x in a]", lambda a, k: [-x for x in a]),
    "square": Operation(
        ("square each", "multiply each by itself"), "x * x", "[x * x for x in a]", lambda a, k: [x * x for x in a]
    ),
    "even": Operation(
        ("keep the even ones", "drop the odd ones"),
        "x % 2 == 0",
        "[x for x in a if x % 2 == 0]",
        lambda a, k: [x for x in a if x % 2 == 0],
    ),
    "sort": Operation(("sort the list", "put the list in order"), "sorted", "sorted(a)", lambda a, k: sorted(a)),
    "reverse": Operation(("reverse the list", "turn the list around"), "reversed", "a[::-1]", lambda a, k: a[::-1]),
}


@dataclass(frozen=True, slots=True)
class Reduction:
    """What is returned."""

    phrases: tuple[str, ...]
    expression: str
    code: str
    apply: Callable[[list[int]], Any]


REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction(("the sum", "the total"), "sum", "sum(a)", sum),
    "len": Reduction(("the count", "how many remain"), "len", "len(a)", len),
    "max": Reduction(("the largest", "the maximum"), "max", "max(a)", max),
    "list": Reduction(("the list", "the result"), "list", "a", list),
}

_FORMS_AS_EXECUTED = (
    "{a}, then {b}; return {r}.",
    "first {a}, and after that {b}; return {r}.",
    "return {r} after you {a} and then {b}.",
)
_FORMS_REVERSED = (
    "{b}, but before that {a}; return {r}.",
    "before you {b}, {a}; return {r}.",
    "return {r}: {b}, having had to {a} first.",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step with its constant worked out."""

    operation: str
    """Key of `OPERATIONS`."""
    constant: int = 0
    """0 when the operation has none."""
    working: str = ""
    """The arithmetic behind the constant, such as `2 * 4`; empty when it was named plainly."""
    hasty: int = 0
    """The number that a hasty reader takes for the constant: the last one named."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """One problem together with the pipeline behind it, which only the starter sees."""

    prompt: str
    steps: tuple[Step, ...]
    """In order of execution."""
    reduction: str
    """Key of `REDUCTIONS`."""
    reversed_order: bool
    """The English names the last step first."""
    cases: tuple[tuple[list[int], Any], ...]
    """(argument, expected value) pairs; expected values are not all equal."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What two exercises must not share across a split: steps with constants, and reduction."""
        return (tuple((step.operation, step.constant) for step in self.steps), self.reduction)

    def solved_by(self, steps: Sequence[Step], reduction: str) -> bool:
        """Whether a pipeline gives every expected value. Judges mistakes before they are written into text."""
        return all(run_pipeline(steps, reduction, argument) == expected for argument, expected in self.cases)

    def to_json(self, problem_id: str) -> dict[str, Any]:
        """Return one line of the project's own problem format."""
        return {
            "id": problem_id,
            "prompt": self.prompt,
            "tests": {
                "style": "call",
                "entry_point": "f",
                "cases": [{"args": [argument], "expected": expected} for argument, expected in self.cases],
            },
            "metadata": {
                "family": "list_pipelines",
                "steps": [asdict(step) for step in self.steps],
                "reduction": self.reduction,
                "reversed_order": self.reversed_order,
            },
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Exercise":
        """Rebuild what `to_json` wrote."""
        hidden = record["metadata"]
        return cls(
            prompt=record["prompt"],
            steps=tuple(Step(**step) for step in hidden["steps"]),
            reduction=hidden["reduction"],
            reversed_order=hidden["reversed_order"],
            cases=tuple((case["args"][0], case["expected"]) for case in record["tests"]["cases"]),
        )


_FAILED = "error"
"""Stands for the value of a pipeline that raises; no expected value is text."""


def run_pipeline(steps: Sequence[Step], reduction: str, argument: list[int]) -> Any:
    """Return the value for one argument; the word `error` where Python would raise (largest of an empty list)."""
    values = list(argument)
    for step in steps:
        values = OPERATIONS[step.operation].apply(values, step.constant)
    if reduction == "max" and not values:
        return _FAILED
    return REDUCTIONS[reduction].apply(values)


def generate(seed: int, count: int) -> list[Exercise]:
    """Return `count` exercises, all different in English and in pipeline; a longer list begins with the shorter.

    Raises `ValueError` when the family is too small for `count` (some 8,000 are safe).
    """
    rng = random.Random(f"list_pipelines/{seed}")
    seen: set[Any] = set()
    exercises: list[Exercise] = []
    for _ in range(200 + 40 * count):
        if len(exercises) == count:
            break
        exercise = _draw(rng)
        if exercise is None or exercise.key in seen or exercise.prompt in seen:
            continue
        seen.update((exercise.key, exercise.prompt))
        exercises.append(exercise)
    if len(exercises) < count:
        raise ValueError(
            f"{count} different list pipelines were asked for, {len(exercises)} were found. Ask for fewer."
        )
    return exercises


def generate_apart(seed: int, count: int, avoid: Iterable[Exercise], salt: str) -> list[Exercise]:
    """Return `count` exercises that share neither English nor pipeline with `avoid`, but may repeat each other.

    Repeats keep every operation as frequent as it is drawn; without them operations that have no constant, hence few
    different pipelines, would hardly be seen in training. Different `salt`, different exercises.
    """
    rng = random.Random(f"list_pipelines/{salt}/{seed}")
    taken = {word for exercise in avoid for word in (exercise.key, exercise.prompt)}
    exercises: list[Exercise] = []
    for _ in range(200 + 40 * count):
        if len(exercises) == count:
            break
        exercise = _draw(rng)
        if exercise is not None and exercise.key not in taken and exercise.prompt not in taken:
            exercises.append(exercise)
    if len(exercises) < count:
        raise ValueError(f"{count} list pipelines apart from the others were asked for, {len(exercises)} were found.")
    return exercises


def write_jsonl(path: Path, exercises: Iterable[Exercise], prefix: str) -> None:
    """Write one problem a line with ids `<prefix>-<number>`."""
    with path.open("w", encoding="utf-8") as file:
        for number, exercise in enumerate(exercises):
            file.write(json.dumps(exercise.to_json(f"{prefix}-{number:05d}")) + "\n")


def read_jsonl(path: Path) -> list[Exercise]:
    """Read what `write_jsonl` wrote."""
    with path.open(encoding="utf-8") as file:
        return [Exercise.from_json(json.loads(line)) for line in file]


def _draw(rng: random.Random) -> Exercise | None:
    """Draw one exercise; None when it came out degenerate (an idle step, outputs all equal, an error)."""
    names = rng.sample(list(OPERATIONS), 2)
    drawn = [_draw_step(rng, name) for name in names]
    steps = tuple(step for step, _ in drawn)
    reduction = rng.choice(list(REDUCTIONS))
    reversed_order = rng.random() < 0.4
    form = rng.choice(_FORMS_REVERSED if reversed_order else _FORMS_AS_EXECUTED)
    prompt = form.format(a=drawn[0][1], b=drawn[1][1], r=rng.choice(REDUCTIONS[reduction].phrases))
    arguments = [[rng.randint(-6, 20) for _ in range(rng.randint(6, 9))] for _ in range(NUM_CASES)]
    cases = tuple((argument, run_pipeline(steps, reduction, argument)) for argument in arguments)
    values = [value for _, value in cases]
    exercise = Exercise(prompt, steps, reduction, reversed_order, cases)
    degenerate = (
        not any(step.constant for step in steps)  # so few pipelines that held-out ones would use them up
        or _FAILED in values
        or all(value == values[0] for value in values)
        or exercise.solved_by(steps[:1], reduction)
        or exercise.solved_by(steps[1:], reduction)
    )
    return None if degenerate else exercise


def _draw_step(rng: random.Random, name: str) -> tuple[Step, str]:
    """Draw the constant of a step and say the step in English."""
    operation = OPERATIONS[name]
    phrase = rng.choice(operation.phrases)
    if not operation.constants:
        return Step(name), phrase
    if operation.constants is not _SMALL or rng.random() < 0.6:
        constant = rng.choice(operation.constants)
        return Step(name, constant, "", constant), phrase.format(k=constant)
    left, right = rng.choice(_SMALL), rng.choice(_SMALL)
    if rng.random() < 0.5:
        step, spoken = Step(name, 2 * right, f"2 * {right}", right), f"twice {right}"
    else:
        step, spoken = Step(name, left + right, f"{left} + {right}", right), f"the sum of {left} and {right}"
    return step, phrase.format(k=spoken)
