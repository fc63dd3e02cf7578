"""Training a scalar score: losses on pairs and on single scores, and how the rows of a batch become passes.

Used by `reward_model.train` in one process and by `learner.reward_worker` on ZeRO ranks, which therefore compute the
same thing. A *row* is what the loss is about: two sequences (better, worse) or one. A batch's loss is the sum over its
rows divided by their number over all ranks, so how rows are cut into passes and ranks changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised. The defaults are the paper's plain Bradley-Terry loss."""

    kind: Literal["bradley_terry", "score"] = "bradley_terry"
    margin: float = 0.0
    """See `pair_losses`; `bradley_terry` only, like the two below."""
    label_smoothing: float = 0.0
    centering: float = 0.0

    @property
    def sides(self) -> int:
        """Sequences of one row."""
        return 2 if self.kind == "bradley_terry" else 1

    def losses(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row [B] from raw `scores` [sides, B]; `targets` [B] are read by `score` alone."""
        if self.kind == "score":
            return score_losses(scores[0], targets)
        return pair_losses(scores[0], scores[1], self.margin, self.label_smoothing, self.centering)


def pair_losses(
    better: torch.Tensor,
    worse: torch.Tensor,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
    centering: float = 0.0,
) -> torch.Tensor:
    """Return the loss of each pair [B], nats, from raw scores [B] each.

    -log sigmoid(d) with d = better - worse - margin is Bradley-Terry's. `label_smoothing` e takes the pair for
    mislabelled with that probability: (1 - e) of it and e of -log sigmoid(-d). `centering` c adds
    c * (better + worse)**2, which pulls scores towards zero on average: Bradley-Terry leaves their level open
    (Eisenstein et al. 2023, "Helping or herding?", arXiv 2312.09244; TRL offers it as `center_rewards_coefficient`).
    """
    gap = better - worse - margin
    losses = -(1 - label_smoothing) * functional.logsigmoid(gap) - label_smoothing * functional.logsigmoid(-gap)
    return losses + centering * (better + worse) ** 2


def score_losses(raw: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return (sigmoid(raw) - target)**2 of each row [B]; targets in [0, 1]. Bounded, so R^t needs no other map (ours:
    the paper says no more of its +Score arm than that the same model is trained on an LLM's scores)."""
    return (torch.sigmoid(raw) - targets) ** 2


def rate_frac(step: int, num_steps: int, warmup_steps: int) -> float:
    """Return the share of the peak learning rate at `step` (from 0): a linear rise, then a linear fall to zero."""
    warmup = max(1, warmup_steps)
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (num_steps - step) / max(1, num_steps - warmup))


@dataclass(frozen=True, eq=False, slots=True)
class TokenTable:
    """Sequences of token ids, end to end in one array: processes of a node share it without a copy."""

    ids: np.ndarray
    """int32 [N]."""
    starts: np.ndarray
    """int64 [S + 1]: sequence s is `ids[starts[s]:starts[s + 1]]`."""

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "TokenTable":
        """Build it from lists."""
        starts = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=starts[1:])
        ids = np.fromiter((token for sequence in sequences for token in sequence), np.int32, int(starts[-1]))
        return cls(ids, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 [S]."""
        return np.diff(self.starts)

    def padded(self, numbers: np.ndarray, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input ids and attention mask of the numbered sequences, int64 [B, T] each, padded on the right."""
        return pad_right([self.ids[self.starts[n] : self.starts[n + 1]] for n in numbers], pad_id)


@dataclass(frozen=True, eq=False, slots=True)
class TrainingRows:
    """What a trainer is given: its rows as tokens, and what each shall come to."""

    tokens: TokenTable
    """Sequences of row r: `r * sides` to `r * sides + sides - 1`, the better one first."""
    sides: int
    targets: np.ndarray
    """float32 [R]; zeros where the objective reads none."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row's longest sequence, int64 [R]."""
        return self.tokens.lengths.reshape(-1, self.sides).max(axis=1)

    def padded(self, rows: np.ndarray, pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids and mask, int64 [sides * B, T], all better sides first, and targets float32 [B]."""
        sequences = np.concatenate([np.asarray(rows, np.int64) * self.sides + side for side in range(self.sides)])
        ids, mask = self.tokens.padded(sequences, pad_id)
        return ids, mask, torch.from_numpy(self.targets[rows])


def pad_right(sequences: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids, filled up with `pad_id`, and a mask that is 0 there; int64 [B, T] each."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(np.asarray(sequence, np.int64))
        mask[row, : len(sequence)] = 1
    return ids, mask


def cut_passes(
    numbers: Sequence[int], lengths: np.ndarray, sides: int, num_ranks: int, max_tokens: int
) -> list[list[np.ndarray]]:
    """Share out rows over ranks and cut each share into passes; return row numbers [rank][pass], int64.

    A pass holds at most `max_tokens` tokens, padding and all `sides` included, and at least one row. Ranks get rows of
    like lengths and all the same number of passes; some may be empty.
    """
    by_length = sorted(numbers, key=lambda number: (int(lengths[number]), number))
    ranks = []
    for rank in range(num_ranks):
        passes: list[list[int]] = []
        for number in by_length[rank::num_ranks]:  # ascending: each new row is the longest of its pass
            if passes and sides * (len(passes[-1]) + 1) * int(lengths[number]) <= max_tokens:
                passes[-1].append(number)
            else:
                passes.append([number])
        ranks.append([np.array(rows, np.int64) for rows in passes])
    most = max(len(passes) for passes in ranks)
    return [passes + [np.zeros(0, np.int64)] * (most - len(passes)) for passes in ranks]
