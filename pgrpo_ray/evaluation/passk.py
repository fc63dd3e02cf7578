"""pass@k: the unbiased estimate and an interval that says how far to trust it.

Owns the estimate; sampling and judging happen elsewhere. The interval speaks of the choice of problems and, through
them, of sampling; it says nothing of seeds of training.
"""

import numpy as np
from numpy.typing import ArrayLike

from pgrpo_ray.evaluation.bootstrap import bootstrap_interval


def pass_at_k(num_correct: ArrayLike, num_samples: ArrayLike, k: int) -> np.ndarray:
    """Return each problem's chance that at least one of k samples is correct, float64 [P], unbiased.

    1 - C(n - c, k) / C(n, k), as the product of (1 - k / i) for i = n - c + 1 .. n, which neither overflows nor cancels
    (Chen et al. 2021, arXiv 2107.03374, figure 3). `num_correct` int [P]; `num_samples` int [P] or one number for all.
    Raises `ValueError` unless 0 <= correct <= samples and 1 <= k <= samples.
    """
    correct = np.atleast_1d(np.asarray(num_correct))
    samples = np.broadcast_to(np.asarray(num_samples), correct.shape)
    if correct.ndim != 1 or not correct.size:
        raise ValueError(f"num_correct must be a non-empty [P], received shape {correct.shape}")
    if (correct < 0).any() or (correct > samples).any():
        raise ValueError("num_correct must lie between 0 and num_samples")
    if k < 1 or (samples < k).any():
        raise ValueError(f"k must be between 1 and the fewest samples of a problem ({samples.min()}), received {k}")
    return np.array([_one(int(n), int(c), k) for n, c in zip(samples, correct, strict=True)])


def pass_at_k_interval(
    num_correct: ArrayLike, num_samples: ArrayLike, k: int, confidence: float, seed: int
) -> tuple[float, float, float]:
    """Return (estimate, low, high) of mean pass@k over problems; deterministic in `seed`.

    A percentile bootstrap over problems, not over samples: samples of one problem share its difficulty, so they are a
    cluster, and treating them as independent would give intervals that are too narrow. `confidence` in (0, 1), such as
    0.95. With few problems, or when all score alike, the interval is too narrow (of width 0 when all pass): it cannot
    know of problems unlike those it saw. Raises `ValueError` as `pass_at_k` does.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), received {confidence}")
    scores = pass_at_k(num_correct, num_samples, k)
    low, high = bootstrap_interval(scores, confidence, np.random.default_rng(seed))
    return float(scores.mean()), low, high


def _one(n: int, c: int, k: int) -> float:
    """Return one problem's pass@k from n samples of which c are correct."""
    # Fewer than k failures: every choice of k holds a success, and the product would meet a negative factor.
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
