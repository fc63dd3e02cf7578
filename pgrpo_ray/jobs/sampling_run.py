"""The training config that stands for a job which only samples and judges: its rollout workers and pools are used."""

from pgrpo_ray.config import (
    DataSection,
    EvaluationSection,
    LearnerSection,
    RewardModelSection,
    RolloutSection,
    RunConfig,
    RunSection,
    SandboxSection,
)
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.config.lcb_rb import LcbRbConfig


def sampling_run(
    config: EvaluationConfig | LcbRbConfig,
    run: RunSection,
    rollout: RolloutSection,
    sandbox: SandboxSection,
    problems: str,
    max_prompt_tokens: int,
) -> RunConfig:
    """Return the config: policy, cluster and starter are the job's; learner and reward model take nothing."""
    return RunConfig(
        run=run,
        policy=config.policy,
        data=DataSection(problems=problems, max_prompt_tokens=max_prompt_tokens, heldout_problems=0),
        rollout=rollout,
        sandbox=sandbox,
        cluster=config.cluster,
        evaluation=EvaluationSection(samples_per_problem=rollout.group_size),
        learner=LearnerSection(num_ranks=1),
        reward_model=RewardModelSection(model="", gpus=0),
        starter=config.starter,
    )
