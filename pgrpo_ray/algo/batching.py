"""Plan one batch's optimizer steps: which rows go into which mini-batch, rank and micro-batch.

Owns indices only; no tensor passes through here. Invariants:
- A group is never split over mini-batches; every row that can have a gradient is planned exactly once.
- A row with zero advantage is left out, exactly: without a KL term its gradient is zero (with one, `every_row` keeps
  it). It still counts in `num_tokens` and `num_sequences`, since the loss is a mean over the whole mini-batch.
- A row whose advantage is NaN (dropped or masked) is left out of both: for the loss it was never sampled.
- Within a mini-batch all ranks have the same number of micro-batches, some perhaps empty: ZeRO-3 gathers weights by
  collectives, and a rank that ran fewer passes would leave the others waiting for ever.
- A mini-batch in which no row has a gradient is not in the plan. The learner takes no optimizer step for it (AdamW
  would move the weights by momentum and decay alone), so the policy version grows by `len(plan.mini_batches)` a batch,
  not by `num_mini_batches`.
"""

import heapq
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Aggregation = Literal["token_mean", "sequence_mean", "fixed_length"]
"""How the tokens of a mini-batch are averaged.

- `token_mean`: over all tokens; long responses weigh more (DAPO, arXiv 2503.14476, section 3.3).
- `sequence_mean`: over a response's tokens, then over responses (GRPO, arXiv 2402.03300).
- `fixed_length`: a response's sum over the longest length allowed, then over responses, so that a token weighs the same
  in any response and any batch (Dr. GRPO, arXiv 2503.20783).
"""


@dataclass(frozen=True, eq=False, slots=True)
class MiniBatch:
    """The rows of one optimizer step."""

    num_tokens: int
    """Response tokens of all its groups, rows without gradient included, left-out rows excluded; at least 1."""
    num_sequences: int
    """Responses, counted likewise."""
    ranks: tuple[tuple[np.ndarray, ...], ...]
    """`ranks[r]` are rank r's micro-batches: int64 row indices, longest rows first; some may be empty."""

    @property
    def num_micro_batches(self) -> int:
        """Forward-backward passes of every rank."""
        return len(self.ranks[0])


@dataclass(frozen=True, eq=False, slots=True)
class UpdatePlan:
    """What the learner does with one batch. Made by `plan_update`."""

    mini_batches: tuple[MiniBatch, ...]
    """Optimizer steps, in order. May be empty: then the policy does not change."""
    num_skipped: int
    """Mini-batches left out because no row of theirs has a gradient."""
    num_rows: int
    """Rows planned, that is rows with a gradient."""

    def rows_of(self, rank: int) -> np.ndarray:
        """Return the rows that `rank` trains on, int64, in the order in which it does."""
        parts = [rows for mini_batch in self.mini_batches for rows in mini_batch.ranks[rank]]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def plan_update(
    prompt_lengths: ArrayLike,
    response_lengths: ArrayLike,
    advantages: ArrayLike,
    group_index: ArrayLike,
    num_ranks: int,
    num_mini_batches: int,
    micro_batch_tokens: int,
    seed: int,
    *,
    every_row: bool = False,
) -> UpdatePlan:
    """Plan the update on N rows in O(N log N); the same arguments give the same plan.

    Lengths are int [N], tokens; `advantages` float [N], NaN where left out; `group_index` int [N], any labels. Groups
    with a row that is not left out are shuffled by `seed` and dealt into `num_mini_batches` near-equal parts.
    `micro_batch_tokens` bounds rows times the longest prompt plus response of a micro-batch: what it occupies when
    sequences are padded on the right.
    `every_row`: a row has a gradient whatever its advantage, as with a KL term.

    Raises `ValueError` for unequal shapes or a row with gradient that alone exceeds `micro_batch_tokens` (which
    `RunConfig.check` rules out).
    """
    prompts, responses = (np.asarray(values, dtype=np.int64) for values in (prompt_lengths, response_lengths))
    advantages, labels = np.asarray(advantages, dtype=np.float64), np.asarray(group_index)
    if not prompts.shape == responses.shape == advantages.shape == labels.shape or prompts.ndim != 1:
        shapes = [values.shape for values in (prompts, responses, advantages, labels)]
        raise ValueError(f"lengths, advantages and group_index must have one shape [N], received {shapes}")
    if min(num_ranks, num_mini_batches) < 1:
        raise ValueError(f"num_ranks and num_mini_batches must be at least 1: {num_ranks}, {num_mini_batches}")
    # A response without tokens has no loss term whatever its advantage.
    totals, kept = prompts + responses, ~np.isnan(advantages)
    trained = kept & ((advantages != 0) | every_row) & (responses > 0)
    if trained.any() and totals[trained].max() > micro_batch_tokens:
        raise ValueError(
            f"a rollout of {totals[trained].max()} tokens exceeds micro_batch_tokens ({micro_batch_tokens}). Raise "
            "learner.micro_batch_tokens."
        )
    groups, group = np.unique(labels, return_inverse=True)
    # Only groups that count are dealt out: else mini-batches would be unequal where many are left out.
    counted = np.unique(group[kept])
    part_of_group = np.zeros(len(groups), dtype=np.int64)
    for part, members in enumerate(np.array_split(np.random.default_rng(seed).permutation(counted), num_mini_batches)):
        part_of_group[members] = part
    part_of_row = part_of_group[group]
    num_tokens = np.bincount(part_of_row[kept], responses[kept], minlength=num_mini_batches).astype(np.int64)
    num_sequences = np.bincount(part_of_row[kept], minlength=num_mini_batches)
    # One stable sort instead of a scan per mini-batch keeps the whole O(N log N).
    rows = np.flatnonzero(trained)
    rows = rows[np.argsort(part_of_row[rows], kind="stable")]
    bounds = np.searchsorted(part_of_row[rows], np.arange(num_mini_batches + 1))
    mini_batches = tuple(
        MiniBatch(
            int(num_tokens[part]),
            int(num_sequences[part]),
            _share(rows[start:end], totals, num_ranks, micro_batch_tokens),
        )
        for part, (start, end) in enumerate(pairwise(bounds.tolist()))
        if end > start
    )
    return UpdatePlan(mini_batches, num_skipped=num_mini_batches - len(mini_batches), num_rows=int(trained.sum()))


