"""Problem statements to prompt token ids, once, before a run starts: the same ids go to the engine and the loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgrpo_ray.config import DEFAULT_SYSTEM_PROMPT, MATHS_SYSTEM_PROMPT
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import Problem, TestStyle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", problems: Sequence[Problem], system_prompt: str | None, max_prompt_tokens: int
) -> dict[str, tuple[int, ...]]:
    """Return each problem's prompt token ids, by problem id.

    A tokenizer with a chat template renders system and user message and the opening of the answer; one without gets
    the plain text. `system_prompt` None: the default for each problem's style. Raises `DataError` naming the problem
    whose prompt exceeds `max_prompt_tokens`.
    """
    encoded = {}
    for problem in problems:
        system = default_system_prompt(problem.style) if system_prompt is None else system_prompt
        ids = encode_prompt(tokenizer, problem.prompt, system)
        if len(ids) > max_prompt_tokens:
            raise DataError(
                f"problem {problem.id!r}: its prompt has {len(ids)} tokens, data.max_prompt_tokens is "
                f"{max_prompt_tokens}. Raise the limit or leave the problem out."
            )
        encoded[problem.id] = tuple(ids)
    return encoded


def default_system_prompt(style: TestStyle) -> str:
    """Return what is told to a policy where the config does not say."""
    return MATHS_SYSTEM_PROMPT if style is TestStyle.ANSWER else DEFAULT_SYSTEM_PROMPT


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str, system_prompt: str) -> list[int]:
    """Return the token ids of one prompt; see `encode_prompts`."""
    if tokenizer.chat_template is None:
        text = f"{system_prompt}\n\n{prompt}\n" if system_prompt else f"{prompt}\n"
        plain: list[int] = tokenizer(text)["input_ids"]
        return plain
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": prompt})
    # Rendered to text first: with tokenize=True, transformers 5 returns a mapping or a list, by tokenizer.
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
