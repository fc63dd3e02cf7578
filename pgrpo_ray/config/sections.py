"""The sections of a training run's config: every key with its unit, range, default and meaning.

Other commands' trees take the sections that they share with it. What does not go together is `run`'s to say.
"""

from typing import Annotated, Literal

from pydantic import Field

from pgrpo_ray.config.base import FolderName, Section
from pgrpo_ray.errors import ConfigError

STARTER = "starter"
"""The word that stands for what `pgrpo_ray.starter` makes on the spot, where a path or hub name may stand."""

SANDBOX_OVERHEAD_MIB = 64
"""What a container needs beside the program: the warden (20 MiB) and its scratch (32 MiB)."""

DEFAULT_SYSTEM_PROMPT = (
    "You write Python programs. First reason inside <think> and </think>, then give the complete program inside "
    "<answer> and </answer>."
)
MATHS_SYSTEM_PROMPT = (
    "You solve problems of mathematics. First reason inside <think> and </think>, then give only the final answer "
    "inside <answer> and </answer>, as a number or as LaTeX in \\boxed{}."
)
"""For problems whose answers are compared (style `answer`)."""


class RunSection(Section):
    """Identity, length and place of a run."""

    name: FolderName = "local"
    """Folder name under `dir`."""
    dir: str = "runs"
    """Where run folders are made."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seeds problem order and sampling (the starter has its own)."""
    steps: int = Field(60, ge=1)
    """Batches of rollouts to train on."""
    max_rollouts: int | None = Field(None, ge=1)
    """Also end with the batch that reaches so many rollouts: dynamic sampling makes batches of unequal cost."""
    trace: bool = False
    """Also write when each stage had work to `trace.json` in the run's folder, for Perfetto or Chrome."""
    wandb: Literal["none", "online", "offline"] = "none"
    """Also show the metrics in Weights & Biases: `online` with the key in the environment variable WANDB_API_KEY, or
    `offline` in the run's folder, for `wandb sync`. Needs `pgrpo-ray[wandb]`. TensorBoard's files are always there."""
    wandb_project: str = Field("pgrpo-ray", min_length=1)
    """There, the project that the run is listed in."""
    min_free_mib: int = Field(1024, ge=0)
    """Refuse to start with less free disk under `dir`, MiB."""


class PolicySection(Section):
    """The model that is trained."""

    model: str = STARTER
    """`starter`, a folder in Hugging Face format, or a hub name of a causal language model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights in engine and learner. float32 makes both agree to 1e-5 nats; bfloat16 is what GPUs want."""


class DataSection(Section):
    """Problems to train on, problems held out, and how they are shown to the policy."""

    problems: str = STARTER
    """`starter`, or a file of problems in `format`."""
    format: Literal[
        "jsonl", "humaneval", "mbpp", "livecodebench", "deepcoder", "math500", "minerva", "aime24", "gsm8k"
    ] = "jsonl"
    """Format of both files."""
    heldout: str | None = None
    """File of held-out problems. None: `heldout_problems` are split off `problems` by a seeded shuffle."""
    heldout_problems: int = Field(256, ge=0)
    """How many held-out problems measure pass@1; 0 measures nothing. Never trained on."""
    system_prompt: str | None = None
    """Told to the policy before each problem, through its chat template. Empty: none. None: by the problem's style,
    `DEFAULT_SYSTEM_PROMPT` for programs and `MATHS_SYSTEM_PROMPT` for answers."""
    max_prompt_tokens: int = Field(1024, ge=1)
    """Longer prompts are an error before the run starts, tokens."""


class RolloutSection(Section):
    """Sampling."""

    num_workers: int = Field(1, ge=1)
    """vLLM engines, each one actor."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs of each worker, all its own; 0 runs the CPU build."""
    threads_per_worker: int = Field(1, ge=1)
    """OpenMP threads of a CPU worker. More than free cores slows it down several times (spinning)."""
    prompts_per_step: int = Field(32, ge=1)
    """Problems (groups) per batch."""
    group_size: int = Field(8, ge=1)
    """G: rollouts per problem. Below 2 every advantage is zero, so `check` refuses it."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; the learner divides its logits by the same number."""
    max_response_tokens: int = Field(1024, ge=1)
    """Longer responses are cut, tokens."""
    max_concurrent: int = Field(128, ge=1)
    """Sequences that one engine decodes at a time."""
    kv_cache_mib: int | None = Field(None, ge=16)
    """Size of the KV cache, MiB. None: vLLM's own choice (a share of the GPU's memory)."""
    enforce_eager: bool = False
    """Skip graph capture: slower on GPUs, faster start on CPU."""


