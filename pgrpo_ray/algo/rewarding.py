"""Reward a batch: from its scalar columns to the reward columns that are recorded and trained on.

The one place where rule, advantages, dropping and masking meet. The driver calls it as a run goes on and `pgrpo replay`
calls it on what was recorded, so both have the same numbers to the last bit. Owns no formula: `algo.rewards` and
`algo.advantages` do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgrpo_ray.algo.advantages import Estimator, term_advantages
from pgrpo_ray.algo.rewards import RewardRule, Signals, compose
from pgrpo_ray.config import AlgoSection
from pgrpo_ray.types import Verdict

NAMED_TERMS = ("format", "outcome", "thinking")
"""Reward terms with a column of their own; others share `reward_other`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """All that decides what a batch of judged and scored rollouts is worth."""

    rule: RewardRule
    """Length penalty included."""
    estimator: Estimator
    std_floor: float
    """In reward units."""
    mask_cut: bool
    """Responses cut at their longest are masked."""
    mask_no_gradient: bool
    """Groups without a gradient are masked, as others were sampled in their place."""

    @classmethod
    def of(cls, rule: RewardRule, algo: AlgoSection) -> "Arm":
        """Return the arm that a config asks for; `rule` is what `preflight` made of its `algo.reward`."""
        return cls(rule, algo.advantage, algo.advantage_std_floor, algo.mask_cut, algo.sampling_rounds > 1)


@dataclass(frozen=True, eq=False, slots=True)
class Rewarded:
    """What N rollouts are worth under an arm. Made by `reward_batch`."""

    columns: dict[str, np.ndarray]
    """The columns of `data.arrow.REWARD_SCHEMA` [N]: float64, NaN where dropped (of `reward_format` 0 or 1); `dropped`
    and `masked` hold the reason, "" for none."""
    terms: dict[str, np.ndarray]
    """Each term of the reward by its own name, float64 [N]; NaN where dropped."""
    parts: dict[str, np.ndarray]
    """What each term contributes to the advantage, float64 [N]; 0 where dropped."""


def signals_of(columns: Mapping[str, np.ndarray]) -> Signals:
    """Return what reward rules read, from the scalar columns."""
    return Signals(
        format_ok=columns["format_ok"],
        passed=columns["verdict"] == Verdict.PASSED,
        pass_frac=columns["tests_passed"] / np.maximum(columns["tests_total"], 1),
        thinking=columns["thinking_reward"].astype(np.float64),
        response_tokens=columns["response_length"],
        failed=columns["execution_error"] != "",
    )


def reward_batch(arm: Arm, columns: Mapping[str, np.ndarray], group_index: np.ndarray) -> Rewarded:
    """Reward N rollouts from their scalar `columns` [N] (`data.scalars`); `group_index` int64 [N], from 0, no gaps.

    Raises `ValueError` for a rule that breaks what it declares, and whatever a user's rule raises.
    """
    signals = signals_of(columns)
    rewards = compose(arm.rule, signals)
    parts = term_advantages(
        rewards.terms, group_index, arm.std_floor, arm.estimator, arm.rule.apart, among=signals.passed
    )
    advantages = np.where(rewards.dropped, np.nan, sum(parts.values()))
    other = [values for name, values in rewards.terms.items() if name not in NAMED_TERMS]
    made = {f"reward_{name}": rewards.terms.get(name, 0.0 * rewards.reward) for name in NAMED_TERMS}
    # Known of dropped rollouts too: nothing can fail between the response and its tags.
    fallback = signals.format_ok * float("format" in rewards.terms)
    made["reward_format"] = np.where(rewards.dropped, fallback, made["reward_format"])
    cut = (columns["finish_reason"] == "length") & arm.mask_cut
    still = ~alive_groups(advantages, group_index)[group_index] & arm.mask_no_gradient
    made |= {
        "reward_other": sum(other, 0.0 * rewards.reward),
        "reward": rewards.reward,
        "advantage": advantages,
        "dropped": np.select([signals.failed, rewards.dropped], ["execution_error", "thinking_error"], ""),
        "masked": np.select([rewards.dropped, cut, still], ["", "cut", "no_gradient"], ""),
    }
    return Rewarded(made, rewards.terms, parts)


def alive_groups(advantages: np.ndarray, group_index: np.ndarray) -> np.ndarray:
    """Return which groups have a gradient, bool [groups]; `group_index` int64 [N], from 0, no gaps."""
    groups = int(group_index.max()) + 1 if group_index.size else 0
    return np.bincount(group_index[np.nan_to_num(advantages) != 0], minlength=groups) > 0
