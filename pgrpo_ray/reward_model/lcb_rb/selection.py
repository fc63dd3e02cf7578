"""From executed samples to pairs: which candidates are judged, and which of the accepted ones make the benchmark.

Pure functions of their arguments and a seed. A sample is used only where its format is right, its reasoning is not
empty, and the machinery judged its program; what is left out is counted by reason. Two selections: `candidates`, before
the judge, bounds what judging costs; `balanced`, after it, spreads the pairs over difficulty buckets and problems.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pgrpo_ray.types import Problem, Verdict

EASY_FROM, MEDIUM_FROM = 2 / 3, 1 / 3
"""Pass rates from which a problem is `easy` and `medium`; `hard` below. Ours: thirds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One executed sample."""

    problem_id: str
    name: str
    """Where it came from, for provenance."""
    format_ok: bool
    reasoning: str
    """Stripped; empty where there is none."""
    program: str
    verdict: str
    """A value of `types.Verdict`; empty where the program was not run or the machinery failed."""
    policy: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passing and a failing sample of one problem."""

    problem_id: str
    difficulty: str
    chosen: Sample
    rejected: Sample


@dataclass(frozen=True, slots=True)
class Selection:
    """How candidates and pairs are chosen; `config.lcb_rb.SelectionSection` documents the same fields."""

    seed: int
    max_candidates_per_problem: int
    max_pairs_per_problem: int
    num_pairs: int | None
    max_length_ratio: float | None
    balance_length: bool


def usable(samples: Iterable[Sample]) -> tuple[list[Sample], Counter[str]]:
    """Return the samples that may stand in a pair, and how many were left out for which reason.

    Of samples of one problem with the same reasoning and outcome, the first stays.
    """
    kept: list[Sample] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[str, str, bool]] = set()
    for sample in samples:
        key = (sample.problem_id, sample.reasoning, sample.verdict == Verdict.PASSED)
        if not sample.format_ok:
            left_out["format_wrong"] += 1
        elif not sample.verdict:
            left_out["not_judged"] += 1
        elif not sample.reasoning:
            left_out["reasoning_empty"] += 1
        elif key in seen:
            left_out["repeated"] += 1
        else:
            seen.add(key)
            kept.append(sample)
    return kept, left_out


def difficulties(problems: Sequence[Problem], samples: Iterable[Sample], source: str) -> tuple[dict[str, str], str]:
    """Return each problem's difficulty bucket, and where it was taken from: `metadata` or `pass_rate`.

    `source` `metadata` takes the word of the problem set; where not a single problem has one, the pass rate of its
    judged samples stands in, in thirds, as it does for `pass_rate`.
    """
    stated = {problem.id: str(problem.metadata.get("difficulty") or "") for problem in problems}
    if source == "metadata" and any(stated.values()):
        return stated, "metadata"
    judged: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        if sample.verdict or not sample.format_ok:  # a wrong format is a failure, as in training
            judged[sample.problem_id].append(sample.verdict == Verdict.PASSED)
    return {problem: _bucket(sum(passed) / len(passed)) for problem, passed in judged.items()}, "pass_rate"


def _bucket(pass_rate: float) -> str:
    return "easy" if pass_rate >= EASY_FROM else "medium" if pass_rate >= MEDIUM_FROM else "hard"


def candidates(
    samples: Iterable[Sample], difficulty: Mapping[str, str], selection: Selection
) -> tuple[list[Candidate], Counter[str]]:
    """Return the candidates of each problem, at most `max_candidates_per_problem`, and how many were left out and why.

    Within a problem each sample is used as rarely as possible: the second pair of a problem meets two other samples
    where there are any.
    """
    sides: dict[str, tuple[list[Sample], list[Sample]]] = {}
    for sample in samples:
        sides.setdefault(sample.problem_id, ([], []))[sample.verdict != Verdict.PASSED].append(sample)
    found: list[Candidate] = []
    left_out: Counter[str] = Counter()
    for problem_id in sorted(sides):
        passing, failing = sides[problem_id]
        if not passing or not failing:
            left_out["problems_all_failed" if failing else "problems_all_passed"] += 1
            continue
        rng = random.Random(f"lcb-rb/candidates/{selection.seed}/{problem_id}")
        rng.shuffle(passing)
        rng.shuffle(failing)
        mine = []
        for chosen, rejected in _diagonally(passing, failing):
            if chosen.reasoning == rejected.reasoning:
                left_out["equal_reasoning"] += 1
            elif not _ratio_fits(chosen.reasoning, rejected.reasoning, selection.max_length_ratio):
                left_out["length_ratio"] += 1
            else:
                mine.append(Candidate(problem_id, difficulty.get(problem_id, ""), chosen, rejected))
        if selection.balance_length:
            mine = _alternate(mine)
        left_out["over_the_cap"] += max(0, len(mine) - selection.max_candidates_per_problem)
        found += mine[: selection.max_candidates_per_problem]
    return found, left_out


