"""The reward model: how it is loaded and saved, and how problem and reasoning become its input.

An ordinary sequence classification model with one label, so any tool that serves such models serves this one. It sees
problem and reasoning, never the program. The input template is not given by the paper; this one is ours.

Invariant: reasoning is encoded apart from its frame, so a cut changes neither the problem nor the closing tag, on which
the score is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pgrpo_ray.errors import ModelError

OPENING, CLOSING = "\n<think>", "</think>"


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A model with its tokenizer."""

    network: PreTrainedModel
    """One label; `config.pad_token_id` is set, because the score is read at the last token that is not padding."""
    tokenizer: PreTrainedTokenizerBase

    def save(self, folder: Path) -> None:
        """Write both in Hugging Face format."""
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def encode(self, items: Sequence[tuple[str, str]], max_length_tokens: int) -> list[list[int]]:
        """Return token ids for each (problem prompt, reasoning), at most `max_length_tokens` each.

        Too long an input loses the beginning of the reasoning: its end says what the program will do. Only a problem
        that leaves no room at all is itself cut at its beginning.
        """
        if not items:
            return []
        heads = self._ids([prompt + OPENING for prompt, _ in items])
        bodies = self._ids([reasoning for _, reasoning in items])
        tail = self._ids([CLOSING])[0]
        begin = self.tokenizer.bos_token_id
        encoded = []
        for head, body in zip(heads, bodies, strict=True):
            head = head if begin is None else [begin, *head]
            room = max(0, max_length_tokens - len(head) - len(tail))
            kept = body[len(body) - room :] if len(body) > room else body
            encoded.append([*head, *kept, *tail][-max_length_tokens:])
        return encoded

    def logits(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the raw scalar of each sequence, float32 [B]. Differentiable unless the caller forbids it."""
        pad_id = self.network.config.pad_token_id
        longest = max(len(ids) for ids in batch)
        ids = torch.full((len(batch), longest), pad_id, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        device = self.network.device
        return self.network(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, 0].float()

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Encode without special tokens: the frame above is all there is."""
        return self.tokenizer(texts, add_special_tokens=False, truncation=False)["input_ids"]


def load(model: str | Path, dtype: str = "float32", device: str = "cpu") -> RewardModel:
    """Load a trained reward model from a folder or by hub name, ready to score.

    Raises `ModelError` when it cannot be read, has not exactly one label, has no scoring head, or cannot pad.
    """
    network, tokenizer, missing = _read(model, dtype, {})
    if missing:
        raise ModelError(
            f"reward_model.model={str(model)!r} lacks a trained scoring head ({', '.join(sorted(missing)[:3])}): "
            "its scores would be random. Give a sequence classification model, or train one from it first."
        )
    return RewardModel(network.to(device).eval(), tokenizer)


def untrained(base: str | Path, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> RewardModel:
    """Put a fresh scalar head on a language model; what Bradley-Terry training starts from. Raises `ModelError`.

    `seed` decides the head's random weights (and sets torch's global generator).
    """
    torch.manual_seed(seed)
    network, tokenizer, _ = _read(base, dtype, {"num_labels": 1})
    return RewardModel(network.to(device), tokenizer)


def _read(model: str | Path, dtype: str, extra: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, set]:
    """Read model and tokenizer and check what every use needs; return them with the names of missing weights."""
    where = f"reward_model.model={str(model)!r}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network, info = AutoModelForSequenceClassification.from_pretrained(
            model, dtype=getattr(torch, dtype), output_loading_info=True, **extra
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{where} cannot be loaded: {first} Give a folder in Hugging Face format, or a hub name that is reachable."
        ) from error
    if network.config.num_labels != 1:
        raise ModelError(
            f"{where} has {network.config.num_labels} labels; a reward model has one. Train it with num_labels=1."
        )
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id
    if network.config.pad_token_id is None:
        raise ModelError(
            f"{where} names no padding token, without which scores of a batch are read at the wrong place. Set "
            "pad_token_id in its config.json (the end-of-sequence token will do)."
        )
    return network, tokenizer, set(info["missing_keys"])
