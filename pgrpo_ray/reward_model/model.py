"""The reward model: how it is loaded and saved, and how problem and reasoning become its input.

An ordinary sequence classification model with one label, so any tool that serves such models serves this one. It sees
problem and reasoning, never the program. The input template is not given by the paper; this one is ours.

Invariant: reasoning is encoded apart from its frame, so a cut changes neither the problem nor the closing tag, on which
the score is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pgrpo_ray.algo.preferences import pad_right
from pgrpo_ray.data.model_files import require_weights
from pgrpo_ray.errors import ConfigError, ModelError
from pgrpo_ray.reward_model.calibration import Calibration

OPENING, CLOSING = "\n<think>", "</think>"


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A model with its tokenizer."""

    network: PreTrainedModel
    """One label; `config.pad_token_id` is set, because the score is read at the last token that is not padding."""
    tokenizer: PreTrainedTokenizerBase
    calibration: Calibration = field(default_factory=Calibration)
    """How a raw score becomes R^t. Applied by who bounds scores; `logits` and `raw_scores` stay raw."""

    def save(self, folder: Path) -> None:
        """Write all in Hugging Face format, the calibration as fields of config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        self.calibration.write_to(self.network.config)
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def encode(self, items: Sequence[tuple[str, str]], max_length_tokens: int) -> list[list[int]]:
        """Return token ids for each (problem prompt, reasoning); see `encode`."""
        return encode(self.tokenizer, items, max_length_tokens)

    def logits(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the raw scalar of each sequence, float32 [B]. Differentiable unless the caller forbids it."""
        return self.forward(*pad_right(batch, self.network.config.pad_token_id))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the raw scalar of each row of a padded batch [B, T], float32 [B]."""
        device = self.network.device
        return (
            self.network(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device)).logits[:, 0].float()
        )


def encode(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[tuple[str, str]], max_length_tokens: int
) -> list[list[int]]:
    """Return token ids for each (problem prompt, reasoning), at most `max_length_tokens` each.

    Too long an input loses the beginning of the reasoning: its end says what the program will do. Only a problem
    that leaves no room at all is itself cut at its beginning.
    """
    if not items:
        return []
    heads = _ids(tokenizer, [prompt + OPENING for prompt, _ in items])
    bodies = _ids(tokenizer, [reasoning for _, reasoning in items])
    tail = _ids(tokenizer, [CLOSING])[0]
    begin = tokenizer.bos_token_id
    encoded = []
    for head, body in zip(heads, bodies, strict=True):
        head = head if begin is None else [begin, *head]
        room = max(0, max_length_tokens - len(head) - len(tail))
        kept = body[len(body) - room :] if len(body) > room else body
        encoded.append([*head, *kept, *tail][-max_length_tokens:])
    return encoded


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Encode without special tokens: the frame above is all there is."""
    return tokenizer(texts, add_special_tokens=False, truncation=False)["input_ids"]


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
    return RewardModel(network.to(device).eval(), tokenizer, Calibration.of(network.config))


def untrained(base: str | Path, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> RewardModel:
    """Put a fresh scalar head on a language model; what Bradley-Terry training starts from. Raises `ModelError`.

    `seed` decides the head's random weights (and sets torch's global generator).
    """
    torch.manual_seed(seed)
    network, tokenizer, _ = _read(base, dtype, {"num_labels": 1}, pad_with_eos=True)
    return RewardModel(network.to(device), tokenizer)


def _read(
    model: str | Path, dtype: str, extra: dict[str, Any], pad_with_eos: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, set]:
    """Read model and tokenizer and check what every use needs; return them with the names of missing weights."""
    where = f"reward_model.model={str(model)!r}"
    if Path(model).is_dir():
        require_weights(Path(model), where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network, info = AutoModelForSequenceClassification.from_pretrained(
            model,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **extra,
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
    if network.config.pad_token_id is None and pad_with_eos:
        network.config.pad_token_id = tokenizer.eos_token_id
    if network.config.pad_token_id is None:
        raise ModelError(
            f"{where} names no padding token, without which scores of a batch are read at the wrong place. Set "
            "pad_token_id in its config.json (the end-of-sequence token will do)."
        )
    _check_vocabulary(network, tokenizer, where)
    return network, tokenizer, set(info["missing_keys"])


def check_base(base: str | Path, max_length_tokens: int) -> None:
    """Refuse a base that cannot become a reward model; reads no weights, only a folder's table of them.

    Raises `ModelError`, or `ConfigError` for a length that the base was not made for.
    """
    where = f"model.base={str(base)!r}"
    settings, tokenizer = (
        AutoConfig.from_pretrained(base, trust_remote_code=False),
        AutoTokenizer.from_pretrained(base, trust_remote_code=False),
    )
    if any("SequenceClassification" in kind for kind in settings.architectures or []) and settings.num_labels != 1:
        raise ModelError(
            f"{where} has a head with {settings.num_labels} labels already; a reward model has one. Give the language "
            "model under it, or a classifier of one label."
        )
    try:
        with torch.device("meta"):  # shapes without memory
            shell = AutoModelForSequenceClassification.from_config(settings)
    except (ValueError, KeyError) as error:
        raise ModelError(
            f"{where}: transformers has no sequence classifier for models of type {settings.model_type!r}: "
            f"{str(error).splitlines()[0]} Give another base."
        ) from error
    if settings.pad_token_id is None and tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise ModelError(
            f"{where}: its tokenizer has neither a padding nor an end-of-sequence token, without which a sequence "
            "cannot be told from its padding. Set pad_token in its tokenizer_config.json."
        )
    _check_vocabulary(shell, tokenizer, where)
    if Path(base).is_dir():
        require_weights(Path(base), where)
    for file in sorted(Path(base).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ModelError(f"{where}: {file.name} is no whole safetensors file ({error}). Copy it again.") from error
    positions = getattr(settings, "max_position_embeddings", None)
    if positions is not None and max_length_tokens > positions:
        raise ConfigError(
            f"model.max_length_tokens is {max_length_tokens}, but {base} was made for sequences of {positions} tokens. "
            "Lower it.",
            path="model.max_length_tokens",
        )


def _check_vocabulary(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raise `ModelError` when the tokenizer knows tokens that the model does not embed."""
    rows = network.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{where} comes with a foreign tokenizer: {len(tokenizer)} tokens, but the model embeds {rows}. Put the "
            "tokenizer's files of this very model beside it."
        )
