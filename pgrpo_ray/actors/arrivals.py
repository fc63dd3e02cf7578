"""Is what came what was asked for? Looked at once for each group, from its scalars.

Notices a group that nobody asked for, one that comes twice, one that answers another prompt, rows that are missing,
doubled or out of order, and tokens sampled before they were asked for, as those of an old answer that is sent again.
Does not notice a group of the right problem and version whose rows some defect made up: the learner's comparison of
logprobs does (`driver`). `Repeats` counts what may be such, or may be a policy that says the same thing each time.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from pgrpo_ray.errors import CorruptionError

LOOKED_AT = ("problem_id", "sample_index", "policy_version", "prompt_digest")
"""Scalar columns that `check_groups` reads."""
REMEMBERED = 8
"""Batches whose rows `Repeats` knows. Ours: what is older than its demand is refused anyway."""


def check_groups(
    scalars: Mapping[str, list], group_size: int, prompts: Mapping[str, int], version: int, arrived: set[str]
) -> list[str]:
    """Return the problems of some groups that came together, and add them to those of their demand that `arrived`.

    `scalars`: their `LOOKED_AT`. `prompts`: of each problem that was asked for the digest of its prompt. `version`: of
    the policy that was served then. Raises `CorruptionError`.
    """
    problems = []
    for row in range(0, len(scalars["problem_id"]), group_size):
        group = [scalars[name][row : row + group_size] for name in LOOKED_AT]
        problem = group[0][0]
        if fault := _fault(group, group_size, prompts.get(problem), version, problem in arrived):
            raise CorruptionError(
                f"rollout worker: a group of problem {problem} {fault}. Nothing of it was trained on. The workers' "
                "logs in Ray's session folder may say more."
            )
        arrived.add(problem)
        problems.append(problem)
    return problems


def _fault(
    columns: list[list[Any]],
    group_size: int,
    prompt: int | None,
    version: int,
    arrived: bool,
) -> str:
    """Say what is wrong with a group, given as columns `LOOKED_AT`; empty where nothing is."""
    problems, samples, versions, digests = columns
    if prompt is None:
        return "was not asked for"
    if arrived:
        return "came twice"
    if samples != list(range(group_size)) or len(set(problems)) > 1:
        return f"has the samples {samples} in this order, {group_size} were asked for"
    if set(digests) != {prompt}:
        return "answers another prompt than it was asked"
    if (oldest := min(versions)) < version:
        return f"was sampled with policy version {oldest}, before it was asked for, which was with version {version}"
    return ""


class Repeats:
    """Counts rollouts that are another one, token for token and logprob for logprob."""

    def __init__(self) -> None:
        self._before: deque[np.ndarray] = deque(maxlen=REMEMBERED)

    def frac(self, digests: np.ndarray) -> float:
        """Return the share of a batch, `row_digest` int64 [N], that stands in it twice or in one of the last batches.

        To be called once a batch.
        """
        unique = np.unique(digests)
        old = np.isin(unique, np.concatenate([*self._before, unique[:0]])).sum()
        self._before.append(unique)
        return float(1.0 - (len(unique) - old) / len(digests))
