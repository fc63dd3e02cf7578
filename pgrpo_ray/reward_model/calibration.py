"""From a raw Bradley-Terry scalar to a probability that means something: temperature and offset, and how well they do.

Owns `Calibration` and its place in a model's config.json; how it is fitted on held-out pairs and judged. Raw scores
stay raw: nothing is folded into weights, so any tool that serves the model gives the scores that training saw, and
whoever needs R^t applies the calibration.

Bradley-Terry fixes differences of scores alone. The temperature says how large a difference is: with
P(better) = sigmoid((s_w - s_l) / temperature), fitted as in Guo et al. 2017 ("On calibration of modern neural
networks"). The offset says where zero lies: the mean held-out score, so that a reasoning no better and no worse than
the held-out ones gets 1/2 (ours; the paper leaves the map to [0, 1] open).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_ray.errors import ModelError

TEMPERATURE_KEY, OFFSET_KEY = "pgrpo_score_temperature", "pgrpo_score_offset"
"""In the model's config.json."""
NUM_BINS = 10
"""Of the reliability data: confidences from 1/2 to 1 in steps of 0.05."""
TEMPERATURE_BOUNDS = (1e-3, 1e3)
"""Where the temperature is looked for; one at a bound means that the scores order the pairs no better than chance."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The map from a raw score to the argument of the sigmoid. The default is the identity, as for foreign models."""

    temperature: float = 1.0
    """Raw-score units per nat of log-odds, > 0."""
    offset: float = 0.0
    """The raw score that becomes 1/2."""

    def logit(self, raw: float) -> float:
        """Return (raw - offset) / temperature: log-odds against the mean held-out reasoning."""
        return (raw - self.offset) / self.temperature

    @classmethod
    def of(cls, config: Any) -> "Calibration":
        """Read it from a loaded Hugging Face config, or from config.json as a dict; the identity where it has none.

        Raises `ModelError` for values that are no numbers, or a temperature that is not positive.
        """
        get = config.get if isinstance(config, dict) else lambda key, default: getattr(config, key, default)
        found = {}
        for key, default in ((TEMPERATURE_KEY, 1.0), (OFFSET_KEY, 0.0)):
            value = get(key, default)
            usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not usable or (key == TEMPERATURE_KEY and value <= 0):
                raise ModelError(
                    f"{key} in the reward model's config.json is {value!r}; it must be a finite number"
                    f"{' above 0' if key == TEMPERATURE_KEY else ''}. Correct it, or remove it for plain sigmoid."
                )
            found[key] = float(value)
        return cls(found[TEMPERATURE_KEY], found[OFFSET_KEY])

    def write_to(self, config: Any) -> None:
        """Set it on a Hugging Face config, whose `save_pretrained` then keeps it."""
        setattr(config, TEMPERATURE_KEY, self.temperature)
        setattr(config, OFFSET_KEY, self.offset)

    def store(self, folder: Path) -> None:
        """Set it in the config.json of a saved model, whole or not at all."""
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {TEMPERATURE_KEY: self.temperature, OFFSET_KEY: self.offset}
        draft = file.with_name("config.json.part")
        draft.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        draft.replace(file)


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of like confidence."""

    low: float
    """Confidences from here, in [0.5, 1]."""
    high: float
    num_pairs: int
    confidence: float | None
    """Mean of the bin; None where it is empty, as below."""
    accuracy: float | None
    """Share of them ordered rightly, ties half."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far confidence can be believed: on pairs, where confidence is the probability of the likelier order."""

    nll: float
    """Mean -log of the probability of the right order, nats per pair."""
    ece: float
    """Expected calibration error: mean |accuracy - confidence| over `bins`, weighted by their pairs (Guo et al.)."""
    bins: tuple[Bin, ...]


def fit(better: Sequence[float], worse: Sequence[float]) -> Calibration:
    """Fit temperature and offset on the raw scores of held-out pairs.

    The temperature minimises -log sigmoid((b - w) / temperature). Its target probability is not 1 but
    (n + 1) / (n + 2) for n pairs, after Platt 1999 ("Probabilistic outputs for support vector machines"): else the
    best temperature of pairs that are all ordered rightly would be 0. Raises `ValueError` without pairs.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    gaps = _gaps(better, worse)
    offset = float(np.mean([*better, *worse]))
    if not gaps.any():
        return Calibration(1.0, offset)  # nothing tells one temperature from another
    target = (len(gaps) + 1) / (len(gaps) + 2)

    def loss(log_temperature: float) -> float:
        logits = gaps / math.exp(log_temperature)
        return float(np.mean(target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)))

    bounds = tuple(math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return Calibration(math.exp(found.x), offset)


def reliability(better: Sequence[float], worse: Sequence[float], temperature: float) -> Reliability:
    """Measure the probabilities sigmoid((better - worse) / temperature) of pairs. Raises `ValueError` without pairs."""
    import numpy as np

    logits = _gaps(better, worse) / temperature
    right = np.where(logits == 0, 0.5, logits > 0)
    confidence = 1 / (1 + np.exp(-np.abs(logits)))
    place = np.minimum((2 * NUM_BINS * (confidence - 0.5)).astype(int), NUM_BINS - 1)
    bins, error = [], 0.0
    for number in range(NUM_BINS):
        inside = place == number
        count, mean, share = int(inside.sum()), None, None
        if count:
            mean, share = float(confidence[inside].mean()), float(right[inside].mean())
            error += count / len(logits) * abs(share - mean)
        bins.append(Bin(0.5 + number / (2 * NUM_BINS), 0.5 + (number + 1) / (2 * NUM_BINS), count, mean, share))
    return Reliability(float(np.logaddexp(0, -logits).mean()), error, tuple(bins))


def plot(before: Reliability, after: Reliability, file: Path) -> bool:
    """Draw both as a PNG; return False, having done nothing, where matplotlib is not installed (extra `dev`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color="grey", linewidth=1, linestyle="--", label="perfect")
    for measured, name in ((before, "before"), (after, "after")):
        full = [one for one in measured.bins if one.num_pairs]
        label = f"{name}: ECE {measured.ece:.3f}"
        axes.plot([one.confidence for one in full], [one.accuracy for one in full], marker="o", label=label)
    axes.set(xlabel="confidence in the likelier order", ylabel="share ordered rightly", title="Held-out pairs")
    axes.set_ylim(top=1.02)
    axes.legend()
    figure.savefig(file, dpi=120)
    return True


def _gaps(better: Sequence[float], worse: Sequence[float]) -> Any:
    """Return better - worse, float64 [N]. Raises `ValueError` without pairs."""
    import numpy as np

    if not len(better) or len(better) != len(worse):
        raise ValueError(
            f"{len(better)} better and {len(worse)} worse scores: both must be the same number, at least 1"
        )
    return np.asarray(better, np.float64) - np.asarray(worse, np.float64)
