"""Whether one of two evaluated models is better, on the problems that both were given."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pgrpo_ray.errors import DataError
from pgrpo_ray.evaluation.results import Result
from pgrpo_ray.evaluation.statistics import PairedDifference, paired_difference
from pgrpo_ray.evaluation.summary import Shares, shares_of

COMPARABLE = (
    *("benchmark", "problems", "num_problems", "samples_per_problem", "temperature", "max_response_tokens"),
    *("variant", "template", "answers", "solutions"),
)
"""Settings that two results must share to be compared. Models differ, of course, and so may dtype and seed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results of one benchmark on the same problems: the second against the first."""

    benchmark: str
    bucket: str
    """A difficulty; empty: all problems."""
    first: float
    """pass@1."""
    second: float
    difference: PairedDifference
    first_tokens: float
    """Mean length of a response, of those that were judged."""
    second_tokens: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def compare_results(first: Result, second: Result, allowed: Sequence[str], seed: int) -> list[Comparison]:
    """Compare in all and, where known, by difficulty.

    `allowed` are names of settings that may differ. Raises `DataError` that names the first difference otherwise, and
    problems that only one of them solved or judged.
    """
    for key in COMPARABLE:
        one, two = first.settings.get(key), second.settings.get(key)
        if one != two and key not in allowed:
            raise DataError(
                f"{key} differs: {one!r} in {first.folder}, {two!r} in {second.folder}. Evaluate both alike"
                + (f", or say that it may with --allow {key}." if key not in ("benchmark", "problems") else ".")
            )
    pair = (shares_of(first.table), shares_of(second.table))
    lacking = set(pair[0].problem_ids) ^ set(pair[1].problem_ids)
    if lacking:
        raise DataError(
            f"{len(lacking)} problems are in one result alone, such as {min(lacking)!r}.", str(first.folder)
        )
    for result, shares in zip((first, second), pair, strict=True):
        if (shares.judged == 0).any():
            lost = shares.problem_ids[int(np.flatnonzero(shares.judged == 0)[0])]
            raise DataError(f"no sample of {lost!r} has a verdict. Run that evaluation again.", str(result.folder))
    places = {problem_id: at for at, problem_id in enumerate(pair[1].problem_ids)}
    one, two = pair[0], pair[1].among([places[problem_id] for problem_id in pair[0].problem_ids])
    buckets = ["", *(bucket for bucket in dict.fromkeys(one.difficulties) if bucket)]
    return [_compared(first, second, one, two, bucket, seed) for bucket in buckets]


def _compared(first: Result, second: Result, one: Shares, two: Shares, bucket: str, seed: int) -> Comparison:
    chosen = [at for at, difficulty in enumerate(one.difficulties) if bucket in ("", difficulty)]
    a, b = one.among(chosen), two.among(chosen)
    shares = [part.correct / part.judged for part in (a, b)]
    return Comparison(
        benchmark=first.benchmark,
        bucket=bucket,
        first=float(shares[0].mean()),
        second=float(shares[1].mean()),
        difference=paired_difference(shares[0], shares[1], seed=seed),
        first_tokens=_tokens(first.table, bucket),
        second_tokens=_tokens(second.table, bucket),
    )


def _tokens(table: pa.Table, bucket: str) -> float:
    rows = zip(table["difficulty"].to_pylist(), table["passed"].to_pylist(), strict=True)
    chosen = [passed is not None and bucket in ("", difficulty) for difficulty, passed in rows]
    return float(table["response_tokens"].to_numpy()[np.array(chosen)].mean())
