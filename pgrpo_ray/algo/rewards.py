"""Compose the reward R = R^f + R^o + R^o * R^t (Posterior-GRPO, arXiv 2508.05170).

Owns the composition and the rule for failed machinery; does not know how the terms were obtained. The product is the
gate: reasoning earns nothing unless the program passes, so the thinking reward cannot be collected by prose alone. It
is also why R^t need not be asked for where R^o = 0: the term is zero whatever the answer.

Range: 0 (wrong format), 1 (format only), [2, 3] (format and passed). A failing program never outranks a passing one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False, slots=True)
class RewardTerms:
    """The terms as added, one entry per rollout. Made by `compose`."""

    format: np.ndarray
    """R^f, float64 [N], 0 or 1; never NaN."""
    outcome: np.ndarray
    """R^o, float64 [N], 0 or 1; NaN where dropped."""
    thinking: np.ndarray
    """R^o * R^t, float64 [N], in [0, 1]; NaN where dropped."""
    reward: np.ndarray
    """The sum of the three, float64 [N], in [0, 3]; NaN where dropped."""
    dropped: np.ndarray
    """bool [N]: the machinery failed, so the rollout leaves its group and gets no gradient."""


def compose(format_ok: ArrayLike, passed: ArrayLike, thinking: ArrayLike, failed: ArrayLike) -> RewardTerms:
    """Compose the reward of N rollouts.

    `format_ok`, `passed` are bool [N]; `thinking` is R^t, float [N] in [0, 1], NaN where there is no score; `failed` is
    bool [N]: the execution machinery gave no verdict. A score given to a rollout that did not pass is ignored.

    A rollout that passed and has no score is dropped: the reward server failed, and a zero would punish the policy for
    it. Raises `ValueError` for unequal shapes, a score outside [0, 1], or a rollout that passed although its format is
    wrong or it was never judged.
    """
    format_ok, passed, failed = (_flags(values) for values in (format_ok, passed, failed))
    thinking = np.asarray(thinking, dtype=np.float64)
    if not format_ok.shape == passed.shape == failed.shape == thinking.shape or thinking.ndim != 1:
        shapes = [format_ok.shape, passed.shape, thinking.shape, failed.shape]
        raise ValueError(f"format_ok, passed, thinking and failed must have one shape [N], received {shapes}")
    if (passed & ~format_ok).any():
        raise ValueError("a rollout passed although its format is wrong: there was no program to run")
    if (passed & failed).any():
        raise ValueError("a rollout passed although the machinery failed: it has no verdict")
    # Scores behind a closed gate may be anything: ablations record them, nothing reads them here.
    scored = thinking[passed & ~np.isnan(thinking)]
    if ((scored < 0) | (scored > 1)).any():
        raise ValueError(f"thinking rewards must lie in [0, 1], received {scored.min()} to {scored.max()}")
    dropped = failed | (passed & np.isnan(thinking))
    gated = np.where(passed, thinking, 0.0)
    terms = (format_ok.astype(np.float64), passed.astype(np.float64), gated)
    outcome, product, reward = (np.where(dropped, np.nan, values) for values in (terms[1], terms[2], sum(terms)))
    return RewardTerms(format=terms[0], outcome=outcome, thinking=product, reward=reward, dropped=dropped)


def _flags(values: ArrayLike) -> np.ndarray:
    """Return a boolean array; refuse numbers, among which a pass fraction could slip in as R^o."""
    flags = np.asarray(values)
    if flags.size and flags.dtype != np.bool_:
        raise ValueError(f"expected booleans, received {flags.dtype}: R^f and R^o are all or nothing")
    return flags.astype(np.bool_)
