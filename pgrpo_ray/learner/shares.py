"""One rank's part of an update plan: which groups to fetch, which of their rows, in which passes.

Cut on the driver from indices alone; a rank fetches no group in which it has no row.
"""

from dataclasses import dataclass

import numpy as np

from pgrpo_ray.algo.batching import UpdatePlan


@dataclass(frozen=True, eq=False, slots=True)
class ShareStep:
    """One rank's part of one optimizer step."""

    denominator: int
    """Response tokens of the mini-batch over all ranks."""
    micro_batches: tuple[np.ndarray, ...]
    """Row indices into the concatenated tables of `RankShare.groups`, int64; some may be empty."""
    advantages: tuple[np.ndarray, ...]
    """float32, aligned with `micro_batches`."""


@dataclass(frozen=True, eq=False, slots=True)
class RankShare:
    """What one rank trains on. Made by the driver, consumed by `learner.worker`."""

    groups: tuple[int, ...]
    """Indices of the batch's groups whose ROLLOUT tables the rank gets, ascending."""
    steps: tuple[ShareStep, ...]


def share_of(plan: UpdatePlan, rank: int, advantages: np.ndarray, group_index: np.ndarray) -> RankShare:
    """Cut `rank`'s share; rows of a batch stand group after group, as `group_index` (ascending, int [N]) says."""
    groups = np.unique(group_index[plan.rows_of(rank)])
    first_row = np.searchsorted(group_index, groups)
    sizes = np.searchsorted(group_index, groups, side="right") - first_row
    # A row moves down by as many rows as the groups that the rank does not fetch hold before it.
    shift = dict(zip(groups.tolist(), (first_row - (np.cumsum(sizes) - sizes)).tolist(), strict=True))
    steps = []
    for mini_batch in plan.mini_batches:
        rows = mini_batch.ranks[rank]
        local = tuple(micro - np.array([shift[group] for group in group_index[micro]], np.int64) for micro in rows)
        steps.append(
            ShareStep(mini_batch.denominator, local, tuple(advantages[micro].astype(np.float32) for micro in rows))
        )
    return RankShare(tuple(groups.tolist()), tuple(steps))
