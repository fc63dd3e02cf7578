"""All that a training run needs, looked at before it starts, cheapest first."""

from dataclasses import dataclass

from pgrpo_ray.config import STARTER, RunConfig
from pgrpo_ray.obs.hacking import read_probe
from pgrpo_ray.obs.sinks import check_wandb
from pgrpo_ray.preflight.devices import check_devices
from pgrpo_ray.preflight.disk import check_checkpoint_room, check_disk
from pgrpo_ray.preflight.models import STARTER_POLICY, ModelFacts, check_lengths, model_facts
from pgrpo_ray.preflight.problems import ProblemSets, load_problem_sets
from pgrpo_ray.preflight.reward import RewardPlan, plan_reward
from pgrpo_ray.preflight.sandbox import Sandbox, check_judging, check_memory_limits, choose_sandbox


@dataclass(frozen=True)
class Examined:
    """What could be checked before the starter is made; None stands for what the starter will supply."""

    reward: RewardPlan
    sandbox: Sandbox
    problems: ProblemSets | None
    policy: ModelFacts


def examine(config: RunConfig) -> Examined:
    """Check disk, sandbox, and all data and models that the config names, cheapest first."""
    reward = plan_reward(config)
    check_wandb(config)
    if config.monitor.probe:
        read_probe(config.monitor.probe)
    check_disk(config, reward.uses_starter(config))
    check_devices(reward.sized(config))
    problems = None if config.data.problems == STARTER else load_problem_sets(config)
    everything = None if problems is None else [*problems.train, *problems.heldout]
    sandbox = choose_sandbox(config, everything)
    if everything is not None:
        check_memory_limits(config, everything)
        check_judging(config, sandbox, everything)
    if reward.scored != "none" and config.reward_model.model != STARTER:
        model_facts(config.reward_model.model, "reward_model.model", role="reward")
    policy = STARTER_POLICY
    if config.policy.model != STARTER:
        policy = model_facts(config.policy.model, "policy.model", role="causal")
    check_lengths(config, policy)
    check_checkpoint_room(config, policy)
    return Examined(reward, sandbox, problems, policy)
