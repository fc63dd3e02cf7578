"""The percentile bootstrap over problems, for every interval of an evaluation. numpy alone: the driver has it too."""

import numpy as np

RESAMPLES = 10_000
"""Bootstrap resamples. Ours: an end point of a 95 % interval then wobbles by about 1 % of the interval's width."""
CHUNK = 256
"""Resamples drawn at a time: bounds memory at 256 x problems numbers."""


def bootstrap_interval(values: np.ndarray, confidence: float, generator: np.random.Generator) -> tuple[float, float]:
    """Return (low, high) of the mean of `values` [P]: percentiles of `RESAMPLES` means of draws with replacement."""
    sizes = [min(CHUNK, RESAMPLES - done) for done in range(0, RESAMPLES, CHUNK)]
    means = [values[generator.integers(values.size, size=(size, values.size))].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
