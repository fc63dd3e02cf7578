"""One heavy part of the maths starter in a process of its own: `python -m pgrpo_ray.starter.maths PART FOLDER SECTION`.

See `starter.parts`.
"""

import random
from pathlib import Path
from typing import Any

from pgrpo_ray.config import StarterSection
from pgrpo_ray.starter import parts
from pgrpo_ray.starter.maths.problems import read_jsonl

DRILL_FRAC = 0.75
"""Share of the policy's steps that imitate careful demonstrations only (ours): sums take longer than list expressions.
"""


def build_policy(folder: Path, section: StarterSection) -> dict[str, Any]:
    """Train tokenizer and policy into `folder/policy`; return figures for the report."""
    from pgrpo_ray.starter import policy
    from pgrpo_ray.starter.maths.demonstrations import demonstrate, draw_mode
    from pgrpo_ray.starter.tokenizer import encode_prompts, encode_responses, train_tokenizer

    exercises = read_jsonl(folder / "warmup.jsonl")
    rng = random.Random(f"maths tokenizer/{section.seed}")
    texts = [text for one in exercises[:2000] for text in (one.prompt, demonstrate(one, draw_mode(rng), rng))]
    tokenizer = train_tokenizer(texts)
    rng = random.Random(f"maths demonstrations/{section.seed}")
    count = section.sft_steps * policy.BATCH_SIZE
    chosen = [exercises[number % len(exercises)] for number in range(count)]
    responses = [
        demonstrate(one, "careful" if number < count * DRILL_FRAC else draw_mode(rng), rng)
        for number, one in enumerate(chosen)
    ]
    prompts = encode_prompts(tokenizer, [one.prompt for one in chosen])
    encoded = encode_responses(tokenizer, responses)
    examples = [policy.Example(prompt, response) for prompt, response in zip(prompts, encoded, strict=True)]
    model, loss = policy.train_policy(examples, tokenizer, section.sft_steps, section.seed, parts.progress)
    policy.save_policy(model, tokenizer, folder / "policy")
    return parts.policy_figures(model, examples, loss)


def build_reward_model(folder: Path, section: StarterSection) -> dict[str, Any]:
    """Train the reward model into `folder/reward_model`; return figures for the report."""
    from pgrpo_ray.starter.maths.pairs import make_pairs, make_texts
    from pgrpo_ray.starter.proofreading import encode_proofs

    def make_proofs(model: Any, *how: Any) -> list[Any]:
        return encode_proofs(model, make_texts(*how))

    return parts.train_reward_model(folder, section, read_jsonl, make_proofs, make_pairs)


if __name__ == "__main__":
    parts.serve({"policy": build_policy, "reward_model": build_reward_model})
