"""R^t: scores reasoning in [0, 1] with a trained reward model. Implements `protocols.ThinkingScorer`.

The map from the Bradley-Terry scalar to [0, 1] is the sigmoid (ours: the paper leaves it open). It protects the reward
from unbounded scores; it does not protect from reasoning that flatters the model, which is what the gate is for.
"""

import math
from collections.abc import Sequence

import torch

from pgrpo_ray.config import RewardModelSection
from pgrpo_ray.errors import ModelError
from pgrpo_ray.reward_model.model import load
from pgrpo_ray.reward_model.train import raw_scores


class RewardScorer:
    """Holds one reward model and scores batches. Not thread-safe: one caller at a time."""

    def __init__(self, section: RewardModelSection):
        """Load the model that `section.model` names, a folder or hub name. Raises `ModelError`."""
        self._section = section
        if section.gpus:
            if not torch.cuda.is_available():
                raise ModelError(
                    f"reward_model.gpus is {section.gpus}, but torch sees no GPU. Set reward_model.gpus=0."
                )
        else:
            torch.set_num_threads(section.threads)
        self._model = load(section.model, section.dtype, "cuda" if section.gpus else "cpu")

    def score(self, items: Sequence[tuple[str, str]]) -> list[float]:
        """Return R^t in [0, 1] for each (problem prompt, reasoning), in order.

        Raises `ModelError` when the model returns a score that is no number: a reward must not hide it.
        """
        section = self._section
        raw = raw_scores(self._model, items, section.batch_size, section.max_length_tokens)
        broken = [number for number, score in enumerate(raw) if math.isnan(score)]
        if broken:
            raise ModelError(
                f"reward model {section.model!r} gave no number for {len(broken)} of {len(raw)} reasonings (first: "
                f"item {broken[0]}). Check its weights, or set reward_model.dtype=float32."
            )
        return [sigmoid(score) for score in raw]


def sigmoid(score: float) -> float:
    """Return 1 / (1 + exp(-score)) without overflow."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    power = math.exp(score)
    return power / (1.0 + power)
