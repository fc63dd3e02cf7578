"""Advantages: rewards relative to their group, term by term.

Every estimator here is linear in the rewards of a group once its scale is known, so an advantage is a sum of what each
reward term contributed; `variance_shares` tells which term the gradient is owed to. Dropped members (NaN reward) count
in neither mean nor standard deviation. Invariants, but for `reinforce_pp`, which has no groups: contributions of one
group sum to zero; a group without a difference has exactly zero advantage, so that the learner may skip its rows.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Estimator = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"]
"""(R: reward; mean and std inside its group unless said otherwise)

- `grpo`: (R - mean) / max(std, floor). The standard deviation is the sample's (n - 1 in the denominator), because GRPO
  as verl and TRL run it uses `torch.std`, whose default that is; the population's would scale advantages by
  sqrt(n / (n - 1)), 7 % at n = 8. They add 1e-6 to it; we take a floor instead, in reward units, which leaves ordinary
  groups untouched and keeps a group that differs only in tiny thinking rewards from being blown up (ours).
- `dr_grpo`: R - mean. Without the division, easy and hard problems weigh what their rewards differ by (arXiv
  2503.20783).
- `rloo`: R minus the mean of the others, which is (R - mean) * n / (n - 1) (arXiv 2402.14740).
- `reinforce_pp`: (R - mean) / max(std, floor) over the whole batch; `reinforce_pp_baseline`: R - mean of its group,
  then divided by the batch's standard deviation of that (arXiv 2501.03262).
"""


def term_advantages(
    terms: Mapping[str, ArrayLike],
    group_index: ArrayLike,
    std_floor: float,
    estimator: Estimator = "grpo",
    apart: Collection[str] = (),
    among: ArrayLike | None = None,
) -> dict[str, np.ndarray]:
    """Return what each term contributes to each rollout's advantage, float64 [N]; their sum is the advantage.

    `terms` are reward terms, float [N], NaN where dropped; `group_index` int [N], any labels in any order. A group with
    fewer than two valid members gets zeros. Terms named in `apart` are normalised by themselves over the rows of
    `among` (bool [N]), outside of which they contribute nothing.

    Raises `ValueError` for unequal shapes, an infinite reward or a floor that is not positive.
    """
    values = {name: np.asarray(array, dtype=np.float64) for name, array in terms.items()}
    labels = np.asarray(group_index)
    if any(array.ndim != 1 or array.shape != labels.shape for array in values.values()):
        shapes = [array.shape for array in values.values()]
        raise ValueError(f"terms and group_index must have one shape [N], received {shapes} and {labels.shape}")
    if not std_floor > 0:
        raise ValueError(f"std_floor must be above 0, received {std_floor}")
    if any(np.isinf(array).any() for array in values.values()):
        raise ValueError("a reward is infinite")
    joint = {name: array for name, array in values.items() if name not in apart}
    parts = _normalise(joint, labels, std_floor, estimator)
    for name in apart:
        alone = np.where(np.asarray(among, dtype=bool), values[name], np.nan)
        parts |= _normalise({name: alone}, labels, std_floor, estimator)
    return parts


def variance_shares(parts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return which share of the advantages' variance each term owns: sum(part * A) / sum(A * A) with A their sum.

    Shares add up to 1; one is negative where a term pulls against the others. NaN where every advantage is zero.
    """
    total = sum(parts.values())
    power = float(np.sum(total * total))
    return {name: float(np.sum(part * total)) / power if power else float("nan") for name, part in parts.items()}


def _normalise(
    terms: dict[str, np.ndarray], labels: np.ndarray, std_floor: float, estimator: Estimator
) -> dict[str, np.ndarray]:
    """Centre and scale terms together, by their sum."""
    parts = {name: np.zeros(labels.shape) for name in terms}
    rewards = sum(terms.values(), np.zeros(labels.shape))
    valid = ~np.isnan(rewards)
    values = rewards[valid]
    if not values.size:
        return parts
    pooled = estimator == "reinforce_pp"
    group = np.zeros(values.size, np.int64) if pooled else np.unique(labels[valid], return_inverse=True)[1]
    scale = _scales(values, group, std_floor, estimator)
    for name, array in terms.items():
        parts[name][valid] = scale * _centred(array[valid], group)
    return parts


def _scales(values: np.ndarray, group: np.ndarray, std_floor: float, estimator: Estimator) -> np.ndarray:
    """Return what each row's centred reward is multiplied by; 0 in a group without a difference."""
    count = np.bincount(group)
    if estimator == "dr_grpo":
        scale = np.ones(count.size)
    elif estimator == "rloo":
        scale = count / np.maximum(count - 1, 1)
    else:
        squares = _centred(values, group) ** 2
        if estimator == "reinforce_pp_baseline":
            std = np.full(count.size, np.sqrt(squares.sum() / max(values.size - 1, 1)))
        else:
            std = np.sqrt(np.bincount(group, squares) / np.maximum(count - 1, 1))
        scale = 1 / np.maximum(std, std_floor)
    # Rounding of the mean leaves residues of 1e-16 in a group of equal rewards; divided by a small floor they would
    # become gradients of noise. So "no difference" is decided on the rewards themselves.
    lowest, highest = np.full(count.size, np.inf), np.full(count.size, -np.inf)
    np.minimum.at(lowest, group, values)
    np.maximum.at(highest, group, values)
    scales: np.ndarray = np.where(highest > lowest, scale, 0.0)[group]
    return scales


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return each row's distance from its group's mean."""
    distance: np.ndarray = values - (np.bincount(group, values) / np.bincount(group))[group]
    return distance
