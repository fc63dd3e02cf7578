"""What the samples of one evaluation say: pass@k with intervals, verdicts, lengths. Pure functions of its table.

A sample whose machinery failed has neither passed nor failed: it is left out of every share and counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pgrpo_ray.evaluation.passk import pass_at_k_interval
from pgrpo_ray.evaluation.statistics import CONFIDENCE, wilson_interval


@dataclass(frozen=True, slots=True)
class Shares:
    """Per problem, in the table's order: how many samples have a verdict on them, and how many passed."""

    problem_ids: tuple[str, ...]
    difficulties: tuple[str, ...]
    correct: np.ndarray
    """int [P]"""
    judged: np.ndarray
    """int [P]"""

    def among(self, chosen: Sequence[int]) -> "Shares":
        """Return the problems at the given places."""
        return Shares(
            tuple(self.problem_ids[at] for at in chosen),
            tuple(self.difficulties[at] for at in chosen),
            self.correct[list(chosen)],
            self.judged[list(chosen)],
        )


def shares_of(table: pa.Table) -> Shares:
    """Count passed and judged samples per problem."""
    order: dict[str, int] = {}
    difficulty: list[str] = []
    correct: list[int] = []
    judged: list[int] = []
    rows = (table[name].to_pylist() for name in ("problem_id", "difficulty", "passed"))
    for problem_id, bucket, passed in zip(*rows, strict=True):
        if problem_id not in order:
            order[problem_id] = len(order)
            difficulty.append(bucket)
            correct.append(0)
            judged.append(0)
        at = order[problem_id]
        judged[at] += passed is not None
        correct[at] += bool(passed)
    return Shares(tuple(order), tuple(difficulty), np.array(correct), np.array(judged))


def summarise(table: pa.Table, ks: Sequence[int], seed: int) -> dict[str, Any]:
    """Return what the samples say: pass@k with intervals, in all and by difficulty, verdicts and lengths."""
    shares = shares_of(table)
    tokens = np.asarray(table["response_tokens"], dtype=np.float64)
    verdict_of = table["passed"].to_pylist()
    passed, failed = (np.array([one is wanted for one in verdict_of], dtype=bool) for wanted in (True, False))
    verdicts = Counter(
        "error" if error else verdict or "no_program"
        for verdict, error in zip(table["verdict"].to_pylist(), table["error"].to_pylist(), strict=True)
    )
    buckets = [bucket for bucket in dict.fromkeys(shares.difficulties) if bucket]
    places = {bucket: [at for at, one in enumerate(shares.difficulties) if one == bucket] for bucket in buckets}
    return {
        "num_problems": len(shares.problem_ids),
        "num_samples": table.num_rows,
        "num_unjudged": table["passed"].null_count,
        "pass_at_k": {str(k): _pass_at(shares, k, seed) for k in ks},
        "by_difficulty": {
            bucket: {"num_problems": len(at), "pass_at_1": _pass_at(shares.among(at), 1, seed)}
            for bucket, at in places.items()
        },
        "verdicts": dict(verdicts.most_common()),
        "format_ok_frac": _mean(np.asarray(table["format_ok"].to_pylist(), dtype=float)),
        "truncated_frac": _mean(np.array([reason == "length" for reason in table["finish_reason"].to_pylist()])),
        "mean_response_tokens": _mean(tokens),
        "mean_response_tokens_passed": _mean(tokens[passed]),
        "mean_response_tokens_failed": _mean(tokens[failed]),
    }


def _pass_at(shares: Shares, k: int, seed: int) -> dict[str, float | int | str | None]:
    """Mean pass@k over the problems of which k samples were judged, with its 95 % interval."""
    usable = [at for at, judged in enumerate(shares.judged) if judged >= k]
    if not usable:
        return {"value": None, "low": None, "high": None, "interval": None, "num_problems": 0}
    part = shares.among(usable)
    if k == 1 and (part.judged == 1).all():  # independent trials: no resampling is needed, and none can collapse
        kind, (value, low, high) = "wilson", wilson_interval(int(part.correct.sum()), len(usable))
    else:
        kind, (value, low, high) = "bootstrap", pass_at_k_interval(part.correct, part.judged, k, CONFIDENCE, seed)
    return {"value": value, "low": low, "high": high, "interval": kind, "num_problems": len(usable)}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
