"""The config tree of a training run: its sections, what does not go together, and what a resume may change."""

from pathlib import Path
from typing import Any

from pgrpo_ray.config.base import ConfigTree, load_tree, parse_tree
from pgrpo_ray.config.monitor import MonitorSection
from pgrpo_ray.config.sections import (
    STARTER,
    AlgoSection,
    CheckpointSection,
    ClusterSection,
    DataSection,
    EvaluationSection,
    LearnerSection,
    PolicySection,
    RewardModelSection,
    RolloutSection,
    RunSection,
    SandboxSection,
    StarterSection,
    SyncSection,
)
from pgrpo_ray.errors import ConfigError

FREE_TO_CHANGE = {
    *("sandbox", "sync", "evaluation", "checkpoint", "cluster", "monitor"),
    *("run.name", "run.dir", "run.steps", "run.max_rollouts", "run.trace", "run.min_free_mib"),
    *("run.wandb", "run.wandb_project"),
    *("rollout.num_workers", "rollout.gpus_per_worker", "rollout.threads_per_worker", "rollout.max_concurrent"),
    *("rollout.kv_cache_mib", "rollout.enforce_eager"),
    *("reward_model.batch_size", "reward_model.gather", "reward_model.gather_wait_ms", "reward_model.replicas"),
    *("reward_model.deadline_s", "reward_model.kv_cache_mib", "reward_model.gpus", "reward_model.threads"),
    *("learner.num_ranks", "learner.gpus_per_rank", "learner.threads_per_rank", "learner.micro_batch_tokens"),
    *("learner.activation_checkpointing", "learner.offload", "starter.threads"),
}
"""Sections and keys that may differ when a run is resumed: on what it runs, how long, and what is measured beside."""


