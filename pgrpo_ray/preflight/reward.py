"""How a run rewards: its rule, whose reasoning that has scored, and which doubtful choices people are told of."""

from dataclasses import dataclass

from pgrpo_ray.algo.rewards import RewardRule, Scored, find_rule, outweighed, with_length_penalty
from pgrpo_ray.config import STARTER, RunConfig
from pgrpo_ray.errors import ConfigError


@dataclass(frozen=True)
class RewardPlan:
    """How a run rewards."""

    rule: RewardRule
    scored: Scored
    """Whose reasoning the reward server gets; `none`: there is no server."""
    warnings: list[str]
    """For people, before anything starts."""

    def sized(self, config: RunConfig) -> RunConfig:
        """Return `config` with no more replicas of the reward server than the run has: its processes are counted."""
        if self.scored != "none":
            return config
        return config.model_copy(update={"reward_model": config.reward_model.model_copy(update={"replicas": 0})})

    def uses_starter(self, config: RunConfig) -> bool:
        """Return whether any artifact of the starter is needed."""
        models = [config.policy.model, config.data.problems]
        return STARTER in (models if self.scored == "none" else [*models, config.reward_model.model])


def plan_reward(config: RunConfig) -> RewardPlan:
    """Find the reward rule and what it asks of the run. Raises `ConfigError`."""
    algo, rule = config.algo, rule_of(config)
    if rule.pass_frac and config.sandbox.fail_fast:
        raise ConfigError(
            f"algo.reward={rule.name!r} reads the share of tests passed, but sandbox.fail_fast stops at the first that "
            "fails. Set sandbox.fail_fast=false.",
            path="sandbox.fail_fast",
        )
    widths: list[Scored] = ["none", "passers", "all"]
    scored = rule.scores
    if config.reward_model.score != "as_needed":
        scored = max(scored, config.reward_model.score, key=widths.index)
    warnings = [warning for warning in (outweighed(rule),) if warning]
    if algo.kl_weight and algo.kl_estimator == "k1":
        warnings.append("algo.kl_estimator='k1': its gradient is zero in expectation, so it holds the policy nowhere.")
    if algo.surrogate == "gspo" and algo.aggregation != "sequence_mean":
        warnings.append(
            f"algo.surrogate='gspo' with algo.aggregation={algo.aggregation!r}: GSPO's own is sequence_mean."
        )
    return RewardPlan(rule, scored, warnings)


def rule_of(config: RunConfig) -> RewardRule:
    """Return the reward rule that a config names, with its length penalty. Raises `ConfigError`."""
    rule = find_rule(config.algo.reward)
    if config.algo.length_penalty_tokens:
        rule = with_length_penalty(rule, config.rollout.max_response_tokens, config.algo.length_penalty_tokens)
    return rule
