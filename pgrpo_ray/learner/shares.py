"""One rank's part of an update plan: which tables to fetch, which of their rows, in which passes.

Cut on the driver from indices alone; a rank fetches no table in which it has no row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pgrpo_ray.algo.batching import Aggregation, UpdatePlan, row_weights


@dataclass(frozen=True, eq=False, slots=True)
class ShareStep:
    """One rank's part of one optimizer step."""

    micro_batches: tuple[np.ndarray, ...]
    """Row indices into the concatenated tables of `RankShare.tables`, int64; some may be empty."""
    advantages: tuple[np.ndarray, ...]
    """float32, aligned with `micro_batches`."""
    token_weights: tuple[np.ndarray, ...]
    """What one token of each row weighs in the loss, float32, aligned with `micro_batches`."""

    def passes(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield rows, advantages and token weights of one pass after another."""
        return zip(self.micro_batches, self.advantages, self.token_weights, strict=True)


@dataclass(frozen=True, eq=False)
class Places:
    """Where the groups of a batch lie: they came in tables of several, in no order, perhaps with groups of others.

    One entry a group, int64, but for `table_sizes`.
    """

    table: np.ndarray
    """An index into the batch's tables."""
    first_row: np.ndarray
    """In that table."""
    size: np.ndarray
    """Rows of the group."""
    table_sizes: np.ndarray
    """Rows of each table."""

    @cached_property
    def row_tables(self) -> np.ndarray:
        """Of each row of the batch, int64 [N]: its table."""
        return np.repeat(self.table, self.size)

    @cached_property
    def rows(self) -> np.ndarray:
        """Of each row of the batch, int64 [N]: its place in its table."""
        begins = np.cumsum(self.size) - self.size
        return np.repeat(self.first_row - begins, self.size) + np.arange(self.size.sum())

    def within(self, tables: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return where `rows` of the batch lie in some `tables` (ascending), which hold them, one after another."""
        sizes = self.table_sizes[tables]
        starts = np.cumsum(sizes) - sizes
        return starts[np.searchsorted(tables, self.row_tables[rows])] + self.rows[rows]

    def in_all(self) -> np.ndarray:
        """Return where each row of the batch lies in all tables one after another, int64 [N]."""
        return self.within(np.arange(len(self.table_sizes)), np.arange(len(self.rows)))

    def groups(self) -> list[tuple[int, int, int]]:
        """Return table, first row and size of each group."""
        return list(zip(self.table.tolist(), self.first_row.tolist(), self.size.tolist(), strict=True))


@dataclass(frozen=True, eq=False, slots=True)
class RankShare:
    """What one rank trains on. Made by the driver, consumed by `learner.worker`."""

    tables: tuple[int, ...]
    """Indices of the batch's ROLLOUT tables that the rank gets, ascending."""
    steps: tuple[ShareStep, ...]
    policy_version: int
    """Of the weights that the learner holds as it begins."""


def share_of(
    plan: UpdatePlan,
    rank: int,
    advantages: np.ndarray,
    response_lengths: np.ndarray,
    places: Places,
    aggregation: Aggregation,
    max_tokens: int,
    policy_version: int,
) -> RankShare:
    """Cut `rank`'s share; `aggregation` and `max_tokens`: see `algo.batching.row_weights`."""
    tables = np.unique(places.row_tables[plan.rows_of(rank)])
    steps = []
    for mini_batch in plan.mini_batches:
        rows = mini_batch.ranks[rank]
        local = tuple(places.within(tables, micro) for micro in rows)
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
    return RankShare(tuple(tables.tolist()), tuple(steps), policy_version)
