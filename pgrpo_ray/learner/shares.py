"""One rank's part of an update plan: which groups to fetch, which of their rows, in which passes.

Cut on the driver from indices alone; a rank fetches no group in which it has no row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgrpo_ray.algo.batching import Aggregation, UpdatePlan, row_weights


@dataclass(frozen=True, eq=False, slots=True)
class ShareStep:
    """One rank's part of one optimizer step."""

    micro_batches: tuple[np.ndarray, ...]
    """Row indices into the concatenated tables of `RankShare.groups`, int64; some may be empty."""
    advantages: tuple[np.ndarray, ...]
    """float32, aligned with `micro_batches`."""
    token_weights: tuple[np.ndarray, ...]
    """What one token of each row weighs in the loss, float32, aligned with `micro_batches`."""

    def passes(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield rows, advantages and token weights of one pass after another."""
        return zip(self.micro_batches, self.advantages, self.token_weights, strict=True)


@dataclass(frozen=True, eq=False, slots=True)
class RankShare:
    """What one rank trains on. Made by the driver, consumed by `learner.worker`."""

    groups: tuple[int, ...]
    """Indices of the batch's groups whose ROLLOUT tables the rank gets, ascending."""
    steps: tuple[ShareStep, ...]
    policy_version: int = 0
    """Of the weights that the learner holds as it begins."""


def share_of(
    plan: UpdatePlan,
    rank: int,
    advantages: np.ndarray,
    response_lengths: np.ndarray,
    group_index: np.ndarray,
    aggregation: Aggregation,
    max_tokens: int,
    policy_version: int = 0,
) -> RankShare:
    """Cut `rank`'s share; rows of a batch stand group after group, as `group_index` (ascending, int [N]) says.

    `aggregation` and `max_tokens`: see `algo.batching.row_weights`.
    """
    groups = np.unique(group_index[plan.rows_of(rank)])
    first_row = np.searchsorted(group_index, groups)
    sizes = np.searchsorted(group_index, groups, side="right") - first_row
    # A row moves down by as many rows as the groups that the rank does not fetch hold before it.
    shift = first_row - (np.cumsum(sizes) - sizes)
    steps = []
    for mini_batch in plan.mini_batches:
        rows = mini_batch.ranks[rank]
        local = tuple(micro - shift[np.searchsorted(groups, group_index[micro])] for micro in rows)
        num_tokens, num_sequences = mini_batch.num_tokens, mini_batch.num_sequences
        weights = (
            row_weights(response_lengths[micro], aggregation, num_tokens, num_sequences, max_tokens) for micro in rows
        )
        steps.append(
            ShareStep(
                local,
                tuple(advantages[micro].astype(np.float32) for micro in rows),
                tuple(weight.astype(np.float32) for weight in weights),
            )
        )
    return RankShare(tuple(groups.tolist()), tuple(steps), policy_version)
