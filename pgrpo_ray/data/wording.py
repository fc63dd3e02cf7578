"""What can be said of a reasoning's words without understanding them: two numbers that travel as scalars.

Words are what white space separates, so both are linear in the text, and neither depends on a tokenizer.
"""

import zlib
from collections.abc import Sequence

import numpy as np

PHRASE_WORDS = 5
"""Length of a phrase: shorter ones come again in honest reasoning too ("we need to"). As in Gopher's quality filter
(arXiv 2112.11446, table A1), whose shortest duplicates have five words."""
NO_WORDING = -1
"""Digest of a reasoning that is not there."""


def wording(reasonings: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Return two columns, each [B]: `phrases_repeated_frac`, float64, NaN where there is no reasoning; and
    `wording_digest`, int64, equal for equal words, `NO_WORDING` where there is none."""
    split = [None if text is None else text.split() for text in reasonings]
    return {
        "phrases_repeated_frac": np.array([np.nan if words is None else repeated(words) for words in split]),
        "wording_digest": np.array(
            [NO_WORDING if words is None else zlib.crc32(" ".join(words).encode()) for words in split], np.int64
        ),
    }


def repeated(words: Sequence[str]) -> float:
    """Return the share of phrases that have stood before in the same text, in [0, 1]."""
    phrases = len(words) - PHRASE_WORDS + 1
    if phrases < 1:
        return 0.0
    return 1 - len(set(zip(*(words[start:] for start in range(PHRASE_WORDS)), strict=False))) / phrases
