"""How well things that are not reasoning tell the better side from the worse: length alone, and a bag of words.

A set of pairs that a bag of words orders rightly can be learned without any understanding, and a reward model trained
on it will reward those words. Owns the two measurements, their intervals and the warning; changes no pair. The bag of
words is a Bradley-Terry model on word counts, cross-validated by problem: no problem is on both sides of a fold.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pgrpo_ray.reward_model.pairs import problem_hash
from pgrpo_ray.reward_model.statistics import estimate, outcome
from pgrpo_ray.types import PreferencePair

WARN_ABOVE = 0.6
"""Pair accuracy of a shortcut from which on a set of pairs is suspicious (ours)."""
_FOLDS = 5
_TOKEN = r"(?u)\w+|[^\w\s]"
"""Digits and signs count too: a bag that does not see `<` would miss what a reward model sees."""
_MAX_WORDS = 20_000
_NUM_WORDS_SHOWN = 10


@dataclass(frozen=True)
class Share:
    """Share of pairs ordered rightly, ties half, in [0, 1], with its 95 % interval (bootstrap over problems)."""

    accuracy: float
    low: float | None
    """None: there are not two problems to draw from."""
    high: float | None
    num_pairs: int

    @property
    def separates(self) -> bool:
        """Above `WARN_ABOVE` in either direction, and not by chance: the interval excludes one half."""
        above = max(self.accuracy, 1 - self.accuracy) > WARN_ABOVE
        if self.low is None or self.high is None:
            return False
        return above and not self.low <= 0.5 <= self.high


@dataclass(frozen=True)
class ShortcutReport:
    """What `examine` found."""

    num_pairs: int
    num_problems: int
    longer_wins: Share
    """Of the rule that the side with more characters is better; below one half, the shorter side tends to be."""
    bag_of_words: Share | None
    """None: fewer than two problems, so none could be kept apart."""
    longer_wins_by_kind: dict[str, Share] = field(default_factory=dict)
    bag_of_words_by_kind: dict[str, Share] = field(default_factory=dict)
    words_of_better: list[str] = field(default_factory=list)
    """Words that speak for the better side most."""
    words_of_worse: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """One sentence per shortcut that separates the sides, for people."""
        found = []
        if self.longer_wins.separates:
            side = "longer" if self.longer_wins.accuracy > 0.5 else "shorter"
            share = max(self.longer_wins.accuracy, 1 - self.longer_wins.accuracy)
            found.append(f"the {side} side is the better one in {100 * share:.1f} % of the pairs")
        if self.bag_of_words and self.bag_of_words.separates:
            found.append(f"a bag of words orders {100 * self.bag_of_words.accuracy:.1f} % of the pairs rightly")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"warnings": self.warnings}


def examine(pairs: Sequence[PreferencePair], seed: int = 0) -> ShortcutReport:
    """Measure both shortcuts; `seed` draws the intervals' resamples. Raises `ValueError` without pairs."""
    if not pairs:
        raise ValueError("there are no pairs to examine")
    problems = np.unique([pair.problem_id or problem_hash(pair.prompt) for pair in pairs], return_inverse=True)[1]
    kinds = np.array([pair.kind for pair in pairs])
    differences = np.array([len(pair.better) - len(pair.worse) for pair in pairs], dtype=float)
    num_problems = int(problems.max()) + 1
    words: np.ndarray | None = None
    better: list[str] = []
    worse: list[str] = []
    if num_problems > 1:
        words, better, worse = _bag_of_words(pairs, problems)
    return ShortcutReport(
        num_pairs=len(pairs),
        num_problems=num_problems,
        longer_wins=_share(differences, problems, seed),
        bag_of_words=None if words is None else _share(words, problems, seed),
        longer_wins_by_kind=_by_kind(differences, kinds, problems, seed),
        bag_of_words_by_kind={} if words is None else _by_kind(words, kinds, problems, seed),
        words_of_better=better,
        words_of_worse=worse,
    )


def _bag_of_words(pairs: Sequence[PreferencePair], problems: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
    """Return each pair's margin [P] by a model that did not see its problem, and the words that decide most."""
    from sklearn.model_selection import GroupKFold

    margins = np.zeros(len(pairs))
    folds = GroupKFold(min(_FOLDS, int(problems.max()) + 1))
    for train, test in folds.split(margins, groups=problems):
        vectoriser, weights = _fit([pairs[index] for index in train])
        margins[test] = _differences(vectoriser, [pairs[index] for index in test]) @ weights
    vectoriser, weights = _fit(pairs)
    names, order = vectoriser.get_feature_names_out(), np.argsort(weights)
    shown = order[: -_NUM_WORDS_SHOWN - 1 : -1], order[:_NUM_WORDS_SHOWN]
    better = [str(names[index]) for index in shown[0] if weights[index] > 0]
    worse = [str(names[index]) for index in shown[1] if weights[index] < 0]
    return margins, better, worse


def _fit(pairs: Sequence[PreferencePair]) -> tuple[Any, np.ndarray]:
    """Fit a Bradley-Terry model on word counts: logistic regression on differences, no intercept, both directions."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectoriser = CountVectorizer(token_pattern=_TOKEN, max_features=_MAX_WORDS)
    vectoriser.fit(text for pair in pairs for text in (pair.better, pair.worse))
    differences = _differences(vectoriser, pairs)
    labels = np.repeat([1, 0], len(pairs))
    model = LogisticRegression(fit_intercept=False, max_iter=1000).fit(vstack([differences, -differences]), labels)
    return vectoriser, model.coef_[0]


def _differences(vectoriser: Any, pairs: Sequence[PreferencePair]) -> Any:
    """Word counts of the better side minus those of the worse, sparse [P, V]."""
    better = vectoriser.transform([pair.better for pair in pairs])
    return (better - vectoriser.transform([pair.worse for pair in pairs])).astype(float)


def _by_kind(margins: np.ndarray, kinds: np.ndarray, problems: np.ndarray, seed: int) -> dict[str, Share]:
    named = [str(kind) for kind in np.unique(kinds) if kind]
    return {kind: _share(margins[kinds == kind], problems[kinds == kind], seed) for kind in named}


def _share(margins: np.ndarray, problems: np.ndarray, seed: int) -> Share:
    """Accuracy of `margins` [P] (positive: the better side wins) and its interval, problems resampled whole."""
    found = estimate([outcome(margin, 0.0) for margin in margins], problems, seed)
    return Share(found.value, found.low, found.high, found.num_pairs)
