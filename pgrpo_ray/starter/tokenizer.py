"""The starter's tokenizer: byte-level BPE trained on the spot, any text can be encoded, frequent phrases are one token.

The tags `<think>`, `</think>`, `<answer>`, `</answer>` are added tokens but not *special* ones, so that decoding with
`skip_special_tokens=True` keeps them: the format reward reads text. Digits and line ends always stand alone, so that
numbers have one spelling.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pgrpo_ray.data.response import TAGS

PAD, EOS, REPLY = "<|pad|>", "<|eos|>", "<|reply|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '" + REPLY + "' + message['content'] + '" + EOS + "' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '" + REPLY + "' }}{% endif %}"
)
"""Ignores system messages: a model this small would only pay for reading the same sentence before every problem."""

_CHUNKS = Regex(r"[0-9]|\n|[,;:.]|[^0-9\n,;:.]+")
"""BPE merges inside these only. Chunks span words, because merges across words halve the length of sequences."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 768) -> PreTrainedTokenizerFast:
    """Train on `texts` and return a tokenizer of at most `vocab_size` entries, 256 of which are the bytes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_CHUNKS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=[PAD, EOS, REPLY],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((_without_tags(text) for text in texts), trainer)
    core.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=EOS, pad_token=PAD, additional_special_tokens=[REPLY], padding_side="right"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files, the chat template included, into `folder`."""
    tokenizer.save_pretrained(folder)


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> list[list[int]]:
    """Token ids of user messages with the generation prompt, as `apply_chat_template` gives them."""
    texts = [prompt + REPLY for prompt in prompts]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def encode_responses(tokenizer: PreTrainedTokenizerFast, responses: list[str]) -> list[list[int]]:
    """Token ids of responses, each closed by the end-of-sequence token."""
    encoded = tokenizer(responses, add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in encoded]


def _without_tags(text: str) -> str:
    """Cut tags out, so that no merge is spent on them."""
    for tag in TAGS:
        text = text.replace(tag, "\n")
    return text
