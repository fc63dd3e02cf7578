"""The numbers that follow from a training run's config."""

from dataclasses import dataclass

from pgrpo_ray.config.run import RunConfig
from pgrpo_ray.config.sections import MAX_MISMATCH


@dataclass(frozen=True)
class Derived:
    """Numbers that follow from a config; printed by `pgrpo check`."""

    prompts_per_step: int
    rollouts_per_step: int
    """prompts_per_step x group_size; of one round where `algo.sampling_rounds` allows more."""
    rollouts_total: int
    """Without further rounds; `run.max_rollouts` where that is less."""
    optimizer_steps: int
    """steps x num_mini_batches: the last policy version, at most (a mini-batch without gradient takes no step)."""
    steps_ahead: int
    """How many steps before it is trained on a batch may be asked for; 0: on-policy."""
    rollouts_per_mini_batch: int
    max_sequence_tokens: int
    """Longest prompt plus longest response; vLLM's max_model_len."""
    max_micro_batches_per_rank: int
    """Upper bound per mini-batch, were every rollout of full length."""
    max_tokens_per_step: int
    max_mismatch: float
    """Nats: `sync.max_mismatch`, or `MAX_MISMATCH` of the policy's dtype."""
    heldout_problems: int
    heldout_rollouts: int
    """Per evaluation."""


def derive(config: RunConfig) -> Derived:
    """Compute the numbers that follow from `config`; changes nothing."""
    rollout, learner = config.rollout, config.learner
    rollouts = rollout.prompts_per_step * rollout.group_size
    longest = config.max_sequence_tokens
    per_mini = -(-rollouts // config.algo.num_mini_batches)
    rows_per_micro = max(1, learner.micro_batch_tokens // longest)
    per_rank = -(-per_mini // learner.num_ranks)
    return Derived(
        prompts_per_step=rollout.prompts_per_step,
        rollouts_per_step=rollouts,
        rollouts_total=min(rollouts * config.run.steps, config.run.max_rollouts or rollouts * config.run.steps),
        optimizer_steps=config.run.steps * config.algo.num_mini_batches,
        steps_ahead=config.algo.max_staleness // config.algo.num_mini_batches,
        rollouts_per_mini_batch=per_mini,
        max_sequence_tokens=longest,
        max_micro_batches_per_rank=-(-per_rank // rows_per_micro),
        max_tokens_per_step=rollouts * longest,
        max_mismatch=config.sync.max_mismatch or MAX_MISMATCH[config.policy.dtype],
        heldout_problems=config.data.heldout_problems,
        heldout_rollouts=config.data.heldout_problems * config.evaluation.samples_per_problem,
    )
