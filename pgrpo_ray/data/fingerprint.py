"""What a tokenizer does, in one word: two processes whose words differ would read the same token ids differently."""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = (
    "<think> Na\\u0069\\u0308ve\\t2026-07-31\\n\\n  If x!=10**9: return 'ß', [\\u4f60\\u597d] </think>\\r\\n<answer>"
)
"""Shows other merges, normalisation and treatment of white space where the vocabulary is the same."""


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return 16 hex digits of the vocabulary, the special tokens, and what becomes of `PROBE` in both directions."""
    ids = tokenizer(PROBE)["input_ids"]
    facts = (
        sorted(tokenizer.get_vocab().items()),
        tokenizer.eos_token_id,
        sorted(tokenizer.all_special_ids),
        ids,
        tokenizer.decode(ids),
        tokenizer.decode(ids, skip_special_tokens=True),
    )
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