class RunConfig(ConfigTree):
    """The whole tree. Refuses what cannot work before a run starts (`check`), and another training in a resume."""

    run: RunSection = RunSection()
    policy: PolicySection = PolicySection()
    data: DataSection = DataSection()
    rollout: RolloutSection = RolloutSection()
    sandbox: SandboxSection = SandboxSection()
    reward_model: RewardModelSection = RewardModelSection()
    algo: AlgoSection = AlgoSection()
    learner: LearnerSection = LearnerSection()
    sync: SyncSection = SyncSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    cluster: ClusterSection = ClusterSection()
    monitor: MonitorSection = MonitorSection()
    starter: StarterSection = StarterSection()

    @property
    def checkpoint_root(self) -> str:
        """Where this run's checkpoints are: a folder or URL."""
        if self.checkpoint.dir is None:
            return str(Path(self.run.dir).absolute() / self.run.name / "checkpoints")
        return f"{self.checkpoint.dir.rstrip('/')}/{self.run.name}"

    @property
    def max_sequence_tokens(self) -> int:
        """Longest prompt plus longest response; vLLM's max_model_len."""
        return self.data.max_prompt_tokens + self.rollout.max_response_tokens

    @property
    def gpus(self) -> float:
        """GPUs of all roles together."""
        learner = self.learner.num_ranks * self.learner.gpus_per_rank
        rollout = self.rollout.num_workers * self.rollout.gpus_per_worker
        reward = self.reward_model.replicas * self.reward_model.gpus
        return reward + (learner if self.cluster.colocate else learner + rollout)

    def check(self) -> None:
        """Refuse combinations that cannot work. Raises `ConfigError`; changes nothing."""
        self.learner.check_offload()
        self._check_gpus()
        self._check_groups()
        self._check_staleness()
        if self.data.problems == STARTER:
            self._check_starter_sizes()
        self._check_lengths()
        self._check_deadlines()
        self.sandbox.check_isolation(self.cluster)

    def _check_gpus(self) -> None:
        """Refuse a GPU that two roles cannot share, and a transport that has no way between theirs."""
        rollout, learner, transport = self.rollout, self.learner, self.sync.transport
        if self.cluster.colocate:
            if not (rollout.gpus_per_worker and learner.gpus_per_rank and rollout.num_workers == learner.num_ranks):
                raise ConfigError(
                    f"cluster.colocate pairs learner ranks with rollout workers on GPUs: learner.num_ranks "
                    f"({learner.num_ranks}) and rollout.num_workers ({rollout.num_workers}) must be equal, "
                    "learner.gpus_per_rank and rollout.gpus_per_worker 1.",
                    path="cluster.colocate",
                )
            if rollout.kv_cache_mib is None:
                raise ConfigError(
                    "with cluster.colocate vLLM cannot take what is free of a GPU, as the learner needs some of it "
                    "later. Set rollout.kv_cache_mib; `pgrpo check --gpu-gib` says what that leaves.",
                    path="rollout.kv_cache_mib",
                )
        if transport == "nccl" and (self.cluster.colocate or not (rollout.gpus_per_worker and learner.gpus_per_rank)):
            raise ConfigError(
                "sync.transport=nccl connects GPUs, each with one role: set rollout.gpus_per_worker=1, "
                "learner.gpus_per_rank=1 and cluster.colocate=false, or sync.transport=object_store.",
                path="sync.transport",
            )
        if transport == "ipc" and not self.cluster.colocate:
            raise ConfigError(
                "sync.transport=ipc shares memory on one GPU, which is for cluster.colocate=true. Set "
                "sync.transport=nccl, or object_store.",
                path="sync.transport",
            )

    def _check_groups(self) -> None:
        """Refuse groups without a gradient, mini-batches without a group, and rounds that replace what may count."""
        rollout, algo = self.rollout, self.algo
        if rollout.group_size < 2:
            raise ConfigError(
                f"rollout.group_size is {rollout.group_size}: an advantage is relative to its group, so a group of one "
                "gives no gradient. Set it to 2 or more (8 is usual).",
                path="rollout.group_size",
            )
        if algo.num_mini_batches > rollout.prompts_per_step:
            raise ConfigError(
                f"algo.num_mini_batches ({algo.num_mini_batches}) exceeds rollout.prompts_per_step "
                f"({rollout.prompts_per_step}): mini-batches hold whole groups, so some would be empty. Lower the one "
                "or raise the other.",
                path="algo.num_mini_batches",
            )
        if algo.sampling_rounds > 1 and algo.advantage.startswith("reinforce_pp"):
            raise ConfigError(
                f"algo.sampling_rounds ({algo.sampling_rounds}) replaces groups without a difference, but "
                f"algo.advantage={algo.advantage!r} compares over the whole batch. Use grpo, dr_grpo or rloo, or one "
                "round.",
                path="algo.sampling_rounds",
            )

    def _check_staleness(self) -> None:
        """Refuse what would bound nothing, drop everything or leave stale tokens uncorrected."""
        algo = self.algo
        if algo.max_staleness % algo.num_mini_batches:
            raise ConfigError(
                f"algo.max_staleness ({algo.max_staleness}) must be a multiple of algo.num_mini_batches "
                f"({algo.num_mini_batches}): it counts optimizer steps, and whole batches are sampled ahead.",
                path="algo.max_staleness",
            )
        if algo.late_groups == "drop" and not algo.max_staleness:
            raise ConfigError(
                "algo.late_groups=drop needs algo.max_staleness above 0: on-policy there is nothing else to take.",
                path="algo.late_groups",
            )
        if algo.max_staleness and algo.old_logprobs == "learner" and algo.importance_cap is None:
            raise ConfigError(
                f"algo.max_staleness is {algo.max_staleness}, but nothing corrects for policies that have moved on: "
                "set algo.importance_cap (2.0 is usual), or algo.old_logprobs=rollout.",
                path="algo.importance_cap",
            )

    def _check_starter_sizes(self) -> None:
        """Refuse to ask for more starter problems than will be made: minutes would pass before that showed."""
        for path, wanted, source in (
            ("data.heldout_problems", self.data.heldout_problems, "heldout_problems"),
            ("rollout.prompts_per_step", self.rollout.prompts_per_step, "train_problems"),
        ):
            if wanted > (made := getattr(self.starter, source)):
                raise ConfigError(
                    f"{path} is {wanted}, but starter.{source} makes only {made}. Lower the one or raise the other.",
                    path=path,
                )

    def _check_lengths(self) -> None:
        """Refuse rollouts that no micro-batch holds, and a length penalty on more tokens than a response has."""
        rollout, algo, longest = self.rollout, self.algo, self.max_sequence_tokens
        if self.learner.micro_batch_tokens < longest:
            raise ConfigError(
                f"learner.micro_batch_tokens ({self.learner.micro_batch_tokens}) cannot hold one rollout of "
                f"data.max_prompt_tokens + rollout.max_response_tokens = {longest} tokens. Raise it to at least that.",
                path="learner.micro_batch_tokens",
            )
        if algo.length_penalty_tokens > rollout.max_response_tokens:
            raise ConfigError(
                f"algo.length_penalty_tokens ({algo.length_penalty_tokens}) exceeds rollout.max_response_tokens "
                f"({rollout.max_response_tokens}): it is a part of them. Lower it.",
                path="algo.length_penalty_tokens",
            )

    def _check_deadlines(self) -> None:
        """Refuse what would be given up only after the run is."""
        self.sandbox.check_deadline(self.cluster, "the run instead of being left unscored")
        if self.reward_model.deadline_s >= self.cluster.stage_timeout_s:
            raise ConfigError(
                f"reward_model.deadline_s ({self.reward_model.deadline_s:g}) must be less than cluster.stage_timeout_s "
                f"({self.cluster.stage_timeout_s:g}): else a slow reward server ends the run instead of leaving a "
                "group unscored. Lower the one or raise the other.",
                path="reward_model.deadline_s",
            )

    def check_resumes(self, before: dict[str, Any]) -> None:
        """Refuse to go on as another training than the one whose config was `before`. Raises `ConfigError`."""
        differing = sorted(
            f"{section}.{key} (was {old!r}, is {new!r})"
            for section, keys in self.model_dump(mode="json").items()
            for key, new in keys.items()
            if section not in FREE_TO_CHANGE
            and f"{section}.{key}" not in FREE_TO_CHANGE
            and new != (old := before.get(section, {}).get(key, "absent"))
        )
        if differing:
            raise ConfigError(
                f"the checkpoint is of a run with other settings: {', '.join(differing)}. Give them as they were; or "
                "start another run, from the policy of this one if need be (policy.model may be a folder).",
                path=differing[0].split(" ")[0],
            )


def load(file: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a training run's config; see `load_tree`. Raises `ConfigError`."""
    return load_tree(RunConfig, file, overrides)


def parse(values: dict[str, Any], where: str = "config") -> RunConfig:
    """Validate the plain values of a training run; see `parse_tree`. Raises `ConfigError`."""
    return parse_tree(RunConfig, values, where)
