"""Group-relative advantages: (R - mean) / max(std, floor) inside each group.

Owns the normalisation; rewards come from `algo.rewards`. Dropped members (NaN reward) count in neither mean nor
standard deviation. Invariants: advantages of a group sum to zero; a group without a difference has exactly zero
advantage, so that the learner may skip its rows.
"""

import numpy as np
from numpy.typing import ArrayLike


def group_advantages(rewards: ArrayLike, group_index: ArrayLike, std_floor: float) -> np.ndarray:
    """Return the advantage of each rollout, float64 [N]; 0 for dropped ones.

    `rewards` is float [N], NaN where dropped; `group_index` int [N], any labels in any order. A group with fewer than
    two valid members gets zeros. The standard deviation is the sample's (n - 1 in the denominator), because GRPO as
    verl and TRL run it uses `torch.std`, whose default that is; the population's would scale advantages by
    sqrt(n / (n - 1)), 7 % at n = 8. They add 1e-6 to it; we take a floor instead, in reward units, which leaves
    ordinary groups untouched and keeps a group that differs only in tiny thinking rewards from being blown up (ours).

    Raises `ValueError` for unequal shapes, an infinite reward or a floor that is not positive.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    labels = np.asarray(group_index)
    if rewards.ndim != 1 or rewards.shape != labels.shape:
        raise ValueError(
            f"rewards and group_index must have one shape [N], received {rewards.shape} and {labels.shape}"
        )
    if not std_floor > 0:
        raise ValueError(f"std_floor must be above 0, received {std_floor}")
    if np.isinf(rewards).any():
        raise ValueError("a reward is infinite")
    valid = ~np.isnan(rewards)
    values = rewards[valid]
    advantages = np.zeros_like(rewards)
    if not values.size:
        return advantages
    _, group = np.unique(labels[valid], return_inverse=True)
    count = np.bincount(group)
    centred = values - (np.bincount(group, values) / count)[group]
    std = np.sqrt(np.bincount(group, centred**2) / np.maximum(count - 1, 1))
    # Rounding of the mean leaves residues of 1e-16 in a group of equal rewards; divided by a small floor they would
    # become gradients of noise. So "no difference" is decided on the rewards themselves.
    lowest, highest = np.full(count.size, np.inf), np.full(count.size, -np.inf)
    np.minimum.at(lowest, group, values)
    np.maximum.at(highest, group, values)
    differs = highest > lowest
    advantages[valid] = np.where(differs[group], centred / np.maximum(std, std_floor)[group], 0.0)
    return advantages
