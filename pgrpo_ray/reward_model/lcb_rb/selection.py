"""From executed samples to pairs: which candidates are judged, and which of the accepted ones make the benchmark.

Pure functions of their arguments and a seed. A sample is used only where its format is right, its reasoning is not
empty, and the machinery judged its program; what is left out is counted by reason. Two selections: `candidates`, before
the judge, bounds what judging costs; `balanced`, after it, spreads the pairs over difficulty buckets and problems.
"""

import heapq
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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

    Within a problem samples take turns: the second pair of a problem meets two other samples where there are any. What
    `max_length_ratio` leaves out and what `balance_length` puts first may disturb the turns.
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
        for chosen, rejected in _in_turns(passing, failing):
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


def _in_turns(passing: Sequence[Sample], failing: Sequence[Sample]) -> Iterable[tuple[Sample, Sample]]:
    """Every pair once, both sides in turns: among the first so many, uses of two samples of a side differ by one."""
    round_length = math.lcm(len(passing), len(failing))  # after it, both sides are at their beginning together
    for at in range(len(passing) * len(failing)):
        yield passing[at % len(passing)], failing[(at + at // round_length) % len(failing)]


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
    dealer = _Dealer(selection.max_pairs_per_problem)
    if selection.balance_length:
        _deal_even(accepted, selection.num_pairs, dealer, rng)
    else:
        dealer.deal_all(accepted, selection.num_pairs, rng)
    place = {id(candidate): at for at, candidate in enumerate(accepted)}
    return sorted(dealer.dealt, key=lambda candidate: place[id(candidate)])


def _deal_even(accepted: Sequence[Candidate], limit: int | None, dealer: "_Dealer", rng: random.Random) -> None:
    """Deal as many with the longer side chosen as with the shorter one, in turns, then those of equal length.

    Of each sign exactly as many as the problems' places allow: a candidate is passed over where its place is one that
    the other sign cannot do without. How many that is: over problems, each sign has the sum of min(its candidates,
    places), both together the sum of min(all candidates, places); these three bounds are enough, because within a
    problem they describe every choice (a polymatroid, and sums of polymatroids are described by the sums).
    """
    signs = {sign: [candidate for candidate in accepted if _sign(candidate) == sign] for sign in (1, -1, 0)}
    left = {sign: Counter(candidate.problem_id for candidate in signs[sign]) for sign in (1, -1)}
    places = dealer.per_problem
    room = {sign: sum(min(count, places) for count in left[sign].values()) for sign in (1, -1)}
    shared = sum(min(count, places) for count in (left[1] + left[-1]).values())
    each = min(room[1], room[-1], shared // 2, len(accepted) if limit is None else limit // 2)
    spare = {sign: room[sign] - each for sign in (1, -1)}  # places that a sign may still lose to the other one
    piles = {sign: _piles(signs[sign], rng) for sign in (1, -1)}

    def costs(candidate: Candidate) -> int:
        """Places that the other sign loses with this one."""
        problem = candidate.problem_id
        return left[-_sign(candidate)][problem] >= places - dealer.taken[problem]

    def fits(spare_places: int, candidate: Candidate) -> bool:
        return costs(candidate) <= spare_places

    for _ in range(each):
        for sign in (1, -1):
            one = dealer.deal(piles[sign], sign, partial(fits, spare[-sign]))
            assert one is not None, "the bounds promised a candidate"
            spare[-sign] -= left[-sign][one.problem_id] > places - dealer.taken[one.problem_id]
            left[sign][one.problem_id] -= 1
    dealer.deal_all(signs[0], None if limit is None else limit - 2 * each, rng)


Piles = dict[str, list[tuple[int, int, Candidate]]]
"""By difficulty bucket: a heap of (pairs dealt of its problem when last looked at, place in line, candidate)."""


def _piles(accepted: Sequence[Candidate], rng: random.Random) -> Piles:
    """Line candidates up by bucket, problems in random order."""
    piles: Piles = {}
    for difficulty, mine in sorted(_grouped(accepted, lambda candidate: candidate.difficulty).items()):
        by_problem = [group for _, group in sorted(_grouped(mine, lambda candidate: candidate.problem_id).items())]
        rng.shuffle(by_problem)
        turns = itertools.zip_longest(*by_problem)
        line = [candidate for turn in turns for candidate in turn if candidate is not None]
        piles[difficulty] = [(0, place, candidate) for place, candidate in enumerate(line)]  # sorted, so a heap
    return piles


class _Dealer:
    """Deals candidates: from the bucket with the fewest so far, and in it from the problem with the fewest so far."""

    def __init__(self, per_problem: int):
        self.per_problem = per_problem
        self.dealt: list[Candidate] = []
        self.taken: Counter[str] = Counter()
        """Dealt of each problem."""
        self._of_bucket: Counter[tuple[str, int]] = Counter()

    def deal_all(self, accepted: Sequence[Candidate], limit: int | None, rng: random.Random) -> None:
        """Deal until `limit` more are dealt, or none is left that fits."""
        piles, start = _piles(accepted, rng), len(self.dealt)
        while (limit is None or len(self.dealt) - start < limit) and self.deal(piles) is not None:
            pass

    def deal(
        self, piles: Piles, sign: int = 0, admits: Callable[[Candidate], bool] = lambda candidate: True
    ) -> Candidate | None:
        """Deal one that `admits`; None where there is none. What it does not admit is never asked about again.

        `sign` is that of all of `piles`, 0 where they are mixed or equal.
        """
        for bucket in sorted(piles, key=lambda name: self._so_far(name, sign)):
            pile = piles[bucket]
            while pile:
                seen, place, candidate = heapq.heappop(pile)
                taken = self.taken[candidate.problem_id]
                if taken >= self.per_problem:
                    continue
                if taken > seen:
                    heapq.heappush(pile, (taken, place, candidate))
                elif admits(candidate):
                    self.taken[candidate.problem_id] += 1
                    self._of_bucket[bucket, sign] += 1
                    self.dealt.append(candidate)
                    return candidate
        return None

    def _so_far(self, bucket: str, sign: int) -> tuple[int, int]:
        """How many of this bucket: first of the sign, or difficulty and sign would go together; then of all."""
        return (self._of_bucket[bucket, sign] if sign else 0, sum(self._of_bucket[bucket, one] for one in (1, -1, 0)))


Item = TypeVar("Item")


def _grouped(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
