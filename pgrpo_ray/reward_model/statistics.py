"""How well something orders pairs: accuracy with intervals, by bucket, and how two compare on the same pairs.

An outcome is 1 where the chosen side scored higher, 0 where lower, and 0.5 for a tie. Intervals are percentile
bootstraps over groups (problems), not over pairs: pairs of one problem share it, and treating them as independent would
give intervals that are too narrow. With one group there is no interval to speak of: its ends are None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
"""Bootstrap resamples. Ours: an end point of a 95 % interval then wobbles by about 1 % of the interval's width."""
CONFIDENCE = 0.95
_CHUNK = 256
"""Resamples drawn at a time: bounds memory at 256 x groups indices."""

LENGTH_BUCKETS = ("much shorter", "shorter", "about equal", "longer", "much longer")
"""The chosen side's length against the rejected one's."""
EQUAL_WITHIN, MUCH_FROM = 0.05, 0.25
"""Bounds of the length buckets, as shares of the longer side. Ours."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share or a difference with its 95 % interval."""

    value: float
    low: float | None
    """None: there are not two groups to draw from."""
    high: float | None
    num_pairs: int
    num_groups: int

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def outcome(chosen: float, rejected: float) -> float:
    """Return 1 where the chosen side scored higher, 0 where lower, 0.5 for a tie."""
    return 0.5 if chosen == rejected else float(chosen > rejected)


def estimate(outcomes: Sequence[float] | np.ndarray, groups: Sequence[str] | np.ndarray, seed: int) -> Estimate:
    """Return the mean outcome [N] with its interval over `groups` [N]; deterministic in `seed`.

    Raises `ValueError` without outcomes.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if not values.size or len(groups) != values.size:
        raise ValueError(f"{values.size} outcomes and {len(groups)} groups: both must be the same number, at least 1")
    names, index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(index, weights=values)
    sizes = np.bincount(index)
    low, high = None, None
    if names.size > 1:
        means = _resampled(sums, sizes, seed)
        low, high = (float(end) for end in np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return Estimate(float(values.mean()), low, high, int(values.size), int(names.size))


def difference(first: Sequence[float], second: Sequence[float], groups: Sequence[str], seed: int) -> Estimate:
    """Return mean(first - second) with its interval: both on the same pairs, drawn together."""
    return estimate(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), groups, seed)


def by_bucket(
    outcomes: Sequence[float], groups: Sequence[str], buckets: Sequence[str], seed: int
) -> dict[str, Estimate]:
    """Return an estimate for each bucket name that occurs, in the order of first sight."""
    found = {}
    for bucket in dict.fromkeys(buckets):
        rows = [row for row, name in enumerate(buckets) if name == bucket]
        found[bucket] = estimate([outcomes[row] for row in rows], [groups[row] for row in rows], seed)
    return found


def length_bucket(chosen: str, rejected: str) -> str:
    """Name how much longer the chosen text is than the rejected one, by characters."""
    longest = max(len(chosen), len(rejected))
    relative = (len(chosen) - len(rejected)) / longest if longest else 0.0
    if abs(relative) <= EQUAL_WITHIN:
        return "about equal"
    size = "much " if abs(relative) > MUCH_FROM else ""
    return f"{size}{'longer' if relative > 0 else 'shorter'}"


BASELINES: dict[str, Callable[[str, str], float]] = {
    "longer wins": lambda chosen, rejected: outcome(len(chosen), len(rejected)),
    "shorter wins": lambda chosen, rejected: outcome(-len(chosen), -len(rejected)),
    "random": lambda chosen, rejected: 0.5,
}
"""Orders that know nothing of reasoning, from (chosen, rejected) to the expected outcome; characters are counted."""


def _resampled(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """Means of `RESAMPLES` draws of groups with replacement, each draw's pairs pooled."""
    generator = np.random.default_rng(seed)
    count = sums.size
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, _CHUNK):
        # Indices, not multinomial counts: those take five times as long.
        draws = generator.integers(count, size=(min(_CHUNK, RESAMPLES - start), count))
        means[start : start + len(draws)] = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    return means