class SandboxSection(Section):
    """The execution pool."""

    backend: Literal["auto", "docker", "process"] = "auto"
    """`auto`: Docker where an engine answers, else the weaker process sandbox, said loudly; local runs only."""
    slots: int = Field(2, ge=1, le=1024)
    """Programs judged at a time by one pool; every node that offers Ray's resource `sandbox` when the
    run starts has a pool."""
    placement: Literal["anywhere", "with_gpus", "without_gpus"] = "anywhere"
    """Which of the nodes that offer `sandbox` get a pool: all, those beside GPUs, or those apart from them."""
    fail_fast: bool = True
    """Stop a program at its first failing test: enough where all must pass. Off counts how many pass, for more time."""
    cache_entries: int = Field(100_000, ge=0)
    """Verdicts that one pool remembers, about 1 KiB each; the same program is then not run again. 0: none."""
    queue_programs: int = Field(4096, ge=1)
    """Programs that may wait in one pool, of 512 groups at most. Sampling pauses while the pools together hold that
    many each."""
    deadline_s: float = Field(1200, gt=0)
    """For the programs of one group in a pool, from when it arrives there, queueing included; those without a verdict
    by then are unscored. Seconds."""
    image: str | None = None
    """Runner image with a `python3`. None: the image that `make setup` builds."""
    runtime: str | None = None
    """OCI runtime such as `runsc`; None: the engine's default."""
    memory_mib: int = Field(512, ge=64)
    """Memory of one container, no swap, MiB; the largest limit of a problem plus `SANDBOX_OVERHEAD_MIB` must fit."""
    retries: int = Field(2, ge=0)
    """How often a program is judged again on a fresh slot when the machinery failed."""

    def check_isolation(self, cluster: "ClusterSection") -> None:
        """Refuse the weak sandbox where the machine is not the user's own. Raises `ConfigError`."""
        if cluster.address != "local" and self.backend == "process":
            raise ConfigError(
                "sandbox.backend=process isolates too weakly for a cluster, where model code would sit beside other "
                "people's data. Set sandbox.backend=docker.",
                path="sandbox.backend",
            )

    def check_deadline(self, cluster: "ClusterSection", consequence: str) -> None:
        """Refuse to give programs up only after the job is; `consequence`: what they end then. Raises `ConfigError`."""
        if self.deadline_s >= cluster.stage_timeout_s:
            raise ConfigError(
                f"sandbox.deadline_s ({self.deadline_s:g}) must be less than cluster.stage_timeout_s "
                f"({cluster.stage_timeout_s:g}): else one group of slow programs ends {consequence}. Lower the one or "
                "raise the other.",
                path="sandbox.deadline_s",
            )


