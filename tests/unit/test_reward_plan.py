"""What a run's reward rule asks of it, before anything starts."""

import pytest

from pgrpo_ray.config import parse
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.preflight.reward import plan_reward


def plan(**sections):
    return plan_reward(parse(sections))


def test_nobody_is_scored_where_the_rule_reads_no_score_unless_the_record_wants_it():
    assert plan().scored == "passers"
    assert plan(algo={"reward": "outcome_only"}).scored == "none"
    assert plan(algo={"reward": "outcome_only"}, reward_model={"score": "passers"}).scored == "passers"
    assert plan(algo={"reward": "posterior"}, reward_model={"score": "all"}).scored == "all"
    assert plan(algo={"reward": "linear"}, reward_model={"score": "passers"}).scored == "all"  # its rule reads them


def test_a_run_without_a_reward_server_needs_no_starter_for_it():
    own = {"policy": {"model": "org/model"}, "data": {"problems": "mine.jsonl"}}
    for rule, needed in (("posterior", True), ("outcome_only", False)):
        config = parse(own | {"algo": {"reward": rule}})
        assert plan_reward(config).uses_starter(config) == needed


def test_what_a_run_without_a_reward_server_takes_counts_none():
    config = parse({"reward_model": {"gpus": 1, "replicas": 2}, "learner": {"gpus_per_rank": 1, "num_ranks": 1}})
    assert plan_reward(config).sized(config).gpus == 3
    without = config.model_copy(update={"algo": config.algo.model_copy(update={"reward": "outcome_only"})})
    assert plan_reward(without).sized(without).gpus == 1


def test_dynamic_sampling_needs_an_estimator_with_groups():
    with pytest.raises(ConfigError, match="compares over the whole batch"):
        parse({"algo": {"sampling_rounds": 2, "advantage": "reinforce_pp"}}).check()


def test_the_pass_fraction_needs_every_test_to_be_run():
    with pytest.raises(ConfigError, match=r"sandbox\.fail_fast=false"):
        plan(algo={"reward": "soft"})
    assert plan(algo={"reward": "soft"}, sandbox={"fail_fast": False}).rule.pass_frac


def test_the_length_penalty_becomes_a_term():
    terms = plan(algo={"length_penalty_tokens": 16}).rule.terms
    assert [term.name for term in terms] == ["format", "outcome", "thinking", "length"]
    with pytest.raises(ConfigError, match=r"exceeds rollout\.max_response_tokens"):
        parse({"algo": {"length_penalty_tokens": 65}, "rollout": {"max_response_tokens": 64}}).check()


def test_doubtful_choices_are_warned_of_and_the_defaults_are_not():
    assert plan().warnings == []
    (warning,) = plan(algo={"reward": "linear"}).warnings
    assert "Expect reward hacking" in warning
    assert "k1" in plan(algo={"kl_weight": 0.1, "kl_estimator": "k1"}).warnings[0]
    assert "sequence_mean" in plan(algo={"surrogate": "gspo"}).warnings[0]
    assert plan(algo={"surrogate": "gspo", "aggregation": "sequence_mean"}).warnings == []
