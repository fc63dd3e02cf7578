"""Rollouts from Arrow columns to padded arrays: the last copy before the learner's forward pass.

Owns the layout prompt, response, padding. Does not own: which rows go together (the driver's plan), tensors and devices
(`learner.worker`).

One step of Python is taken for a row and none for a token: a row is one memcpy for each column, straight from the
buffer in which it came. Masks or index arrays over all tokens, which take no step for a row either, took four times as
long with responses of 2,000 to 16,000 tokens (`benchmarks/arrow_stream.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pgrpo_ray.data.digests import row_digest

TOKEN_COLUMNS = ("prompt_ids", "response_ids", "rollout_logprobs")
VERSION_COLUMNS = ("versions", "version_starts")
"""Of `arrow.ROLLOUT_SCHEMA`: what the learner reads."""


@dataclass(frozen=True, eq=False, slots=True)
class PaddedRollouts:
    """Rollouts side by side: prompt, then response, then padding. B rows, T tokens of the longest of them."""

    input_ids: np.ndarray
    """int64 [B, T], 0 on padding."""
    is_token: np.ndarray
    """bool [B, T], False on padding."""
    is_response: np.ndarray
    """bool [B, T]: the policy sampled the token."""
    is_current: np.ndarray
    """bool [B, T]: the policy sampled the token with the version that was asked about."""
    rollout_logprobs: np.ndarray
    """float32 [B, T] of the token in that place, nats; 0 where it is no response."""


class TokenRows:
    """The rows of ROLLOUT tables, one after another, as views of their columns."""

    def __init__(self, tables: Sequence[pa.Table]):
        """Raises `ValueError` for null, or a response with more or fewer logprobs than tokens."""
        self._prompts, self._responses, self._logprobs = (row_views(tables, name) for name in TOKEN_COLUMNS)
        versions, starts = (row_views(tables, name) for name in VERSION_COLUMNS)
        # No token is newer than the current version, so its tokens are those of the last span. An empty response has
        # no span, and no token to ask about.
        self._last_versions = [int(row[-1]) if len(row) else None for row in versions]
        self._last_starts = [int(row[-1]) if len(row) else 0 for row in starts]
        for row, (ids, logprobs) in enumerate(zip(self._responses, self._logprobs, strict=True)):
            if len(ids) != len(logprobs):
                raise ValueError(f"row {row} has {len(ids)} response tokens and {len(logprobs)} logprobs")

    def __len__(self) -> int:
        return len(self._prompts)

    def digest(self, row: int) -> int:
        """Return the digest of a row, see `data.digests`."""
        return row_digest(self._prompts[row], self._responses[row], self._logprobs[row])

    def pad(self, row_ids: np.ndarray, version: int) -> PaddedRollouts:
        """Return the rows `row_ids`, int64 [B], at least one, as padded arrays; `version` is the current policy's."""
        rows = row_ids.tolist()
        shape = len(rows), max(len(self._prompts[row]) + len(self._responses[row]) for row in rows)
        ids, logprobs = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        is_token, is_response, is_current = (np.zeros(shape, bool) for _ in range(3))
        for place, row in enumerate(rows):
            prompt, response = self._prompts[row], self._responses[row]
            start, end = len(prompt), len(prompt) + len(response)
            ids[place, :start], ids[place, start:end] = prompt, response
            logprobs[place, start:end] = self._logprobs[row]
            is_token[place, :end] = is_response[place, start:end] = True
            if self._last_versions[row] == version:
                is_current[place, start + self._last_starts[row] : end] = True
        return PaddedRollouts(ids, is_token, is_response, is_current, logprobs)


def row_views(tables: Sequence[pa.Table], name: str) -> list[np.ndarray]:
    """Return every row of a column of lists as a view of the buffer where it lies. Raises `ValueError` for null."""
    rows: list[np.ndarray] = []
    for chunk in (chunk for table in tables for chunk in table[name].chunks):
        values = chunk.flatten()  # of a slice, its own rows' alone
        if chunk.null_count or values.null_count:
            raise ValueError(f"column {name} holds a null list or value")
        offsets = chunk.offsets.to_numpy()
        flat = values.to_numpy()
        rows += [flat[start:end] for start, end in pairwise((offsets - offsets[0]).tolist())]
    return rows
