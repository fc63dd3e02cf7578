"""Digests of what is trained on, so that each stage can tell that it has the same rows as the others, in one order.

A row's digest is the CRC-32 of its token columns. Taken where programs are judged, it goes to the driver as a scalar
and is compared with that of the rows a learner rank has trained on: a column that slipped by a row, rows in another
order, or tokens that changed on their way give another one (but for 1 in 2^32). It costs a microsecond a row and
a nanosecond a token. It protects from defects, not from somebody who wants it to agree.
"""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np


def prompt_digest(prompt_ids: Sequence[int] | np.ndarray) -> int:
    """Return the digest of a prompt's token ids."""
    return zlib.crc32(np.ascontiguousarray(prompt_ids, dtype=np.int32).data)


def row_digest(prompt_ids: np.ndarray, response_ids: np.ndarray, rollout_logprobs: np.ndarray) -> int:
    """Return the digest of a rollout: its prompt's, gone on with over ids (int32) and logprobs (float32), each [T]."""
    digest = zlib.crc32(np.ascontiguousarray(response_ids, dtype=np.int32).data, prompt_digest(prompt_ids))
    return zlib.crc32(np.ascontiguousarray(rollout_logprobs, dtype=np.float32).data, digest)


def digest_of(digests: Iterable[int] | np.ndarray) -> int:
    """Return the digest of some rows' digests, in their order."""
    return zlib.crc32(np.array([*digests], dtype=np.int64).data)
