"""Numbers of a step with intervals, from its rollouts.

The interval is a 95 % percentile bootstrap over groups, not over rollouts: those of one problem share its difficulty.
It speaks of the choice of problems and of sampling, not of seeds of training, and has no width where all groups agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgrpo_ray.evaluation.passk import pass_at_k, pass_at_k_interval
from pgrpo_ray.evaluation.statistics import CONFIDENCE, PairedDifference, paired_difference
from pgrpo_ray.report.rows import Place
from pgrpo_ray.types import Verdict

RESAMPLES = 1000
"""Ours: ends of a band wobble by a few percent of its width, which no curve shows."""


@dataclass(frozen=True)
class Estimate:
    """A number and how far to trust it."""

    value: float
    low: float
    high: float


def step_estimates(place: Place, seed: int) -> dict[str, Estimate]:
    """Return numbers of one training step, named as in `docs/metrics.md`; deterministic in `seed`.

    And `gate_open_frac`: share of rollouts whose thinking reward counts, that is, whose term is not 0.
    """
    kept = place.texts("dropped") == ""
    passed = place.texts("verdict") == Verdict.PASSED
    thinking = place.numbers("thinking_reward")
    known = kept & ~np.isnan(thinking)
    everyone = np.ones_like(kept)
    tokens = place.numbers("response_tokens")
    measured: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "pass_rate": (passed, kept),
        "format_rate": (place.numbers("format_ok"), kept),
        **{
            name: (place.numbers(name), kept)
            for name in ("reward", "reward_format", "reward_outcome", "reward_thinking", "reward_other")
        },
        "thinking_passers": (thinking, known & passed),
        "thinking_failers": (thinking, known & ~passed),
        "gate_open_frac": (place.numbers("reward_thinking") != 0, kept),
        "response_tokens_mean": (tokens, everyone),
        "cut_frac": (place.texts("finish_reason") == "length", everyone),
    }
    return means_over_groups(measured, place.group_index, seed)


def means_over_groups(
    measured: Mapping[str, tuple[np.ndarray, np.ndarray]], group_index: np.ndarray, seed: int
) -> dict[str, Estimate]:
    """Return the mean of each of `measured`, (values [B], which of them count, bool [B]), with its interval.

    `group_index`: int [B], groups 0, 1, ... without gaps. Left out is what counts nowhere, as its mean is unknown.
    """
    groups = int(group_index[-1]) + 1 if len(group_index) else 0
    if not groups:
        return {}
    # How often each group is drawn, [RESAMPLES, groups]: the same draws for all, so that curves can be compared.
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    tail = (1 - CONFIDENCE) / 2
    found = {}
    for name, (values, counts) in measured.items():
        if not counts.any():
            continue
        sums = np.bincount(group_index, np.where(counts, values, 0), groups)
        sizes = np.bincount(group_index, counts, groups)
        weight = drawn @ sizes
        means = (drawn @ sums)[weight > 0] / weight[weight > 0]
        low, high = np.quantile(means, [tail, 1 - tail])
        found[name] = Estimate(float(sums.sum() / sizes.sum()), float(low), float(high))
    return found


def heldout_pass_at_1(place: Place, seed: int) -> Estimate | None:
    """Return pass@1 of an evaluation as the run itself reckons it; None where the machinery judged nothing."""
    correct, judged = _counts(place)
    if not (judged > 0).any():
        return None
    return Estimate(*pass_at_k_interval(correct[judged > 0], judged[judged > 0], 1, CONFIDENCE, seed))


def difference(first: Place, second: Place) -> PairedDifference | None:
    """Return pass@1 of the second minus that of the first; None unless they judged the same problems."""
    shares = []
    for place in (first, second):
        correct, judged = _counts(place)
        problems = place.texts("problem_id")[place.starts[:-1]]
        if not len(problems) or not (judged > 0).all() or len(set(problems)) < len(problems):
            return None
        shares.append(dict(zip(problems, pass_at_k(correct, judged, 1), strict=True)))
    if shares[0].keys() != shares[1].keys():
        return None
    return paired_difference(list(shares[0].values()), [shares[1][problem] for problem in shares[0]])


def _counts(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples of each group passed, and how many the machinery could judge, int64 [groups] each."""
    groups, index = len(place.starts) - 1, place.group_index
    passed = place.texts("verdict") == Verdict.PASSED
    failed = place.table["failed"].to_numpy()
    return (
        np.bincount(index, passed, groups).astype(np.int64),
        np.bincount(index, ~failed, groups).astype(np.int64),
    )