class RewardModelSection(Section):
    """The Bradley-Terry model that scores reasoning, and the server that holds it."""

    model: str = STARTER
    """`starter`, a folder or a hub name of a sequence classification model with one label."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What runs the model. Both give the same scores (docs/reward-server.md); on CPU vLLM is no faster."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its weights."""
    score_map: Literal["sigmoid", "clipped_linear", "softsign"] = "sigmoid"
    """From the scalar to [0, 1]; see `reward_model.score_maps`. The paper leaves the map open; these are ours."""
    score_temperature: float | None = Field(None, gt=0)
    """Divides the raw score before the map. None: the model's own calibration."""
    score_offset: float | None = None
    """The raw score that the map makes 1/2. None: the model's own calibration."""
    score: Literal["as_needed", "passers", "all"] = "as_needed"
    """Whose reasoning is scored. `as_needed`: whose the reward rule reads, nobody's under `outcome_only` (no reward
    server is started then). The others score more than that, for the record alone."""
    batch_size: int = Field(16, ge=1)
    """Reasonings per forward pass, sorted by length."""
    gather: int = Field(64, ge=1)
    """Reasonings of requests that wait at the same time are sorted and scored together, about this many at a time."""
    gather_wait_ms: float = Field(5, ge=0)
    """How long the first group of a training run waits for others, milliseconds. Over HTTP nobody waits for others."""
    max_length_tokens: int = Field(2048, ge=16)
    """Longer inputs lose the beginning of the reasoning, tokens. The model's own limit holds where it is lower."""
    replicas: int = Field(1, ge=1)
    """Processes that each hold the model."""
    deadline_s: float = Field(600, gt=0)
    """For one group in a training run, queueing included; who is to be scored and is not by then is dropped with
    `thinking_error`, where the reward rule reads the score. Seconds."""
    kv_cache_mib: int | None = Field(None, ge=16)
    """Of the vLLM backend, per replica, MiB. None: vLLM's own choice."""
    gpus: float = Field(0, ge=0, le=1)
    """Of each replica."""
    threads: int = Field(1, ge=1)
    """CPU threads of each replica."""


