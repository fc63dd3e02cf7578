"""Preference pairs on disk: two reasonings about one problem, the first better.

One JSON object a line: `{"prompt", "better", "worse", "kind"}`. Owns the format and its checks; where the pairs come
from (planted mistakes, or a language model that optimises and degrades) is the maker's business.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pgrpo_ray.data.records import check_keys, located, read_records, require, require_text
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import PreferencePair

_KEYS = ("prompt", "better", "worse", "kind")


def write_pairs(path: str | Path, pairs: Iterable[PreferencePair]) -> None:
    """Write one pair a line, replacing the file."""
    with Path(path).open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps({key: getattr(pair, key) for key in _KEYS}) + "\n")


def read_pairs(path: str | Path) -> list[PreferencePair]:
    """Read every pair. Raises `DataError` with file and line for a record that is not a usable pair."""
    pairs = []
    for line, record in read_records(path):
        with located(str(path), line):
            check_keys(record, _KEYS)
            pair = PreferencePair(
                prompt=require_text(record, "prompt"),
                better=require(record, "better", str),
                worse=require(record, "worse", str),
                kind=require(record, "kind", str) if "kind" in record else "",
            )
            if pair.better == pair.worse:
                raise DataError("'better' and 'worse' are the same text, which teaches nothing. Drop the pair.")
            pairs.append(pair)
    return pairs
