"""What a model's files say before any weights are read: its kind, its size, its longest sequence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_ray.config import RunConfig
from pgrpo_ray.config.memory import ModelShape
from pgrpo_ray.data.model_files import require_weights
from pgrpo_ray.errors import ConfigError, ModelError


@dataclass(frozen=True)
class ModelFacts:
    """What a model's config says; no weights are read for it."""

    num_parameters: int
    max_positions: int | None
    """Longest sequence that it was made for, tokens; None where its config does not say."""
    shape: ModelShape | None = None
    """What memory follows from; None where its config does not say."""


STARTER_POLICY = ModelFacts(num_parameters=1_000_000, max_positions=512)
"""The starter's policy before it exists: its size is about this (a test holds it to that), its positions exactly."""


def model_facts(model: str, path: str, *, role: str) -> ModelFacts:
    """Read a model's config. `path` is the config key.

    `role`: `causal`, a language model; `reward`, a sequence classifier of one label; `base`, either of them
    (`reward_model.model.check_base` counts its labels).
    Raises `ModelError` when the model is not there or is of the wrong kind.
    """
    looks_local = model.startswith((".", "/", "~")) or Path(model).is_dir()
    if looks_local and not (Path(model) / "config.json").is_file():
        raise ModelError(
            f"{path}: {model} is no model folder (it has no config.json). Give a folder in Hugging Face format, a hub "
            "name such as Qwen/Qwen2.5-Coder-7B-Instruct, or `starter`."
        )
    if looks_local:  # before the imports, which take many seconds
        _check_model_files(Path(model), path)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        classifies = any("SequenceClassification" in name for name in config.architectures or [])
        as_classifier = role == "reward" or (role == "base" and classifies)
        auto = AutoModelForSequenceClassification if as_classifier else AutoModelForCausalLM
        with torch.device("meta"):  # shapes without memory
            shell = auto.from_config(config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path}: {model} cannot be loaded as a {role} model: {first_line} "
            "Check the name, the network, and that model and tokenizer files are both there."
        ) from error
    named = ", ".join(config.architectures or []) or "unnamed"
    if role == "causal" and classifies:
        raise ModelError(
            f"{path}: {model} is no language model: it is {named}, whose tokens nothing predicts. Give the language "
            "model that it was made of."
        )
    if role == "reward" and (config.num_labels != 1 or not classifies):
        raise ModelError(
            f"{path}: {model} is no reward model: it is {named} with {config.num_labels} labels. Give a sequence "
            "classification model with one label."
        )
    num_parameters = sum(parameter.numel() for parameter in shell.parameters())
    return ModelFacts(
        num_parameters=num_parameters,
        max_positions=getattr(config, "max_position_embeddings", None),
        shape=model_shape(config, num_parameters),
    )


def _check_model_files(folder: Path, path: str) -> None:
    """Raise `ModelError` when weights or tokenizer are missing: both are needed, and only later."""
    require_weights(folder, path)
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        raise ModelError(f"{path}: {folder} holds no tokenizer ({', '.join(names)}). Save it beside the model.")


def model_shape(config: Any, num_parameters: int) -> ModelShape | None:
    """Return the shape that a transformers config states; None for a model that is no plain decoder."""
    try:
        heads = config.num_attention_heads
        return ModelShape(
            num_parameters=num_parameters,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
        )
    except AttributeError:
        return None


def check_lengths(config: RunConfig, policy: ModelFacts) -> None:
    """Raise `ConfigError` when a rollout may be longer than the policy can attend to."""
    longest = config.max_sequence_tokens
    if policy.max_positions is not None and longest > policy.max_positions:
        raise ConfigError(
            f"data.max_prompt_tokens + rollout.max_response_tokens = {longest}, but the policy was made for sequences "
            f"of {policy.max_positions} tokens. Lower one of the two.",
            path="rollout.max_response_tokens",
        )
