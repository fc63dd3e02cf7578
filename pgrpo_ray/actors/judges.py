"""Who judges which problem: programs go to the execution pool, answers to the maths judge. Plain, without Ray.

Owns the split by style and nothing else; both judges keep their own queues and caches. A judge that no problem needs is
not started, so problems of one style alone ask for no more than that style does.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.evaluation.maths.pool import MathsPool
from pgrpo_ray.protocols import Judge
from pgrpo_ray.sandbox.languages import compiled
from pgrpo_ray.sandbox.plan import plan_of
from pgrpo_ray.sandbox.pool import PoolStats, make_pool
from pgrpo_ray.types import Judgement, Problem, TestStyle


class Judges:
    """One judge over both. Thread-safe; implements `protocols.Judge`."""

    def __init__(self, programs: Any = None, answers: Any = None):
        """`programs`: an `ExecutionPool`, `answers`: a `MathsPool`; None where no problem needs it. Closes both."""
        self._programs = programs
        self._answers = answers

    def judge_many(self, items: Sequence[tuple[Problem, str]], deadline_s: float | None = None) -> list[Judgement]:
        """Judge each (problem, what stood in `<answer>`); judgements keep the order. See the two pools.

        Answers first: they take milliseconds, and the deadline is for all together.
        """
        end = None if deadline_s is None else time.monotonic() + deadline_s
        judged: dict[int, Judgement] = {}
        for pool, are_answers in ((self._answers, True), (self._programs, False)):
            rows = [row for row, (problem, _) in enumerate(items) if (problem.style is TestStyle.ANSWER) is are_answers]
            if rows:
                left_s = None if end is None else max(0.0, end - time.monotonic())
                judged |= zip(rows, pool.judge_many([items[row] for row in rows], deadline_s=left_s), strict=True)
        return [judged[row] for row in range(len(items))]

    def stats(self) -> PoolStats:
        """Return what both have done and hold now, summed."""
        found = [pool.stats() for pool in (self._programs, self._answers) if pool is not None]
        sums: dict[str, Any] = {
            field.name: sum(getattr(one, field.name) for one in found)
            for field in fields(PoolStats)
            if field.name != "verdicts"
        }
        verdicts: Counter[str] = Counter()
        for one in found:
            verdicts.update(one.verdicts)
        return PoolStats(verdicts=dict(verdicts), **sums)

    def close(self) -> None:
        """Free what both hold. Idempotent."""
        for pool in (self._programs, self._answers):
            if pool is not None:
                pool.close()


def start_judges(
    kind: str,
    section: SandboxSection,
    problems: Collection[Problem],
    observe: Callable[[Judgement, float], None] | None = None,
) -> Judge:
    """Start the judges that `problems` need, after planning every program's problem; `kind` is for programs.

    Raises what `sandbox.pool.make_pool`, `sandbox.plan.plan_of` and `MathsPool` raise.
    """
    runnable = [problem for problem in problems if problem.style is not TestStyle.ANSWER]
    for problem in runnable:
        plan_of(problem)  # needs its checker's module, which this node may lack
    answers = MathsPool(section, observe) if len(runnable) < len(problems) else None
    try:
        programs = make_pool(kind, section, compiled(runnable), observe) if runnable else None
    except BaseException:
        if answers is not None:
            answers.close()
        raise
    return Judges(programs, answers)
