"""What a reward model's files say without its weights in memory: whether it can score, how it encodes, its version."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from pgrpo_ray.data.model_files import require_weights
from pgrpo_ray.errors import ModelError
from pgrpo_ray.reward_model.calibration import Calibration
from pgrpo_ray.reward_model.model import RewardModel
from pgrpo_ray.reward_model.version import folder_version


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A reward model that could be served, before its weights are read."""

    frame: RewardModel
    """Encodes inputs; its network has shapes and no weights."""
    max_positions: int | None
    """Longest sequence that it was made for, tokens; None where its config does not say."""
    version: str
    """A folder's `folder_version`, or `commit:` and the hub's revision."""


def inspect(model: str) -> Checkpoint:
    """Look at a folder or hub name; read every file of a folder once (for the version), and no weights into memory.

    Raises `ModelError` for a missing folder, a model that is no scalar sequence classifier, a checkpoint without its
    head, and a tokenizer with more tokens than the model has embeddings.
    """
    where = f"reward_model.model={model!r}"
    local = model.startswith((".", "/", "~")) or Path(model).is_dir()
    if local and not (Path(model) / "config.json").is_file():
        raise ModelError(
            f"{where} is no model folder (it has no config.json). Give a folder in Hugging Face format, a hub name, or "
            "`starter`."
        )
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        with torch.device("meta"):  # shapes without memory
            shell = AutoModelForSequenceClassification.from_config(config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{where} cannot be read: {first} Check the name, the network, and that model and tokenizer are both there."
        ) from error
    if config.num_labels != 1:
        raise ModelError(f"{where} has {config.num_labels} labels; a reward model has one. Train it with num_labels=1.")
    if local:
        _check_head(Path(model), shell, where)
    rows = shell.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{where}: its tokenizer has {len(tokenizer)} tokens, its embedding only {rows} rows: it is another "
            "model's tokenizer. Copy the one that the model was trained with."
        )
    commit = getattr(config, "_commit_hash", None)
    return Checkpoint(
        RewardModel(shell, tokenizer, Calibration.of(config)),
        getattr(config, "max_position_embeddings", None),
        folder_version(Path(model)) if local else f"commit:{commit or 'unknown'}",
    )


def _check_head(folder: Path, shell: PreTrainedModel, where: str) -> None:
    """Raise `ModelError` where a folder's safetensors hold no weight of the head, or there are none."""
    require_weights(folder, where)
    body = {id(parameter) for parameter in shell.base_model.parameters()}
    head = {name for name, parameter in shell.named_parameters() if id(parameter) not in body}
    stored: set[str] = set()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                stored |= set(file.keys())
        except SafetensorError as error:
            raise ModelError(f"{where}: {path.name} is no whole safetensors file ({error}). Copy it again.") from error
    if not head & stored:
        raise ModelError(
            f"{where} lacks a trained scoring head ({', '.join(sorted(head))}): its scores would be random. Give a "
            "sequence classification model, or train one from it first."
        )
