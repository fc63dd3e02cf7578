"""What a reward model is trained and measured on: rows read, split by problem, kinds weighed.

A problem lies on one side of the split with all its rows (`leaks.heldout_side`), and on the same side in a file of
pairs and in one of scores, so that models trained on either are measured on the same held-out pairs. Problems that are
one task in other words (the starter's) are held out together: `Groups` says which.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from pgrpo_ray.data.records import (
    check_keys,
    did_you_mean,
    excerpt,
    is_parquet,
    located,
    parquet_rows,
    read_records,
    require_text,
)
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.reward_model.leaks import Text, content_key, heldout_side
from pgrpo_ray.types import PreferencePair

MIN_HELDOUT_PROBLEMS = 2
"""In validation, and in test: with one problem there is no interval, and little to choose weights by."""
SCORE_PAIRS_PER_PROBLEM = 8
"""Held-out pairs made of the scored reasonings of one problem, at most (ours: a problem should not drown others)."""
_SCORE_KEYS = ("prompt", "reasoning", "score")

Row = TypeVar("Row", bound="PreferencePair | ScoredReasoning")
Item = TypeVar("Item")
Groups = Mapping[str, str]
"""What a statement is held out by, where that is not its own words."""
_ALONE: Groups = {}


@dataclass(frozen=True, slots=True)
class ScoredReasoning:
    """One reasoning with a judge's score; what the +Score baseline is trained on."""

    prompt: str
    reasoning: str
    score: float
    """In [0, 1]."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Rows of the three sides of the split, each in its old order."""

    train: list[Any]
    validation: list[Any]
    test: list[Any]


def read_scores(path: str | Path) -> list[ScoredReasoning]:
    """Read scored reasonings, JSON lines or Parquet. Raises `DataError` with file and line (of Parquet: row)."""
    rows = []
    for line, record in read_records(path):
        with located(str(path), line):
            check_keys(record, _SCORE_KEYS)
            score = record.get("score")
            if not isinstance(score, (int, float)) or isinstance(score, bool) or not 0 <= score <= 1:
                raise DataError(
                    f"'score' must be a number from 0 to 1, received {excerpt(score)}. Divide by the largest score."
                )
            rows.append(
                ScoredReasoning(require_text(record, "prompt"), require_text(record, "reasoning"), float(score))
            )
    return rows


def read_dimensions(path: str | Path, count: int) -> list[str]:
    """Return the dimension of each of `count` pairs of a Parquet file; blanks where the file does not say."""
    if not is_parquet(path):
        return [""] * count
    return [row.get("dimension", "") for row in parquet_rows(path, ("dimension",))]


def read_groups(path: str | Path, pairs: Sequence[PreferencePair]) -> dict[str, str]:
    """Return the `Groups` of the pairs of a file: those that the starter made are held out by their `problem_id`."""
    if not is_parquet(path):
        return {}
    rows = parquet_rows(path, ("source",))
    made = (pair for pair, row in zip(pairs, rows, strict=True) if row.get("source") == "starter")
    return {pair.prompt: pair.problem_id for pair in made if pair.problem_id}


def group_key(prompt: str, groups: Groups) -> str:
    """Return 16 hex digits that statements share which are held out together."""
    return content_key(groups.get(prompt, prompt))


def split(rows: Sequence[Row], heldout_frac: float, groups: Groups = _ALONE) -> Sides:
    """Split by problem, on its content alone, or on that of its group."""
    sides = Sides([], [], [])
    side_of: dict[str, str] = {}
    for row in rows:
        if row.prompt not in side_of:
            side_of[row.prompt] = heldout_side(groups.get(row.prompt, row.prompt), heldout_frac)
        getattr(sides, side_of[row.prompt]).append(row)
    return sides


def check_sides(sides: Sides, file: str, groups: Groups = _ALONE) -> None:
    """Raise `DataError` when there are too few problems to train on, to choose by, or to measure on."""
    counts = {name: num_problems(getattr(sides, name), groups) for name in ("train", "validation", "test")}
    if counts["train"] < 1 or min(counts["validation"], counts["test"]) < MIN_HELDOUT_PROBLEMS:
        raise DataError(
            f"too few problems to split: {counts['train']} to train on, {counts['validation']} for validation, "
            f"{counts['test']} for test; at least 1, {MIN_HELDOUT_PROBLEMS} and {MIN_HELDOUT_PROBLEMS} are needed. "
            "Give more problems (not more rows of the same ones), or raise data.heldout_frac.",
            file=file,
        )


def thin(rows: Sequence[Item], at_most: int, seed: str) -> list[Item]:
    """Return `at_most` of the rows by a seeded draw, in their old order."""
    if len(rows) <= at_most:
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), at_most))]


def pairs_of_scores(rows: Sequence[ScoredReasoning], seed: int) -> list[PreferencePair]:
    """Pair reasonings of one problem that were scored differently, `SCORE_PAIRS_PER_PROBLEM` at most of each."""
    by_problem: dict[str, list[ScoredReasoning]] = defaultdict(list)
    for row in rows:
        by_problem[content_key(row.prompt)].append(row)
    pairs = []
    for key, own in by_problem.items():
        found = [
            PreferencePair(better.prompt, better.reasoning, worse.reasoning, "score")
            for one, other in combinations(own, 2)
            for better, worse in [(one, other) if one.score > other.score else (other, one)]
            if one.score != other.score and one.reasoning != other.reasoning
        ]
        pairs += thin(found, SCORE_PAIRS_PER_PROBLEM, f"{seed}/{key}")
    return pairs


def check_mixture(mixture: Mapping[str, float], kinds: Collection[str]) -> None:
    """Raise `ConfigError` unless `mixture` is empty or names exactly the `kinds` of the training pairs."""
    if not mixture:
        return
    for kind in mixture:
        if kind not in kinds:
            raise ConfigError(
                f"data.mixture weighs kind {kind!r}, of which there is no training pair. "
                f"{did_you_mean(kind, [one or '(empty)' for one in kinds])}",
                path="data.mixture",
            )
    missing = sorted(set(kinds) - set(mixture))
    if missing:
        raise ConfigError(
            f"data.mixture gives no weight to {', '.join(map(repr, missing[:5]))}, which the pairs have. Give each a "
            "weight (0 leaves it out), or leave data.mixture empty.",
            path="data.mixture",
        )
    if not any(mixture[kind] for kind in kinds):
        raise ConfigError("data.mixture leaves out every kind that the pairs have. Raise one.", path="data.mixture")


def num_problems(rows: Sequence[Row], groups: Groups = _ALONE) -> int:
    """Return the number of different problems, a group counting as one."""
    return len({group_key(prompt, groups) for prompt in {row.prompt for row in rows}})


def problems_of(rows: Sequence[Row]) -> list[Text]:
    """Return each problem once, named by its id where a row says one, else by its first words."""
    seen: dict[str, Text] = {}
    for row in rows:
        if row.prompt not in seen:
            name = getattr(row, "problem_id", "") or " ".join(row.prompt.split())[:40]
            seen[row.prompt] = Text(name, row.prompt)
    return list(seen.values())
