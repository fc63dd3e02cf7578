"""R^t: scores reasoning in [0, 1] with a trained reward model. Implements `protocols.ThinkingScorer`.

Owns the way from texts to scores: one encoding for every backend (token ids go in, so both cut alike), the backend's
raw scalar, and the map to [0, 1] (`score_maps`). The map protects the reward from unbounded scores; it does not protect
from reasoning that flatters the model, which is what the gate is for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pgrpo_ray.config import RewardModelSection
from pgrpo_ray.errors import ModelError
from pgrpo_ray.reward_model.checkpoint import inspect
from pgrpo_ray.reward_model.model import RewardModel, load
from pgrpo_ray.reward_model.score_maps import ScoreMap, sigmoid

__all__ = ["RewardScorer", "Scored", "ServedModel", "sigmoid"]

Item = tuple[str, str]
"""(problem prompt, reasoning)."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What is known of one reasoning."""

    raw: float
    """The model's scalar, unbounded; comparable between reasonings about one problem."""
    score: float
    """R^t in [0, 1]."""
    tokens: int
    """Length of the model's input, frame included, after cutting."""
    truncated: bool
    """The input was longer than the limit and lost its beginning of the reasoning."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What gives the scores; every answer of the reward server carries it."""

    model: str
    """Folder or hub name as configured."""
    version: str
    """See `reward_model.checkpoint`."""
    backend: str
    """`transformers` or `vllm`."""
    score_map: ScoreMap
    max_length_tokens: int
    """Where inputs are cut: the config's limit or the model's own, whichever is lower."""


class Backend(Protocol):
    """Runs the network. Implemented by `Transformers` here and by `vllm_pooling.VllmPooling`."""

    def raw(self, batch: Sequence[Sequence[int]]) -> list[float]:
        """Return the raw scalar of each sequence of token ids; no sequence is empty or too long."""


class Transformers:
    """Plain transformers, length-sorted batches."""

    def __init__(self, section: RewardModelSection):
        if section.gpus:
            if not torch.cuda.is_available():
                raise ModelError(
                    f"reward_model.gpus is {section.gpus}, but torch sees no GPU. Set reward_model.gpus=0."
                )
        else:
            torch.set_num_threads(section.threads)
        self._model = load(section.model, section.dtype, "cuda" if section.gpus else "cpu")
        self._batch_size = section.batch_size

    @torch.inference_mode()
    def raw(self, batch: Sequence[Sequence[int]]) -> list[float]:
        """Return the raw scalar of each sequence. Runs sorted by length: little padding."""
        by_length = sorted(range(len(batch)), key=lambda row: len(batch[row]))
        scores = [0.0] * len(batch)
        for start in range(0, len(by_length), self._batch_size):
            rows = by_length[start : start + self._batch_size]
            for row, score in zip(rows, self._model.logits([batch[row] for row in rows]).tolist(), strict=True):
                scores[row] = score
        return scores


class RewardScorer:
    """Holds one reward model and scores batches. Not thread-safe: one caller at a time."""

    def __init__(self, section: RewardModelSection):
        """Load the model that `section.model` names, a folder or hub name. Raises `ModelError`."""
        checkpoint = inspect(section.model)
        self._frame: RewardModel = checkpoint.frame
        limit = min(section.max_length_tokens, checkpoint.max_positions or section.max_length_tokens)
        calibration = checkpoint.frame.calibration
        self.served = ServedModel(
            model=section.model,
            version=checkpoint.version,
            backend=section.backend,
            score_map=ScoreMap(
                section.score_map,
                calibration.temperature if section.score_temperature is None else section.score_temperature,
                calibration.offset if section.score_offset is None else section.score_offset,
            ),
            max_length_tokens=limit,
        )
        self._backend = _make_backend(section, limit)

    def score(self, items: Sequence[Item]) -> list[float]:
        """Return R^t in [0, 1] for each (problem prompt, reasoning), in order.

        Raises `ModelError` when the model returns a score that is no number: a reward must not hide it.
        """
        scored = self.assess(items)
        self.check(scored)
        return [one.score for one in scored]

    def assess(self, items: Sequence[Item]) -> list[Scored]:
        """Return all that is known of each (problem prompt, reasoning), in order.

        Both `raw` and `score` are NaN where the model gave no finite number; `check` turns that into an error.
        """
        if not items:
            return []
        limit = self.served.max_length_tokens
        encoded = self._frame.encode(items, _NO_LIMIT)
        long = [row for row, ids in enumerate(encoded) if len(ids) > limit]
        for row, cut in zip(long, self._frame.encode([items[row] for row in long], limit), strict=True):
            encoded[row] = cut
        bounded, was_cut = self.served.score_map.bounded, set(long)
        return [
            Scored(raw, bounded(raw), len(ids), row in was_cut)
            if math.isfinite(raw)
            else Scored(math.nan, math.nan, len(ids), row in was_cut)
            for row, (ids, raw) in enumerate(zip(encoded, self._backend.raw(encoded), strict=True))
        ]

    def check(self, scored: Sequence[Scored]) -> None:
        """Raise `ModelError` when one of `scored` is no number."""
        broken = [number for number, one in enumerate(scored) if math.isnan(one.raw)]
        if broken:
            raise ModelError(
                f"reward model {self.served.model!r} gave no finite number for {len(broken)} of {len(scored)} "
                f"reasonings (first: item {broken[0]}). Check its weights, or set reward_model.dtype=float32."
            )


_NO_LIMIT = 1 << 30
"""Tokens; what no input reaches."""


def _make_backend(section: RewardModelSection, limit: int) -> Backend:
    if section.backend == "vllm":
        from pgrpo_ray.reward_model.vllm_pooling import VllmPooling

        return VllmPooling(section, limit)
    return Transformers(section)
