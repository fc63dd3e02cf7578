"""How far to trust a share, and whether two models differ on the same problems.

Owns statistics alone: no files, no sampling. The unit is the problem: several samples of one problem share its
difficulty, so they are averaged first, and only problems are drawn or swapped. All of it speaks of the choice of
problems; none of it knows of seeds of training.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pgrpo_ray.evaluation.bootstrap import CHUNK, RESAMPLES, bootstrap_interval

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of second minus first over the same problems, with what chance alone could have done."""

    value: float
    low: float
    high: float
    p_value: float
    """That of no difference, two-sided, by `test`."""
    test: str
    """`mcnemar` (one sample a problem: exact) or `sign_flip` (several: random swaps of the two models)."""
    only_first: int
    """Problems on which the first did better."""
    only_second: int
    num_problems: int


def wilson_interval(num_correct: int, num_trials: int, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return (share, low, high) of a proportion of independent trials, by Wilson's score interval.

    Unlike the usual p +- z s it never leaves [0, 1] and keeps a width where all trials agree (Wilson 1927, JASA 22).
    For one sample a problem; several samples of one problem are not independent. Raises `ValueError` unless
    0 <= correct <= trials and trials >= 1.
    """
    if num_trials < 1 or not 0 <= num_correct <= num_trials:
        raise ValueError(f"{num_correct} of {num_trials} is no share. Give 0 <= correct <= trials, at least one trial.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), received {confidence}")
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share = num_correct / num_trials
    centre = (share + z * z / (2 * num_trials)) / (1 + z * z / num_trials)
    half = z / (1 + z * z / num_trials) * np.sqrt(share * (1 - share) / num_trials + z * z / (4 * num_trials**2))
    # Rounding may leave the exact ends 0 and 1 by one part in 1e17.
    low = 0.0 if num_correct == 0 else float(centre - half)
    high = 1.0 if num_correct == num_trials else float(centre + half)
    return share, low, high


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test from the counts of problems that only one model solved.

    Under no difference each such problem falls to either side like a fair coin (McNemar 1947; the exact form is a
    binomial test). 1 where there are none. Raises `ValueError` for negative counts.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must be at least 0, received {only_first} and {only_second}")
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def paired_difference(first: ArrayLike, second: ArrayLike, seed: int = 0) -> PairedDifference:
    """Compare two models' shares of correct samples [P] on the same problems; deterministic in `seed`.

    The interval is a percentile bootstrap over problems, both models drawn together. Shares of 0 and 1 alone (one
    sample a problem) give McNemar's exact p-value, others that of random swaps of the two models within each problem.
    Raises `ValueError` unless both are of one length, at least 1, and in [0, 1].
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != two.shape or not one.size:
        raise ValueError(f"both must be [P] with P >= 1, received shapes {one.shape} and {two.shape}")
    if not (((one >= 0) & (one <= 1)).all() and ((two >= 0) & (two <= 1)).all()):
        raise ValueError("shares must lie in [0, 1]")
    differences = two - one
    generator = np.random.default_rng(seed)
    low, high = bootstrap_interval(differences, CONFIDENCE, generator)
    worse, better = int((differences < 0).sum()), int((differences > 0).sum())
    binary = np.isin(one, (0, 1)).all() and np.isin(two, (0, 1)).all()
    return PairedDifference(
        value=float(differences.mean()),
        low=low,
        high=high,
        p_value=mcnemar_exact(worse, better) if binary else _sign_flip(differences, generator),
        test="mcnemar" if binary else "sign_flip",
        only_first=worse,
        only_second=better,
        num_problems=one.size,
    )


def _sign_flip(differences: np.ndarray, generator: np.random.Generator) -> float:
    """Return the share of random swaps whose mean lies at least as far from 0; the observed one counts as a swap."""
    observed, far = abs(differences.mean()), 0
    for done in range(0, RESAMPLES, CHUNK):
        size = (min(CHUNK, RESAMPLES - done), differences.size)
        swapped = (differences * generator.choice((-1.0, 1.0), size=size)).mean(axis=1)
        far += int((np.abs(swapped) >= observed - 1e-12).sum())  # sums in another order differ in the last digit
    return (far + 1) / (RESAMPLES + 1)
