"""What a reward model says of texts, before any map: its raw scores, in this process."""

import math
from collections.abc import Sequence

from rich.console import Console

from pgrpo_ray.config.lcb_rb import ScoringSection
from pgrpo_ray.errors import ModelError
from pgrpo_ray.obs.display import working
from pgrpo_ray.preflight.models import model_facts


def within_model(scoring: ScoringSection, model: str) -> ScoringSection:
    """Return `scoring` with its bound on lengths no higher than the model's own, as the reward server has it.

    Raises `ModelError` for what is no reward model.
    """
    own = model_facts(model, "--reward-model", role="reward").max_positions
    if own is None or own >= scoring.max_length_tokens:
        return scoring
    return scoring.model_copy(update={"max_length_tokens": own})


def raw_scores(items: Sequence[tuple[str, str]], model: str, scoring: ScoringSection, console: Console) -> list[float]:
    """Return a reward model's raw score of each (prompt, reasoning); `scoring` is `within_model`.

    Raises `ModelError` when one is no number.
    """
    import torch

    from pgrpo_ray.reward_model import train
    from pgrpo_ray.reward_model.model import load

    if scoring.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda: torch sees no GPU. Leave it out to score on the CPU.")
    torch.set_num_threads(scoring.threads)
    loaded = load(model, scoring.dtype, scoring.device)
    with working(console, f"scoring {len(items)} texts"):
        raw = train.raw_scores(loaded, items, scoring.batch_size, scoring.max_length_tokens)
    broken = [number for number, value in enumerate(raw) if not math.isfinite(value)]
    if broken:
        raise ModelError(
            f"--reward-model {model} gave no number for {len(broken)} of {len(raw)} texts. Check its weights, or use "
            "--dtype float32."
        )
    return raw
