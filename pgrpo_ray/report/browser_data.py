"""Rollouts as the page's browser reads them: scalar columns at once, texts in chunks that are decoded when opened.

Each block is JSON, gzipped and in base64: a third of the text's size on the page, and an alphabet that can neither end
an element nor begin one. A chunk of texts holds whole groups of one place.
"""

import base64
import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.report.rows import Place
from pgrpo_ray.types import Verdict

CHUNK_TOKENS = 400_000
"""Response tokens after which a chunk of texts ends: some 1.5 MB of text, which a browser decodes in 20 ms. Ours."""
STATES = (*(verdict.value for verdict in Verdict), "no_program", "error")
"""What may have become of a rollout: a verdict, no program to run, a failure of the machinery."""

_TEXTS = ("thinking", "program", "response", "detail", "execution_error")
_NUMBERS = {
    "advantage": 4,
    "reward": 4,
    "reward_format": 4,
    "reward_outcome": 4,
    "reward_thinking": 4,
    "reward_other": 4,
    "thinking_reward": 4,
    "response_tokens": 0,
    "policy_version": 0,
    "tests_passed": 0,
    "tests_total": 0,
    "first_failed": 0,
    "duration_ms": 0,
}
"""Column -> digits kept behind the point."""


@dataclass(frozen=True)
class Block:
    """One embedded block."""

    id: str
    data: str
    """Base64 of gzip of JSON."""


@dataclass(frozen=True)
class Selection:
    """Which groups of each place are in the browser."""

    groups: list[np.ndarray]
    """Indices of groups, ascending, one array a place."""
    num_rollouts: int
    num_left_out: int


def select(places: Sequence[Place], max_rollouts: int) -> Selection:
    """Choose whole groups, evenly over all places, of `max_rollouts` rollouts at most."""
    sizes = np.concatenate([np.diff(place.starts) for place in places]) if places else np.zeros(0, np.int64)
    total, count = int(sizes.sum()), len(sizes)
    kept = np.arange(count)
    while sizes[kept].sum() > max_rollouts:
        # Groups differ in size, so the first guess may be a little too many.
        count = min(len(kept) - 1, int(len(kept) * max_rollouts / sizes[kept].sum()))
        kept = np.unique(np.linspace(0, len(sizes) - 1, count).astype(np.int64))
    ends = np.cumsum([0, *(len(place.starts) - 1 for place in places)])
    chosen = [kept[(kept >= low) & (kept < high)] - low for low, high in itertools.pairwise(ends)]
    shown = int(sizes[kept].sum())
    return Selection(chosen, shown, total - shown)


def columns_block(run_index: int, places: Sequence[Place], selection: Selection) -> Block:
    """Return the scalar columns of a run's selected rollouts."""
    problems: dict[str, int] = {}
    groups: dict[str, list[int]] = {"place": [], "problem": [], "size": [], "chunk": [], "first_in_chunk": []}
    rows: dict[str, list[Any]] = {name: [] for name in (*_NUMBERS, "state", "cut", "dropped", "masked")}
    chunks = 0
    for at, (place, chosen) in enumerate(zip(places, selection.groups, strict=True)):
        names = place.texts("problem_id")
        for chunk in _chunks(place, chosen):
            first = 0
            for group in chunk:
                size = int(place.starts[group + 1] - place.starts[group])
                problem = names[place.starts[group]]
                groups["place"].append(at)
                groups["problem"].append(problems.setdefault(problem, len(problems)))
                groups["size"].append(size)
                groups["chunk"].append(chunks)
                groups["first_in_chunk"].append(first)
                first += size
            chunks += 1
        for name, values in _row_columns(place, _rows_of(place, chosen)).items():
            rows[name] += values
    named = [{"kind": place.kind, "name": place.name, "step": place.step} for place in places]
    content = {"places": named, "problems": list(problems), "states": STATES, "groups": groups, "rows": rows}
    return _block(f"columns-{run_index}", content)


def text_blocks(run_index: int, run: RecordedRun, places: Sequence[Place], selection: Selection) -> Iterator[Block]:
    """Yield the texts of a run's selected rollouts, chunk by chunk, one place in memory at a time."""
    number = 0
    for place, chosen in zip(places, selection.groups, strict=True):
        if not len(chosen):
            continue
        rewarded = place.kind == "training"
        columns = ["prompt", *_TEXTS, *(["thinking_error"] if rewarded else [])]
        table = run.rollouts(place.step, columns) if rewarded else run.evaluation(place.name, columns)
        for chunk in _chunks(place, chosen):
            texts = table.take(_rows_of(place, chunk))
            content = {name: texts[name].to_pylist() for name in columns}
            # With the right tags the response is its reasoning and program, which stand here already.
            content["response"] = [
                response if program is None else None
                for response, program in zip(content["response"], content["program"], strict=True)
            ]
            content["prompt"] = table["prompt"].take(place.starts[chunk]).to_pylist()
            yield _block(f"texts-{run_index}-{number}", content)
            number += 1


def _chunks(place: Place, chosen: np.ndarray) -> list[np.ndarray]:
    """Cut the chosen groups of a place into chunks of about `CHUNK_TOKENS`."""
    if not len(chosen):
        return []
    tokens = np.add.reduceat(place.numbers("response_tokens"), place.starts[:-1])[chosen]
    filled = np.cumsum(tokens) - tokens
    cuts = np.flatnonzero(np.diff((filled // CHUNK_TOKENS).astype(np.int64))) + 1
    return np.split(chosen, cuts)


def _rows_of(place: Place, groups: np.ndarray) -> np.ndarray:
    wanted = np.zeros(len(place.starts) - 1, bool)
    wanted[groups] = True
    return np.flatnonzero(wanted[place.group_index])


def _row_columns(place: Place, rows: np.ndarray) -> dict[str, list[Any]]:
    """Return each column of the rows; null where the place has no such column, as held-out rollouts have no reward."""
    there = set(place.table.column_names)
    columns: dict[str, list[Any]] = {
        name: _numbers(place.numbers(name)[rows], digits) if name in there else [None] * len(rows)
        for name, digits in _NUMBERS.items()
    }
    verdicts = place.texts("verdict")[rows]
    failed = place.table["failed"].to_numpy()[rows]
    names = np.where(failed, "error", np.where(verdicts == "", "no_program", verdicts))
    columns["state"] = [STATES.index(name) for name in names]
    columns["cut"] = (place.texts("finish_reason")[rows] == "length").astype(int).tolist()
    for name in ("dropped", "masked"):
        columns[name] = [text or 0 for text in place.texts(name)[rows]] if name in there else [0] * len(rows)
    return columns


def _numbers(values: np.ndarray, digits: int) -> list[float | int | None]:
    rounded = np.round(values, digits)
    whole = rounded == np.round(rounded)
    # `1` is half the size of `1.0`, and most rewards are whole.
    return [
        None if unknown else int(value) if is_whole else value
        for value, is_whole, unknown in zip(rounded.tolist(), whole.tolist(), np.isnan(values).tolist(), strict=True)
    ]


def _block(name: str, content: Any) -> Block:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    packed = gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)
    return Block(name, base64.b64encode(packed).decode("ascii"))