def _diagonally(passing: Sequence[Sample], failing: Sequence[Sample]) -> Iterable[tuple[Sample, Sample]]:
    """Every pair, along diagonals, so that the first few share no sample."""
    for shift in range(max(len(passing), len(failing))):
        for at in range(min(len(passing), len(failing))):
            if len(passing) >= len(failing):
                yield passing[(at + shift) % len(passing)], failing[at]
            else:
                yield passing[at], failing[(at + shift) % len(failing)]


def _ratio_fits(one: str, other: str, limit: float | None) -> bool:
    short, long = sorted((len(one), len(other)))
    return limit is None or long <= limit * short


def _sign(candidate: Candidate) -> int:
    """Which side is longer: 1 the chosen, -1 the rejected, 0 neither."""
    difference = len(candidate.chosen.reasoning) - len(candidate.rejected.reasoning)
    return (difference > 0) - (difference < 0)


def _alternate(mine: list[Candidate]) -> list[Candidate]:
    """Put candidates whose chosen side is longer and those whose rejected side is in turns, so a cap keeps both."""
    longer = [candidate for candidate in mine if _sign(candidate) >= 0]
    shorter = [candidate for candidate in mine if _sign(candidate) < 0]
    together = [one for two in zip(longer, shorter, strict=False) for one in two]
    rest = longer[len(shorter) :] or shorter[len(longer) :]
    return together + rest


def balanced(accepted: Sequence[Candidate], selection: Selection) -> list[Candidate]:
    """Return the candidates that make the benchmark, in the order of problems.

    At most `max_pairs_per_problem` of a problem. `num_pairs` (all, where None) are dealt out in turns over the
    difficulty buckets, and within a bucket over its problems, so buckets are even as far as there is material. With
    `balance_length`, as many with the longer side chosen as with the shorter one, and those of equal length as they
    come.
    """
    rng = random.Random(f"lcb-rb/pairs/{selection.seed}")
    if not selection.balance_length:
        chosen = _deal(accepted, selection.max_pairs_per_problem, selection.num_pairs, rng)
    else:
        chosen = _deal_even(accepted, selection, rng)
    place = {id(candidate): at for at, candidate in enumerate(accepted)}
    return sorted(chosen, key=lambda candidate: place[id(candidate)])


def _deal_even(accepted: Sequence[Candidate], selection: Selection, rng: random.Random) -> list[Candidate]:
    """Deal the scarcer sign first, then as many of the other, then those of equal length."""
    signs = {sign: [candidate for candidate in accepted if _sign(candidate) == sign] for sign in (1, -1, 0)}
    limit, per_problem = selection.num_pairs, selection.max_pairs_per_problem
    half = None if limit is None else limit // 2
    scarce, plenty = sorted((1, -1), key=lambda sign: len(signs[sign]))
    first = _deal(signs[scarce], per_problem, half, rng)
    used = Counter(candidate.problem_id for candidate in first)
    second = _deal(signs[plenty], per_problem, len(first), rng, used)
    # The second may have less room than there was material: per-problem places are taken. Even means even.
    first = _deal(first, per_problem, len(second), rng)
    used = Counter(candidate.problem_id for candidate in (*first, *second))
    left = None if limit is None else limit - len(first) - len(second)
    return [*first, *second, *_deal(signs[0], per_problem, left, rng, used)]


def _deal(
    accepted: Sequence[Candidate],
    per_problem: int,
    limit: int | None,
    rng: random.Random,
    used: Counter[str] | None = None,
) -> list[Candidate]:
    """Take one from each bucket in turn, and within a bucket from each problem in turn, until `limit` or the end."""
    taken = Counter(used or {})
    buckets: dict[str, list[Candidate]] = defaultdict(list)
    for difficulty, mine in sorted(_grouped(accepted, lambda candidate: candidate.difficulty).items()):
        by_problem = [group for _, group in sorted(_grouped(mine, lambda candidate: candidate.problem_id).items())]
        rng.shuffle(by_problem)
        for turn in range(max(map(len, by_problem))):
            buckets[difficulty] += [group[turn] for group in by_problem if turn < len(group)]
    dealt: list[Candidate] = []
    queues = [iter(mine) for mine in buckets.values()]
    while queues and (limit is None or len(dealt) < limit):
        queue = queues.pop(0)
        for candidate in queue:
            if taken[candidate.problem_id] < per_problem:
                taken[candidate.problem_id] += 1
                dealt.append(candidate)
                queues.append(queue)
                break
    return dealt


Item = TypeVar("Item")


def _grouped(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
