"""One heavy part of the starter in a process of its own: `python -m pgrpo_ray.starter PART FOLDER SECTION_JSON`.

See `parts`.
"""

import random
from pathlib import Path
from typing import Any

from pgrpo_ray.config import StarterSection
from pgrpo_ray.starter import parts
from pgrpo_ray.starter.problems import read_jsonl


def build_policy(folder: Path, section: StarterSection) -> dict[str, Any]:
    """Train tokenizer and policy into `folder/policy`; return figures for the report."""
    from pgrpo_ray.starter import policy
    from pgrpo_ray.starter.demonstrations import demonstrate, draw_mode
    from pgrpo_ray.starter.tokenizer import train_tokenizer

    exercises = read_jsonl(folder / "warmup.jsonl")
    rng = random.Random(f"tokenizer/{section.seed}")
    texts = [text for one in exercises[:2000] for text in (one.prompt, demonstrate(one, draw_mode(rng), rng))]
    tokenizer = train_tokenizer(texts)
    examples = policy.make_examples(exercises, tokenizer, section.sft_steps * policy.BATCH_SIZE, section.seed)
    model, loss = policy.train_policy(examples, tokenizer, section.sft_steps, section.seed, parts.progress)
    policy.save_policy(model, tokenizer, folder / "policy")
    return parts.policy_figures(model, examples, loss)


def build_reward_model(folder: Path, section: StarterSection) -> dict[str, Any]:
    """Train the reward model into `folder/reward_model`; return figures for the report."""
    from pgrpo_ray.starter.pairs import make_pairs
    from pgrpo_ray.starter.proofreading import make_proofs

    return parts.train_reward_model(folder, section, read_jsonl, make_proofs, make_pairs)


if __name__ == "__main__":
    parts.serve({"policy": build_policy, "reward_model": build_reward_model})
