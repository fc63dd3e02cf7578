"""A run's problems: read, split into those to train on and those held out, and encoded for its policy."""

from dataclasses import dataclass
from typing import Any

from pgrpo_ray.config import STARTER, RunConfig
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.types import Problem


@dataclass(frozen=True)
class ProblemSets:
    """Problems to train on and problems held out; disjoint by id."""

    train: list[Problem]
    heldout: list[Problem]


def load_problem_sets(config: RunConfig, starter: Any = None) -> ProblemSets:
    """Read and split the problems; `starter` holds the starter's files where the config names it."""
    from pgrpo_ray.data.loaders import load_problems
    from pgrpo_ray.data.problems import split_heldout

    section, seed = config.data, config.run.seed
    if section.problems == STARTER:
        train = load_problems(starter.train, "jsonl")
        heldout = load_problems(starter.heldout, "jsonl")
    else:
        train = load_problems(section.problems, section.format)
        if section.heldout is None:
            train, heldout = split_heldout(train, section.heldout_problems, seed)
        else:
            heldout = load_problems(section.heldout, section.format)
    if len(heldout) < section.heldout_problems:
        raise ConfigError(
            f"data.heldout_problems is {section.heldout_problems}, but only {len(heldout)} are there. Lower it or "
            "give more problems.",
            path="data.heldout_problems",
        )
    heldout = heldout[: section.heldout_problems]
    shared = {problem.id for problem in train} & {problem.id for problem in heldout}
    if shared:
        raise DataError(
            f"{len(shared)} held-out problems are also trained on, such as {min(shared)!r}: pass@1 would measure "
            "memory. Remove them from one of the files.",
            file=str(section.heldout),
        )
    if len(train) < config.rollout.prompts_per_step:
        raise ConfigError(
            f"rollout.prompts_per_step is {config.rollout.prompts_per_step}, but only {len(train)} training problems "
            "are there, and a batch may hold a problem once. Lower it or give more problems.",
            path="rollout.prompts_per_step",
        )
    return ProblemSets(train, heldout)


def encode(config: RunConfig, model: str, problems: ProblemSets) -> dict[str, tuple[int, ...]]:
    """Encode every prompt with the policy's tokenizer. Raises `DataError` for one that is too long."""
    from transformers import AutoTokenizer

    from pgrpo_ray.data.prompts import encode_prompts

    section = config.data
    everything = [*problems.train, *problems.heldout]
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return encode_prompts(tokenizer, everything, section.system_prompt, section.max_prompt_tokens)
