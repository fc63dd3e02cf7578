"""Preference pairs on disk: two reasonings about one problem, the first better.

Two containers, told apart by content. Parquet with PAIR_SCHEMA carries where each pair comes from; one JSON object a
line (`{"prompt", "better", "worse"}`, optionally `kind`, `problem_id`, `difficulty`) is for pairs of one's own. Owns
the formats, the checks on reading and what identifies a problem and a pair; where pairs come from (a language model
that optimises and degrades: `od`; planted mistakes: the starter) is the maker's business.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pgrpo_ray.data.arrow import Column
from pgrpo_ray.data.records import (
    check_keys,
    is_parquet,
    located,
    open_parquet,
    parquet_rows,
    read_records,
    require,
    require_text,
)
from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.disk import whole_file
from pgrpo_ray.types import PreferencePair

KINDS = {
    "optimised_over_degraded": ("optimised", "degraded"),
    "optimised_over_original": ("optimised", "original"),
    "original_over_degraded": ("original", "degraded"),
}
"""The paper's three pair types: roles of the better and the worse side."""

_TEXT = pa.string()
_MAKER = "maker"
COLUMNS = tuple(
    Column(name, type_, meaning, _MAKER, null)
    for name, type_, meaning, null in (
        ("pair_id", _TEXT, "blake2b of problem, kind, dimension and both sides, 16 hex digits", None),
        ("problem_id", _TEXT, "as the problem set spells it; of source `starter`: pipeline; empty where unknown", None),
        ("problem_hash", _TEXT, "blake2b of the prompt without regard to white space, 16 hex digits", None),
        ("difficulty", _TEXT, "of the problem, in the words of its source; empty where unknown", None),
        ("prompt", _TEXT, "the problem's statement", None),
        ("better", _TEXT, "the reasoning that should score higher", None),
        ("worse", _TEXT, "the reasoning that should score lower", None),
        ("kind", _TEXT, "pair type; of source `starter`: the flaw that was planted", None),
        ("dimension", _TEXT, "in which respect the sides differ; `all`: in all at once; empty: not stated", None),
        ("better_role", _TEXT, "what the better side is: `optimised`, `original`; `right` of source `starter`", None),
        ("worse_role", _TEXT, "what the worse side is: `degraded`, `original`; `flawed` of source `starter`", None),
        ("source", _TEXT, "`od`: a model wrote the sides; `starter`: a program did; empty: not stated", None),
        ("generator", _TEXT, "name of the model that wrote the sides; empty: none or not stated", None),
        ("prompts_version", _TEXT, "name of the generator's prompts; empty: none", None),
        ("prompts_hash", _TEXT, "blake2b of the generator's prompts, 32 hex digits; empty: none", None),
        ("temperature", pa.float32(), "of the generator", "no generator"),
        ("seed", pa.int64(), "of the job that made the pair", "not stated"),
    )
)
PAIR_SCHEMA = pa.schema([pa.field(c.name, c.type, nullable=c.null_means is not None) for c in COLUMNS])
"""Of the Parquet file. `describe_columns` says what each column means."""

_KEYS = ("prompt", "better", "worse", "kind", "problem_id", "difficulty")
_ROWS = 1000
"""Rows of a row group: a few MiB of text, so that neither writing nor reading holds the whole file."""


def problem_hash(prompt: str) -> str:
    """Return 16 hex digits that identify a problem by its statement; white space does not count."""
    return hashlib.blake2b(" ".join(prompt.split()).encode(), digest_size=8).hexdigest()


