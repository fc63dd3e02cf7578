"""From the raw scalar of a reward model to R^t in [0, 1].

The paper leaves the map open; these are ours. Each takes z = (raw - offset) / temperature, rises with z, and is 1/2 at
z = 0. Temperature and offset come with the model (its calibration) unless the config sets them. No map makes a score
right: it only bounds it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


def sigmoid(z: float) -> float:
    """Return 1 / (1 + exp(-z)) without overflow: the probability that Bradley-Terry gives against a score of 0."""
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    power = math.exp(z)
    return power / (1.0 + power)


def clipped_linear(z: float) -> float:
    """Return 1/2 + z/4 cut to [0, 1]: the sigmoid's tangent. Equal steps of z count the same, none beyond -2 and 2."""
    return min(1.0, max(0.0, 0.5 + z / 4))


def softsign(z: float) -> float:
    """Return 1/2 + z / (2 + 2|z|). Heavier tails than the sigmoid: very good reasonings still differ."""
    return 0.5 + 0.5 * z / (1.0 + abs(z))


MAPS: dict[str, Callable[[float], float]] = {
    "sigmoid": sigmoid,
    "clipped_linear": clipped_linear,
    "softsign": softsign,
}
"""By the names that `reward_model.score_map` knows."""


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """A map with its two numbers."""

    name: str
    """One of `MAPS`."""
    temperature: float
    """Above 0, in units of the raw score."""
    offset: float
    """The raw score that becomes 1/2."""

    def bounded(self, raw: float) -> float:
        """Return `raw`, a finite number, as a score in [0, 1]."""
        return MAPS[self.name]((raw - self.offset) / self.temperature)
