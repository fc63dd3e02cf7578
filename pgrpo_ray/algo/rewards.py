"""Compose rewards: a rule says which terms there are, a batch's signals are put in, sums come out.

The default rule is the paper's, R = R^f + R^o + R^o * R^t (Posterior-GRPO, arXiv 2508.05170). The product is the gate:
reasoning earns nothing unless the program passes, so the thinking reward cannot be collected by prose alone. Its range
is 0 (wrong format), 1 (format only), [2, 3] (format and passed): a failing program never outranks a passing one.

The other rules are the arms that it is measured against, and whatever a user declares with `reward_rule`. A rule
declares each term's range and whether a model's opinion is in it; `outweighed` then says before a run whether that
opinion can beat the tests, and `compose` holds every batch to the declaration.

Owns the composition and the rule for failed machinery; does not know how the signals were obtained.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pgrpo_ray.errors import ConfigError

ENTRY_POINTS = "pgrpo_ray.reward_rules"
"""Group in which packages name their rules."""

Scored = Literal["none", "passers", "all"]
"""Whose reasoning gets a thinking reward: nobody's, that of programs that passed, or of every well-formed response."""


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a reward, as declared."""

    name: str
    low: float
    high: float
    learned: bool = False
    """A model's opinion is in it, which a policy can learn to please."""
    gated: bool = False
    """Zero wherever the program did not pass."""


@dataclass(frozen=True, eq=False, slots=True)
class Signals:
    """What is known of N rollouts. The driver fills it; rules read it."""

    format_ok: np.ndarray
    """R^f, bool [N]."""
    passed: np.ndarray
    """R^o, bool [N]: every test passed."""
    pass_frac: np.ndarray
    """P^o, float64 [N] in [0, 1]: share of tests passed. Exact only where `sandbox.fail_fast` is off."""
    thinking: np.ndarray
    """R^t, float64 [N] in [0, 1]; NaN where there is no score."""
    response_tokens: np.ndarray
    """int64 [N]."""
    failed: np.ndarray
    """bool [N]: the execution machinery gave no verdict."""