def pair_id(prompt: str, kind: str, dimension: str, better: str, worse: str) -> str:
    """Return 16 hex digits that identify a pair by its content."""
    content = json.dumps([problem_hash(prompt), kind, dimension, better, worse])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def row_of(pair: PreferencePair, **provenance: Any) -> dict[str, Any]:
    """Return a row of PAIR_SCHEMA for `pair`; what `provenance` does not state is left empty."""
    row: dict[str, Any] = {column.name: None if column.null_means else "" for column in COLUMNS}
    row |= {key: getattr(pair, key) for key in _KEYS} | provenance
    row["problem_hash"] = problem_hash(pair.prompt)
    row["pair_id"] = pair_id(pair.prompt, pair.kind, row["dimension"], pair.better, pair.worse)
    return row


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows of PAIR_SCHEMA as Parquet, whole or not at all; return how many. Holds `_ROWS` of them at a time."""
    rows, count = iter(rows), 0
    with (
        whole_file(Path(path), "wb", durable=True) as file,
        pq.ParquetWriter(file, PAIR_SCHEMA, compression="zstd") as writer,
    ):
        while part := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(part, PAIR_SCHEMA))
            count += len(part)
    return count


def write_pairs(path: str | Path, pairs: Iterable[PreferencePair]) -> None:
    """Write Parquet where the name ends in `.parquet`, else one JSON object a line; replaces the file."""
    path = Path(path)
    if path.suffix == ".parquet":
        write_rows(path, (row_of(pair) for pair in pairs))
        return
    with whole_file(path) as file:
        for pair in pairs:
            file.write(json.dumps({key: getattr(pair, key) for key in _KEYS}) + "\n")


def read_pairs(path: str | Path) -> list[PreferencePair]:
    """Read every pair of a Parquet or JSON lines file.

    Raises `DataError` with file and line (Parquet: row, from 1) for a record that is not a usable pair: a side that is
    missing or blank, or sides that are the same text.
    """
    return list(_pairs(Path(path)))


def sample_pairs(path: str | Path, limit: int, seed: int) -> list[PreferencePair]:
    """Read at most `limit` pairs, drawn evenly from the whole file, in its order. Checks every pair as `read_pairs`."""
    rng = random.Random(f"sample/{seed}")
    kept: list[tuple[int, PreferencePair]] = []
    for number, pair in enumerate(_pairs(Path(path))):  # reservoir sampling: memory for `limit` pairs
        if len(kept) < limit:
            kept.append((number, pair))
        elif (place := rng.randrange(number + 1)) < limit:
            kept[place] = (number, pair)
    return [pair for _, pair in sorted(kept, key=lambda entry: entry[0])]


def _pairs(path: Path) -> Iterator[PreferencePair]:
    records = _parquet_records(path) if is_parquet(path) else read_records(path)
    for line, record in records:
        with located(str(path), line):
            pair = _pair(record)
        yield pair


def _pair(record: dict[str, Any]) -> PreferencePair:
    check_keys(record, _KEYS)
    pair = PreferencePair(
        prompt=require_text(record, "prompt"),
        better=require_text(record, "better"),
        worse=require_text(record, "worse"),
        **{key: require(record, key, str) for key in _KEYS[3:] if key in record},
    )
    if pair.better.strip() == pair.worse.strip():
        raise DataError("'better' and 'worse' are the same text, which teaches nothing. Drop the pair.")
    return pair


def _parquet_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, what a pair is made of); other columns stay on disk."""
    with open_parquet(path) as file:
        there = set(file.schema_arrow.names)
    if missing := [key for key in _KEYS[:3] if key not in there]:
        raise DataError(f"has no column {missing[0]!r}. A file of pairs needs prompt, better, worse.", str(path))
    row = 0
    for row, record in enumerate(parquet_rows(path, _KEYS), start=1):
        yield row, dict.fromkeys(_KEYS[:3]) | record
    if not row:
        raise DataError("holds no pairs. Look into the report of the job that wrote it.", str(path))


def describe_columns() -> str:
    """Return the Markdown table of PAIR_SCHEMA; `docs/reward-model.md` holds it."""
    lines = ["| column | type | meaning | null means |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | `{c.type}` | {c.meaning} | {c.null_means or 'never null'} |" for c in COLUMNS]
    return "\n".join(lines)
