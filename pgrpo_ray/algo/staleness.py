"""How old a rollout may be when it is trained on, and why it cannot be older.

Staleness is the learner's version when it begins to train on a token, minus the version that sampled the token, in
optimizer steps; 0 is on-policy. `algo.max_staleness` bounds it. The bound holds by when groups are asked for:

    Groups are asked for at the end of some step s at the earliest (or before the first, s = 0), and trained on in step
    t <= s + 1 + a, where a is `Derived.steps_ahead`. A token is sampled after its group was asked for, so its version
    is at least that of the end of step s. The learner begins step t with the version of the end of step t - 1; between
    the two lie t - 1 - s <= a steps, each of at most m = `algo.num_mini_batches` optimizer steps. So the staleness is
    at most a * m; and a = max_staleness / m (`RunConfig.check` wants a whole number).

New weights that come while a response is sampled only make its later tokens younger. `check_staleness` still looks at
every batch: what breaks the bound is a defect, and ends the run.
"""

import numpy as np

from pgrpo_ray.errors import StageError


def check_staleness(oldest: np.ndarray, version: int, max_staleness: int) -> None:
    """Raise `StageError` where a rollout is too old for a learner of `version`, or newer than it.

    `oldest`: of each rollout the oldest version that sampled one of its tokens, int64 [N].
    """
    broken = (oldest < version - max_staleness) | (oldest > version)
    if broken.any():
        raise StageError(
            f"rollout worker: {broken.sum()} of {len(oldest)} rollouts were sampled with policy version "
            f"{oldest[broken][0]}; the learner has version {version}, algo.max_staleness is {max_staleness}.",
            stage="rollout worker",
        )