def row_weights(
    lengths: ArrayLike, aggregation: Aggregation, num_tokens: int, num_sequences: int, max_tokens: int
) -> np.ndarray:
    """Return what one token of each row weighs in a mini-batch's loss, float64 [B].

    `lengths` int [B] are the rows' response tokens; `num_tokens` and `num_sequences` those of the whole mini-batch over
    all ranks, rows without gradient included. The weighted sums of all micro-batches on all ranks then add up to the
    loss of the whole, however rows are cut.
    """
    lengths = np.maximum(np.asarray(lengths, dtype=np.float64), 1.0)  # a row without tokens has no term to weigh
    if aggregation == "token_mean":
        return np.full(lengths.shape, 1.0 / num_tokens)
    if aggregation == "sequence_mean":
        return 1.0 / (num_sequences * lengths)
    return np.full(lengths.shape, 1.0 / (num_sequences * max_tokens))


def _share(
    rows: np.ndarray, totals: np.ndarray, num_ranks: int, micro_batch_tokens: int
) -> tuple[tuple[np.ndarray, ...], ...]:
    """Deal `rows` to ranks, longest first, each to the rank with the fewest tokens so far; cut into micro-batches.

    Longest-first greedy is within 4/3 of the best balance (Graham 1969), and in practice within one short row.
    """
    longest_first = rows[np.argsort(-totals[rows], kind="stable")]
    owned: list[list[int]] = [[] for _ in range(num_ranks)]
    load = [(0, rank) for rank in range(num_ranks)]
    for row, tokens in zip(longest_first.tolist(), totals[longest_first].tolist(), strict=True):
        carried, rank = load[0]
        heapq.heapreplace(load, (carried + tokens, rank))
        owned[rank].append(row)
    cut = [_cut(np.asarray(mine, dtype=np.int64), totals, micro_batch_tokens) for mine in owned]
    # Splitting a full micro-batch instead of adding an empty one would cost as much and read worse.
    passes = max(len(mine) for mine in cut)
    empty = np.zeros(0, dtype=np.int64)
    return tuple(tuple(mine + [empty] * (passes - len(mine))) for mine in cut)


def _cut(rows: np.ndarray, totals: np.ndarray, micro_batch_tokens: int) -> list[np.ndarray]:
    """Cut rows, longest first, into runs whose padded size fits; the first of a run sets its padded length."""
    parts, start = [], 0
    while start < len(rows):
        end = start + int(micro_batch_tokens // totals[rows[start]])
        parts.append(rows[start:end])
        start = end
    return parts
