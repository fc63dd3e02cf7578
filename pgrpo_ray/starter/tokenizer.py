"""The starter's tokenizer: byte-level BPE of Qwen2's kind, trained on the spot; any text can be encoded.

It is transformers' own `Qwen2Tokenizer`, because that class is what loads from a folder whose model is a Qwen2: with
any other, text would fall into other tokens than in training (transformers 5.19 puts its own pre-tokenizer in).
The tags `<think>`, `</think>`, `<answer>`, `</answer>` are added tokens but not *special* ones, so that decoding with
`skip_special_tokens=True` keeps them: the format reward reads text.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from pgrpo_ray.data.response import TAGS

PAD, EOS, REPLY = "<|pad|>", "<|eos|>", "<|reply|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '" + REPLY + "' + message['content'] + '" + EOS + "' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '" + REPLY + "' }}{% endif %}"
)
"""Ignores system messages: a model this small would only pay for reading the same sentence before every problem."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 768) -> Qwen2Tokenizer:
    """Train on `texts` and return a tokenizer of at most `vocab_size` entries, 256 of which are the bytes."""
    core = Qwen2Tokenizer(vocab={}, merges=[])._tokenizer  # Qwen2's normaliser, pre-tokenizer and decoder, no merges
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=[PAD, EOS, REPLY],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((_without_tags(text) for text in texts), trainer)
    learned = json.loads(core.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=None,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[REPLY],
        padding_side="right",
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files, the chat template included, into `folder`."""
    tokenizer.save_pretrained(folder)


def encode_prompts(tokenizer: Qwen2Tokenizer, prompts: list[str]) -> list[list[int]]:
    """Token ids of user messages with the generation prompt, as `apply_chat_template` gives them."""
    texts = [prompt + REPLY for prompt in prompts]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def encode_responses(tokenizer: Qwen2Tokenizer, responses: list[str]) -> list[list[int]]:
    """Token ids of responses, each closed by the end-of-sequence token."""
    encoded = tokenizer(responses, add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in encoded]


def _without_tags(text: str) -> str:
    """Cut tags out, so that no merge is spent on them."""
    for tag in TAGS:
        text = text.replace(tag, "\n")
    return text
