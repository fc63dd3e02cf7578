"""Do not measure on what was trained on: problems split by content, and overlap between sets of problems.

A problem is known by the words of its statement (`content_key`), so it lies on one side of a split however many rows
it has, whatever its id, in whatever file; more data later moves no problem to the other side. Overlap is looked for
exactly (the same words) and by runs of words (13 by default, as in Brown et al. 2020, "Language models are few-shot
learners", appendix C): the share of a measured problem's runs that also occur in a trained one. It does not see a
translation or a retelling.

Cost: one pass over all words; the index holds the smaller, measured set as 64-bit hashes (two of a million million
different runs coincide with probability 5e-8 each).
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pgrpo_ray.errors import DataError

NGRAM_WORDS = 13
_WORD = re.compile(r"\w+|[^\w\s]")
_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplication by it loses nothing modulo 2**64 (the golden ratio's, as in Knuth's hashing)."""


@dataclass(frozen=True, slots=True)
class Text:
    """A problem's statement and what to call it in a report."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """One measured problem that trained problems share words with."""

    measured: str
    """Its name."""
    trained: str
    """Name of the trained problem that shares most with it."""
    shared_frac: float
    """Share of its runs of words that occur in any trained problem, in [0, 1]; 1 where it is there word for word."""
    exact: bool
    """A trained problem has exactly its words."""


def words_of(text: str) -> list[str]:
    """Return lower-case words and signs; Unicode forms (NFKC), white space and case make no difference."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def content_key(text: str) -> str:
    """Return 16 hex digits that two texts share when they have the same `words_of`."""
    return hashlib.sha256(" ".join(words_of(text)).encode()).hexdigest()[:16]


def heldout_side(text: str, heldout_frac: float) -> str:
    """Return `train`, `validation` or `test` by the content alone; the last two share `heldout_frac` evenly."""
    place = int(content_key(text), 16) / 16**16
    if place >= heldout_frac:
        return "train"
    return "validation" if place < heldout_frac / 2 else "test"


def find_overlaps(
    trained: Iterable[Text], measured: Sequence[Text], num_words: int = NGRAM_WORDS, min_shared_frac: float = 0.5
) -> list[Overlap]:
    """Return measured problems that share at least `min_shared_frac` of their runs, or all words, with trained ones.

    Worst first. A measured text shorter than `num_words` has no run and overlaps only exactly.
    """
    hashes: dict[str, int] = {}
    keys = [content_key(one.text) for one in measured]
    by_key = defaultdict(list)
    for number, key in enumerate(keys):
        by_key[key].append(number)
    grams = [np.unique(_grams(words_of(one.text), num_words, hashes)) for one in measured]
    owner = np.repeat(np.arange(len(measured)), [len(part) for part in grams])
    flat = np.concatenate(grams) if grams else np.zeros(0, np.uint64)
    order = np.argsort(flat, kind="stable")
    flat, owner = flat[order], owner[order]
    found = np.zeros(len(flat), bool)
    exact: dict[int, str] = {}
    most: dict[int, tuple[int, str]] = {}
    for one in trained:
        for number in by_key.get(content_key(one.text), ()):
            exact.setdefault(number, one.name)
        theirs = np.unique(_grams(words_of(one.text), num_words, hashes))
        first, last = np.searchsorted(flat, theirs, "left"), np.searchsorted(flat, theirs, "right")
        hit = first < last
        if not hit.any():
            continue
        places = np.concatenate([np.arange(a, b) for a, b in zip(first[hit], last[hit], strict=True)])
        found[places] = True
        for number, count in zip(*np.unique(owner[places], return_counts=True), strict=True):
            if count > most.get(int(number), (0, ""))[0]:
                most[int(number)] = (int(count), one.name)
    hits = np.bincount(owner[found], minlength=len(measured))
    overlaps = []
    for number, one in enumerate(measured):
        frac = 1.0 if number in exact else hits[number] / max(1, len(grams[number]))
        if number in exact or (hits[number] and frac >= min_shared_frac):
            name = exact[number] if number in exact else most[number][1]
            overlaps.append(Overlap(one.name, name, float(frac), number in exact))
    return sorted(overlaps, key=lambda overlap: (-overlap.shared_frac, not overlap.exact, overlap.measured))


def refuse_overlap(overlaps: Sequence[Overlap], num_measured: int, max_frac: float, file: str, fix: str) -> None:
    """Raise `DataError` naming the worst when more than `max_frac` of the measured problems overlap."""
    if len(overlaps) <= max_frac * num_measured:
        return
    shown = "; ".join(
        f"{one.measured!r} {'is' if one.exact else f'shares {100 * one.shared_frac:.0f} % of its runs of words with'} "
        f"{one.trained!r}"
        for one in overlaps[:5]
    )
    exact = sum(one.exact for one in overlaps)
    raise DataError(
        f"{len(overlaps)} of {num_measured} problems ({exact} of them word for word) are among those trained on, which "
        f"would measure memory; the bound is {100 * max_frac:g} %. Worst: {shown}. {fix}",
        file=file,
    )


def _grams(words: Sequence[str], size: int, hashes: dict[str, int]) -> np.ndarray:
    """Return the 64-bit hash of every run of `size` words, uint64; `hashes` caches those of single words."""
    if len(words) < size:
        return np.zeros(0, np.uint64)
    for word in words:
        if word not in hashes:
            hashes[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    codes = np.array([hashes[word] for word in words], np.uint64)
    total = np.zeros(len(words) - size + 1, np.uint64)
    for place in range(size):  # a polynomial in _BASE modulo 2**64: the order of the words counts
        total = total * _BASE + codes[place : len(codes) - size + 1 + place]
    return total
