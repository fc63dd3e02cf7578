"""Is reasoning about a starter exercise sound? Read against the pipeline behind it, which only the starter sees.

A programmatic judge, for where no language model is at hand: it knows the starter's few ways of saying things and no
others. Facts are the steps, the reduction and the worked-out constants; a fact that it cannot read counts as false. It
looks at the words alone, never at the program or its verdict. Light: standard library only.
"""

import re
from dataclasses import dataclass

from pgrpo_ray.starter.problems import OPERATIONS, REDUCTIONS, Exercise, Step

_EQUATION = re.compile(r"\d+ [+*] \d+ = \d+")
_CAREFUL = re.compile(
    r"Work it out: (?P<workings>(?:[^.]*\. )*?)First (?P<steps>[^.]+)\. Return (?P<reduction>[^.]+)\."
)
_PLAIN = re.compile(r"Steps: (?P<steps>[^.]+), (?P<reduction>[^.,]+)\.")
_NAMES = re.compile(r"Easy: (?P<steps>[^.]+)\.")


@dataclass(frozen=True, slots=True)
class Finding:
    """What the judge found in one reasoning."""

    stated: int
    """Facts that it states."""
    true: int
    """Of these, how many hold of the exercise."""
    complete: bool
    """Every step with its constant, and the reduction, is among the true ones."""
    ordered: bool
    """The steps stand in an order that solves the exercise; False where not every step is there."""

    @property
    def sound(self) -> bool:
        """Nothing false, nothing missing, in order."""
        return self.true == self.stated and self.complete and self.ordered

    def __str__(self) -> str:
        order = "in order" if self.ordered else "not in order"
        rest = f"complete, {order}" if self.complete else "incomplete"
        return f"{'sound' if self.sound else 'flawed'}: {self.true} of {self.stated} stated facts are true; {rest}"


def examine(exercise: Exercise, reasoning: str) -> Finding:
    """Judge one reasoning."""
    text = reasoning.strip()
    if match := _CAREFUL.fullmatch(text):
        workings = [working.strip() for working in match["workings"].split(". ") if working.strip()]
        return _finding(exercise, workings, match["steps"].split(", then "), match["reduction"])
    if match := _PLAIN.fullmatch(text):
        return _finding(exercise, [], match["steps"].split(", "), match["reduction"])
    if match := _NAMES.fullmatch(text):
        names = match["steps"].split(" and ")
        true = sum(name in {step.operation for step in exercise.steps} for name in names)
        return Finding(len(names), true, complete=False, ordered=False)
    return Finding(0, 0, complete=False, ordered=False)


def _finding(exercise: Exercise, workings: list[str], said: list[str], reduction: str) -> Finding:
    """Compare what was said with the exercise."""
    worked = {f"{step.working} = {step.constant}" for step in exercise.steps if step.working}
    true_workings = sum(bool(_EQUATION.fullmatch(working)) and working in worked for working in workings)
    left = list(exercise.steps)
    stated: list[Step] = []
    for words in said:
        step = next((step for step in left if _expression(step) == words.strip()), None)
        if step is not None:
            left.remove(step)
            stated.append(step)
    right_reduction = reduction.strip() == REDUCTIONS[exercise.reduction].expression
    complete = not left and len(stated) == len(said) and right_reduction
    # Steps that may change places may be said in either order.
    ordered = not left and (tuple(stated) == exercise.steps or exercise.solved_by(stated, exercise.reduction))
    return Finding(
        stated=len(workings) + len(said) + 1,
        true=true_workings + len(stated) + right_reduction,
        complete=complete,
        ordered=ordered,
    )


def _expression(step: Step) -> str:
    return OPERATIONS[step.operation].expression.format(k=step.constant)
