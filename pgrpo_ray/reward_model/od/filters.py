"""Which pairs would teach a shortcut instead of reasoning, and are left out; what form both sides are brought into.

A reward model takes the cheapest way to tell two sides apart: their length, their Markdown, pasted code, the words of a
refusal. Each filter closes one of these ways. Bounds are in the config and ours. Filters are applied in the order of
`REASONS`, and a pair is counted under the first that it meets. What stays open is measured by `shortcuts`.
"""

import re
import zlib
from collections import Counter
from typing import Any

import numpy as np

from pgrpo_ray.config.pairs import FiltersSection
from pgrpo_ray.reward_model.od.answers import is_refusal, plain_quotes
from pgrpo_ray.reward_model.pairs import pair_id

REASONS = ("refusal", "code", "tells", "equal", "length_ratio", "similar_sides", "duplicate")
"""A side declines the task; holds code; speaks of its own making; both are one text; of too different length; nearly
the same; the pair is nearly one that came before."""

_FENCE = re.compile(r"```|~~~")
_CODE_LINE = re.compile(
    r"""\s*(?:
        .*[;{}]\s*(?://.*)?                                  # C++ and its relatives
      | \#\s*include\b.*
      | (?!.*[.?!]\s*\Z)(?:                                  # what ends like a sentence is one
            (?:def|class)\s+\w+.*:\s*
          | (?:if|elif|else|for|while|with|except|try|finally)\b.*:\s*
          | (?:from\s+[\w.]+\s+)?import\s+[\w.*]+.*
          | (?:return|yield|raise|assert)\b.*
          | (?:pass|break|continue)\s*
          | [\w.\[\]'",\x20]{1,60}?\s*(?:[-+*/%&|^]|//|<<|>>)?=[^=].*
          | [\w.]+\(.*\)\s*                                  # a call alone on its line
        )
    )""",
    re.VERBOSE,
)
_TELLS = re.compile(
    r"""\b(?:
        (?:optimi[sz]ed|degraded|improved|worsened|rewritten|revised|flawed|weakened)\ (?:version|reasoning)
      | (?:original|previous|given)\ reasoning
      | (?:intentional|deliberate)(?:ly)?\ (?:error|mistake|flaw|wrong|incorrect)\w*
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)

_HEADING = re.compile(r"^\s{0,3}#{1,6}\s+", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*+\u2022\u2023]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+", re.MULTILINE)
_RULE = re.compile(r"^\s*(?:[-*_=]\s*){3,}$", re.MULTILINE)
# Opened after space or bracket and closed before one: `2**3` is arithmetic, not emphasis.
_EMPHASIS = re.compile(r"(?<![\w*])\*\*(?=\S)(.+?)(?<=\S)\*\*(?![\w*])", re.DOTALL)
_TICK = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SIGNS = str.maketrans({"\u2013": "-", "\u2014": "-", "\u00a0": " "})

_WORD = re.compile(r"\w+|[^\w\s]")
_SHINGLE_WORDS = 5
_BANDS, _BAND_ROWS = 32, 4
"""128 minimal hashes in 32 buckets: a pair 0.9 alike meets an earlier one in a bucket with probability 1 - 1e-15, one
0.5 alike with 0.87 and is then compared, one 0.2 alike with 0.05."""


def normalise(text: str) -> str:
    """Return `text` without headings, bullets, numbering, emphasis, rules and odd spacing; one paragraph a line."""
    text = plain_quotes(text).translate(_SIGNS)
    for pattern in (_RULE, _HEADING, _BULLET):
        text = pattern.sub("", text)
    text = _TICK.sub(r"\1", _EMPHASIS.sub(r"\1", text))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def longest_code_run(text: str) -> int:
    """Return how many lines of code stand in a row, blank lines aside, at most."""
    longest = run = 0
    for line in text.splitlines():
        if line.strip():
            run = run + 1 if _CODE_LINE.fullmatch(line) else 0
            longest = max(longest, run)
    return longest


def shingles(text: str) -> set[int]:
    """Return hashes of all runs of five words or signs; of the whole text where it is shorter."""
    words = _WORD.findall(text.lower())
    starts = range(max(1, len(words) - _SHINGLE_WORDS + 1))
    return {zlib.crc32(" ".join(words[at : at + _SHINGLE_WORDS]).encode()) for at in starts}


def jaccard(left: set[int], right: set[int]) -> float:
    """Return the size of the intersection over that of the union, in [0, 1]; two empty sets are alike."""
    return len(left & right) / len(left | right) if left or right else 1.0


class Filters:
    """Looks at one pair after the other; remembers those that it let through, 0.5 KiB each."""

    def __init__(self, section: FiltersSection):
        self._section = section
        self._signatures: list[np.ndarray] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self.dropped: Counter[str] = Counter()
        """Pairs left out, by reason."""

    def admit(self, row: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return (the row of PAIR_SCHEMA in its final form, "" or the reason why it is left out)."""
        reason = self._unclean(row["better"], row["worse"])
        if self._section.normalise_format:
            row = row | {side: normalise(row[side]) for side in ("better", "worse")}
        reason = reason or self._too_alike(row["better"], row["worse"])
        row = row | {"pair_id": pair_id(*(row[key] for key in ("prompt", "kind", "dimension", "better", "worse")))}
        if reason:
            self.dropped[reason] += 1
        return row, reason

    def _unclean(self, *sides: str) -> str:
        """What is looked for before Markdown is taken off."""
        if any(map(is_refusal, sides)):
            return "refusal"
        if any(_FENCE.search(side) or longest_code_run(side) > self._section.max_code_lines for side in sides):
            return "code"
        return "tells" if any(map(_TELLS.search, sides)) else ""

    def _too_alike(self, better: str, worse: str) -> str:
        if better == worse or not better or not worse:
            return "equal"
        short, long = sorted((len(better), len(worse)))
        if long > self._section.max_length_ratio * short:
            return "length_ratio"
        sides = shingles(better), shingles(worse)
        if jaccard(*sides) > self._section.max_side_similarity:
            return "similar_sides"
        return "duplicate" if self._seen(*sides) else ""

    def _seen(self, better: set[int], worse: set[int]) -> bool:
        """Say whether an earlier pair is alike on both sides; remember this one if not.

        Minimal hashes estimate the Jaccard similarity (Broder 1997) to about 0.03; only pairs that share a bucket are
        compared, so time grows with the number of pairs, not with its square.
        """
        signature = _signature(better, worse)
        keys = [(band, part.tobytes()) for band, part in enumerate(signature.reshape(_BANDS, _BAND_ROWS))]
        candidates = {number for key in keys for number in self._buckets.get(key, ())}
        for number in candidates:
            if np.mean(self._signatures[number] == signature) > self._section.max_pair_similarity:
                return True
        for key in keys:
            self._buckets.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signature)
        return False


_NUM_HASHES = _BANDS * _BAND_ROWS
_PRIME = np.uint64((1 << 31) - 1)
_RANDOM = np.random.default_rng(0)
_A = _RANDOM.integers(1, 1 << 31, (_NUM_HASHES, 1), dtype=np.uint64)
_B = _RANDOM.integers(0, 1 << 31, (_NUM_HASHES, 1), dtype=np.uint64)


def _signature(better: set[int], worse: set[int]) -> np.ndarray:
    """Minimal hashes of both sides' shingles, uint32 [128]; a shingle counts as another on the other side."""
    marked = [2 * shingle for shingle in better] + [2 * shingle + 1 for shingle in worse]
    values = np.fromiter(marked, dtype=np.uint64, count=len(marked)) % _PRIME
    return ((_A * values + _B) % _PRIME).min(axis=1).astype(np.uint32)