@dataclass(frozen=True, slots=True)
class RewardRule:
    """How signals become reward terms."""

    name: str
    terms: tuple[Term, ...]
    function: Callable[[Signals], Mapping[str, ArrayLike]]
    """Returns each term's values [N]. What it gives for a dropped rollout is ignored."""
    scores: Scored = "passers"
    apart: tuple[str, ...] = ()
    """Terms that are normalised by themselves, among passers, and join as advantages."""
    pass_frac: bool = False
    """It reads `Signals.pass_frac`."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a declaration that contradicts itself."""
        names = [term.name for term in self.terms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not set(self.apart) <= set(names):
            fault = f"{twice} stand twice among" if twice else f"apart={self.apart} is not among"
            raise ValueError(f"reward rule {self.name!r}: {fault} the terms {names}")


@dataclass(frozen=True, eq=False, slots=True)
class Rewards:
    """A batch's rewards. Made by `compose`."""

    terms: dict[str, np.ndarray]
    """Each term as added, float64 [N]; NaN where dropped."""
    reward: np.ndarray
    """Their sum, float64 [N]; NaN where dropped."""
    dropped: np.ndarray
    """bool [N]: the machinery failed, so the rollout leaves its group and gets no gradient."""


def compose(rule: RewardRule, signals: Signals) -> Rewards:
    """Compose the rewards of N rollouts.

    A rollout that was never judged, or whose score the rule needs and does not have, is dropped: the machinery failed,
    and a zero would punish the policy for it. Raises `ValueError` for unequal shapes, impossible signals, and a rule
    that leaves out a term or leaves its declared range.
    """
    _check(signals)
    dropped = signals.failed | (scores_read(rule, signals) & np.isnan(signals.thinking))
    given = rule.function(signals)
    if set(given) != {term.name for term in rule.terms}:
        declared = sorted(term.name for term in rule.terms)
        raise ValueError(f"reward rule {rule.name!r} declares the terms {declared} and gave {sorted(given)}")
    terms = {}
    for term in rule.terms:
        values = np.asarray(given[term.name], dtype=np.float64)
        if values.shape != dropped.shape:
            raise ValueError(f"reward rule {rule.name!r}: {term.name} has shape {values.shape}, not {dropped.shape}")
        _check_range(rule, term, values[~dropped], signals.passed[~dropped])
        terms[term.name] = np.where(dropped, np.nan, values)
    return Rewards(terms, sum(terms.values(), np.zeros(len(dropped))), dropped)


def scores_read(rule: RewardRule, signals: Signals) -> np.ndarray:
    """Return of which rollouts the rule reads a thinking reward, bool [N]."""
    return {"none": np.zeros_like(signals.passed), "passers": signals.passed, "all": signals.format_ok}[rule.scores]


def outweighed(rule: RewardRule) -> str:
    """Say why a policy may gain more by pleasing a model than by passing tests under `rule`; empty when it cannot.

    Compares how far learned terms can favour a failing program (what ungated ones add to it, what gated ones take from
    a passing one) with what `outcome` adds for passing (ours). A rule for which this says nothing can still be gamed
    among passers, but never by giving up a test for it.
    """
    learned = [term for term in rule.terms if term.learned]
    swing = sum(max(0.0, -term.low) if term.gated else term.high - term.low for term in learned)
    if not swing:
        return ""
    earned = sum(term.high - term.low for term in rule.terms if term.name == "outcome")
    if swing < earned:
        return ""
    names = ", ".join(term.name for term in learned if not term.gated or term.low < 0)
    return (
        f"reward rule {rule.name!r}: the learned term {names} can favour a failing program by {swing:g}, the outcome "
        f"favours a passing one by {earned:g}. Expect reward hacking; `posterior` gates its term."
    )


def reward_rule(
    *, terms: tuple[Term, ...], scores: Scored = "passers", apart: tuple[str, ...] = (), pass_frac: bool = False
) -> Callable[[Callable[[Signals], Mapping[str, ArrayLike]]], RewardRule]:
    """Decorate a function from `Signals` to terms, which `algo.reward` then chooses: as `package.module:name` anywhere;
    by its name alone in the process that defined it, or, where a package's entry point of the group
    `pgrpo_ray.reward_rules` leads to it, by the entry point's name. A later rule of the same name replaces an earlier
    one; raises `ValueError` for the name of a built-in one.
    """

    def declare(function: Callable[[Signals], Mapping[str, ArrayLike]]) -> RewardRule:
        rule = RewardRule(function.__name__, terms, function, scores, apart, pass_frac)
        if rule.name in RULES:
            raise ValueError(f"reward rule {rule.name!r} is built in: give the function another name")
        if rule.name.isidentifier():  # a lambda has no name to be chosen by
            _DEFINED[rule.name] = rule
        return rule

    return declare


def find_rule(name: str) -> RewardRule:
    """Return a built-in rule, or a user's (`reward_rule` says how it is named). Raises `ConfigError`."""
    if name in RULES:
        return RULES[name]
    if name in _DEFINED:
        return _DEFINED[name]
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    path = "algo.reward"
    if name in installed:
        point = installed[name]
        return _load(point.load, name, f"It is the entry point {point.value} of an installed package: mend that one.")
    module, colon, attribute = name.partition(":")
    if not colon:
        known = [*RULES, *_DEFINED, *installed]
        close = get_close_matches(name, known, 1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{path}={name!r} is no reward rule. {hint}There are {', '.join(known)}, and your own as "
            "`package.module:name`.",
            path=path,
        )
    fix = "Put it on PYTHONPATH, and have it import without an error."
    return _load(lambda: getattr(importlib.import_module(module), attribute), name, fix)


def _load(load: Callable[[], object], name: str, fix: str) -> RewardRule:
    """Return the rule that `load` gives. Raises `ConfigError`, with `fix`, where it gives none."""
    path = "algo.reward"
    try:
        rule = load()
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(
            f"{path}={name!r} cannot be imported: {type(error).__name__}: {error}. {fix}",
            path=path,
        ) from error
    if not isinstance(rule, RewardRule):
        raise ConfigError(
            f"{path}={name!r} is a {type(rule).__name__}. Decorate the function with `algo.rewards.reward_rule`.",
            path=path,
        )
    return rule


def with_length_penalty(rule: RewardRule, max_tokens: int, buffer_tokens: int) -> RewardRule:
    """Add the term `length`: 0 up to `max_tokens - buffer_tokens`, then linearly down to -1 at `max_tokens`.

    DAPO's soft overlong punishment (arXiv 2503.14476, section 3.4). Raises `ConfigError` where the rule has a term of
    that name.
    """
    if any(term.name == "length" for term in rule.terms):
        raise ConfigError(
            f"algo.length_penalty_tokens adds the term `length`, which algo.reward={rule.name!r} has already. Set it "
            "to 0, or rename the rule's term.",
            path="algo.length_penalty_tokens",
        )

    def function(signals: Signals) -> dict[str, ArrayLike]:
        excess = signals.response_tokens - (max_tokens - buffer_tokens)
        return {**rule.function(signals), "length": -np.clip(excess / buffer_tokens, 0.0, 1.0)}

    return replace(rule, terms=(*rule.terms, Term("length", -1.0, 0.0)), function=function)


_FORMAT, _OUTCOME = Term("format", 0, 1), Term("outcome", 0, 1)
_GATED = Term("thinking", 0, 1, learned=True, gated=True)


def _posterior(signals: Signals) -> dict[str, ArrayLike]:
    thinking = np.where(signals.passed, signals.thinking, 0.0)
    return {"format": signals.format_ok, "outcome": signals.passed, "thinking": thinking}


def _outcome_only(signals: Signals) -> dict[str, ArrayLike]:
    return {"format": signals.format_ok, "outcome": signals.passed}


def _linear(signals: Signals) -> dict[str, ArrayLike]:
    thinking = np.where(signals.format_ok, signals.thinking, 0.0)
    return {"format": signals.format_ok, "outcome": signals.passed, "thinking": thinking}


def _soft(signals: Signals) -> dict[str, ArrayLike]:
    thinking = np.where(signals.format_ok, signals.pass_frac * signals.thinking, 0.0)
    return {"format": signals.format_ok, "outcome": signals.pass_frac, "thinking": thinking}


RULES: dict[str, RewardRule] = {
    rule.name: rule
    for rule in (
        # The paper's method: R^f + R^o + R^o * R^t.
        RewardRule("posterior", (_FORMAT, _OUTCOME, _GATED), _posterior),
        # Its ablations. Plain GRPO: R^f + R^o.
        RewardRule("outcome_only", (_FORMAT, _OUTCOME), _outcome_only, scores="none"),
        # No gate: R^f + R^o + R^t.
        RewardRule("linear", (_FORMAT, _OUTCOME, Term("thinking", 0, 1, learned=True)), _linear, scores="all"),
        # The pass fraction in place of R^o, in the gate too. (That its gate is the fraction is our reading.)
        RewardRule(
            "soft", (_FORMAT, _OUTCOME, Term("thinking", 0, 1, learned=True)), _soft, scores="all", pass_frac=True
        ),
        # R^t normalised among passers only and added to the outcome's advantage, as PAPO does (arXiv 2603.26535).
        RewardRule("decoupled", (_FORMAT, _OUTCOME, _GATED), _posterior, apart=("thinking",)),
    )
}
"""The built-in rules, by the name that `algo.reward` gives."""
_DEFINED: dict[str, RewardRule] = {}
"""What `reward_rule` declared in this process."""


def _check(signals: Signals) -> None:
    """Raise `ValueError` for signals that cannot be."""
    arrays = {name: getattr(signals, name) for name in Signals.__slots__}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or signals.passed.ndim != 1:
        raise ValueError(f"all signals must have one shape [N], received {shapes}")
    for name in ("format_ok", "passed", "failed"):
        # Among numbers a pass fraction could slip in as R^o.
        if arrays[name].dtype != np.bool_:
            raise ValueError(f"{name} must be bool, received {arrays[name].dtype}")
    if (signals.passed & ~signals.format_ok).any():
        raise ValueError("a rollout passed although its format is wrong: there was no program to run")
    if (signals.passed & signals.failed).any():
        raise ValueError("a rollout passed although the machinery failed: it has no verdict")
    for name in ("thinking", "pass_frac"):
        known = arrays[name][~np.isnan(arrays[name])]
        if ((known < 0) | (known > 1)).any():
            raise ValueError(f"{name} must lie in [0, 1], received {known.min()} to {known.max()}")


def _check_range(rule: RewardRule, term: Term, values: np.ndarray, passed: np.ndarray) -> None:
    """Raise `ValueError` when kept `values` leave what `term` declares."""
    if not values.size:
        return
    if not (np.isfinite(values) & (values >= term.low) & (values <= term.high)).all():
        raise ValueError(
            f"reward rule {rule.name!r}: {term.name} is declared in [{term.low:g}, {term.high:g}] and came as "
            f"{values.min():g} to {values.max():g}"
        )
    if term.gated and values[~passed].any():
        raise ValueError(f"reward rule {rule.name!r}: {term.name} is declared gated and rewards a program that failed")