class AlgoSection(Section):
    """P-GRPO's mathematics, and the arms that it is measured against."""

    reward: str = "posterior"
    """`posterior` (the paper's), `outcome_only`, `linear`, `soft`, `decoupled`, or your own as `package.module:name`;
    see `algo.rewards`."""
    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"] = "grpo"
    """How a reward is compared with others; formulas in `algo.advantages`."""
    advantage_std_floor: float = Field(0.1, gt=0)
    """Floor under the standard deviation that rewards are divided by, in reward units: it keeps a group that differs
    only in tiny thinking rewards from being blown up to full-size advantages. Ours (docs/reward-hacking.md says what it
    was chosen by); the paper has none, which is 1e-6."""
    surrogate: Literal["clip", "gspo", "cispo"] = "clip"
    """What is maximised per token; formulas in `algo.losses`."""
    aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    """How tokens are averaged; formulas in `algo.batching`."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """epsilon_low (DAPO's default)."""
    clip_high: float = Field(0.28, gt=0)
    """epsilon_high: clip-higher (DAPO's default)."""
    num_mini_batches: int = Field(1, ge=1)
    """Optimizer steps per batch."""
    max_staleness: int = Field(0, ge=0)
    """How many optimizer steps older than the learner's policy a token may be when it is trained on. 0: on-policy,
    sampling and learning take turns. A multiple of `num_mini_batches`, as whole batches are sampled ahead: once that
    much, sampling goes on while the learner learns, and new weights reach responses that are half sampled. See
    `algo.staleness`."""
    late_groups: Literal["wait", "drop"] = "wait"
    """With a staleness above 0: a step waits for all groups that were asked for with it; or it takes the first that are
    done, and drops what is then too old for the next step (which favours short responses)."""
    old_logprobs: Literal["learner", "rollout"] = "learner"
    """Denominator of the ratio: recomputed by the learner, or the engine's own, which saves a forward pass where both
    agree (float32)."""
    importance_cap: float | None = Field(2.0, gt=0)
    """Tokens are weighted by learner's over engine's probability, cut here (truncated importance sampling); None: not
    weighted. Where `old_logprobs` is `rollout` the ratio itself has that part, and this does nothing."""
    kl_weight: float = Field(0.0, ge=0)
    """Of KL(policy || first policy) in the loss; above 0 each rank also holds its share of the first policy. The paper
    has none."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Formulas in `algo.losses`."""
    length_penalty_tokens: int = Field(0, ge=0)
    """The last so many tokens before `rollout.max_response_tokens` cost up to 1 of the reward, linearly (DAPO's soft
    overlong punishment); 0: none."""
    mask_cut: bool = False
    """Responses cut at `rollout.max_response_tokens` give no gradient (DAPO's overlong filtering). Their rewards still
    count in their groups."""
    sampling_rounds: int = Field(1, ge=1)
    """Above 1: groups without a gradient (all rewards alike) leave the batch and others are sampled in their place, up
    to so many rounds a step (DAPO's dynamic sampling). A last round that leaves some missing makes a smaller batch."""


Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of one of Adam's running means."""


class LearnerSection(Section):
    """DeepSpeed ZeRO-3."""

    num_ranks: int = Field(2, ge=1)
    """Processes that share weights, optimizer states and rows; each has its share of all three."""
    gpus_per_rank: Literal[0, 1] = 0
    """0 runs on CPU over gloo; 1 on a GPU of its own over nccl."""
    threads_per_rank: int = Field(1, ge=1)
    """CPU threads of each rank."""
    learning_rate: float = Field(1e-6, gt=0)
    """After warm-up; constant."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps of linear warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """Of AdamW."""
    adam_betas: tuple[Beta, Beta] = Field((0.9, 0.95), strict=False)  # YAML has lists, no tuples
    """Of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients of a larger norm are scaled down to it."""
    grad_spike_factor: float | None = Field(20.0, gt=1)
    """A step whose gradient norm (before clipping) exceeds so many times the median of the last 64 steps is skipped;
    None: never. Ours: in the 67 runs of benchmarks/results (2,612 steps) the largest norm was 4.9 times that median."""
    max_skipped_steps: int = Field(3, ge=1)
    """Optimizer steps skipped in a row, for a spike or a gradient that is no finite number, that end the run."""
    micro_batch_tokens: int = Field(16384, ge=64)
    """Padded tokens per forward-backward on one rank; bounds memory."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and run the layer again there: about a fifteenth of the
    memory of activations for a third more computation. Off, as it buys nothing where they fit: `pgrpo check --gpu-gib`
    says whether they do."""
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """What a rank keeps in its host's memory and not on its GPU: nothing; optimizer state, float32 copy and gradients,
    with the step then on CPU; the weights as well. Slower with each. GPUs only."""

    def check_offload(self) -> None:
        """Refuse to offload from a CPU. Raises `ConfigError`."""
        if self.offload != "none" and not self.gpus_per_rank:
            raise ConfigError(
                f"learner.offload={self.offload} moves memory from a GPU to its host, but learner.gpus_per_rank is 0. "
                "Set learner.offload=none, or learner.gpus_per_rank=1.",
                path="learner.offload",
            )


MAX_MISMATCH = {"float32": 1e-3, "bfloat16": 0.1}
"""Of `mismatch_mean`, nats. Ours, well above what rounding does and below what stale weights do. Measured in float32:
2e-7 with a policy of 2.5M parameters, 6e-6 with random 93M; in bfloat16 1.5e-3 and 0.04; with an output head two steps
old, at a learning rate of 2e-3, 0.14. Steps of a small rate move less than bfloat16 rounds: there the gate sees only
what has been broken for many steps."""


class SyncSection(Section):
    """Weights from learner to rollout workers."""

    transport: Literal["object_store", "nccl", "ipc"] = "object_store"
    """`object_store`: through the memory of hosts, on any machine; all workers check a whole version before any loads
    it. From GPU to GPU, by vLLM's own weight transfer: `nccl` broadcasts to GPUs of their own, `ipc` reads on the GPU
    that rank and worker share (`cluster.colocate`). Nobody has yet run these two."""
    chunk_mib: int = Field(64, ge=1)
    """Parameters travel in buckets of about this size: one call a bucket, never one a parameter, MiB."""
    deadline_s: float = Field(600, gt=0)
    """Of each half of a publication: until every rollout worker has a whole version and has checked it, which touches
    no engine; then until every engine has loaded it. From GPU to GPU of the whole. On expiry the run stops. Seconds."""
    max_mismatch: float | None = Field(None, gt=0)
    """Largest `mismatch_mean` of a step: beyond it engine and learner do not compute the same policy, and the run
    stops. Nats. None: `MAX_MISMATCH` of `policy.dtype`."""


class EvaluationSection(Section):
    """pass@1 on held-out problems, before and after."""

    samples_per_problem: int = Field(4, ge=1)
    """Responses to each held-out problem; pass@1 is the share that passes."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of held-out responses."""
    every_steps: int = Field(0, ge=0)
    """Also evaluate every so many steps; 0: only before and after."""


class CheckpointSection(Section):
    """The whole state of a run, written as it goes on, for `pgrpo train --resume`."""

    every_steps: int = Field(10, ge=0)
    """Steps from one to the next; 0: none."""
    dir: str | None = None
    """None: `checkpoints` in the run's folder. A folder or any URL that fsspec knows, such as s3://bucket/path; each
    run has a folder of its name there. All nodes with learner ranks must see it."""
    keep: int = Field(2, ge=1)
    """How many of the last are kept."""
    best_by: str = "heldout_pass_at_1"
    """A number of metrics.jsonl: the checkpoint where it is best is kept as well. `heldout_pass_at_1` is there after
    every `evaluation.every_steps`."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Which value of `best_by` is the best."""
    deadline_s: float = Field(3600, gt=0)
    """For all files of one, from when its writing began. Seconds."""
    max_failures: int = Field(3, ge=0)
    """How many may fail one after another, such as on a full disk; with the next the run stops."""


class ClusterSection(Section):
    """Where Ray is and how long one may wait for it."""

    address: str = "local"
    """`local` starts Ray here; `auto` or an address joins a cluster."""
    colocate: bool = False
    """Learner rank and rollout worker of the same number share a GPU, and its memory: neither leaves it while the other
    works. For a single GPU, or models that are small beside one."""
    pinned: list[Literal["rollout", "learner", "reward"]] = Field(default_factory=list)
    """Roles that only go to nodes which offer Ray's resource of their name: `rollout`, `learner`, `reward`. (Execution
    pools always go to those which offer `sandbox`.)"""
    wait_for_nodes_s: float = Field(0, ge=0)
    """How long nodes that are still joining, or take a lost one's place, are waited for and asked of an autoscaler,
    before a cluster that cannot hold the run is refused. Seconds."""
    dashboard: bool = False
    """Ray's dashboard, local only (costs memory)."""
    startup_timeout_s: float = Field(300, gt=0)
    """Until every role answers; also how much longer than `sandbox.deadline_s` a silent pool is waited for."""
    stage_timeout_s: float = Field(1800, gt=0)
    """For any one wait within a step; on expiry it is given up and names the role. Must exceed `sandbox.deadline_s`,
    so that slow programs are given up before the run is; a pool that hangs is given up before only where it exceeds
    `sandbox.deadline_s` plus `startup_timeout_s`."""

    silence_s: float = Field(60, gt=0)
    """A process that has not answered a ping for so long, though a thread of its own would, is stopped or stuck: it is
    examined, told of and ended. Seconds."""
    on_failure: Literal["restart", "go_on", "stop"] = "restart"
    """What follows when a process dies, hangs or fails. `restart`: a rollout worker is started again while the others
    go on; for a learner rank or the recorder all roles are, from the last checkpoint. `go_on`: a rollout worker is done
    without while another is left, and what does not fit on the nodes that are left is started in smaller numbers.
    `stop`: the run ends, for `--resume`. Pools and reward replicas are restarted in any case."""
    max_restarts: int = Field(5, ge=0)
    """Of one rollout worker in any `restart_window_s`, and of all roles together without a newer checkpoint; each waits
    longer than the one before."""
    restart_window_s: float = Field(3600, gt=0)
    """In which a rollout worker may be started again `max_restarts` times. Seconds."""


class StarterSection(Section):
    """What `starter` stands for; see `pgrpo_ray.starter`."""

    family: Literal["code", "maths"] = "code"
    """Programs on lists that are run, or word problems whose answers are compared (docs/maths.md)."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of its problems and trainings; another one makes another starter."""
    sft_steps: int = Field(1000, ge=1)
    """Steps of the policy's supervised warm start."""
    reward_model_steps: int = Field(1500, ge=1)
    """Steps of the reward model's training: about three in four to find planted mistakes, the others on pairs."""
    train_problems: int = Field(4096, ge=16)
    """How many problems it makes to train on."""
    heldout_problems: int = Field(512, ge=16)
    """How many it makes beside, none of which is trained on."""
    threads: int = Field(2, ge=1)
    """CPU threads for the two trainings."""
