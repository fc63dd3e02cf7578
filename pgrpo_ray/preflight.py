"""Everything that can be known to be wrong before expensive work starts: data, models, sandbox, disk, memory.

Runs on the driver's machine, cheapest checks first, and hands over what the launch needs. Raises the project's own
errors, each with what was wrong, where, and how to fix it; starts neither Ray nor a container.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_ray.algo.rewards import RewardRule, Scored, find_rule, outweighed, with_length_penalty
from pgrpo_ray.config import SANDBOX_OVERHEAD_MIB, STARTER, RunConfig, derive
from pgrpo_ray.config.memory import ModelShape
from pgrpo_ray.data.model_files import require_weights
from pgrpo_ray.errors import ConfigError, DataError, EnvironmentFault, ModelError, SandboxError
from pgrpo_ray.obs.checkpoints import CheckpointStore
from pgrpo_ray.obs.disk import check_free
from pgrpo_ray.obs.hacking import read_probe
from pgrpo_ray.obs.sinks import check_wandb
from pgrpo_ray.types import Problem, TestStyle


@dataclass(frozen=True)
class ModelFacts:
    """What a model's config says; no weights are read for it."""

    num_parameters: int
    max_positions: int | None
    """Longest sequence that it was made for, tokens; None where its config does not say."""
    shape: ModelShape | None = None
    """What memory follows from; None where its config does not say."""


@dataclass(frozen=True)
class ProblemSets:
    """Problems to train on and problems held out; disjoint by id."""

    train: list[Problem]
    heldout: list[Problem]


@dataclass(frozen=True)
class Sandbox:
    """Which isolation a run will use."""

    kind: str
    """`docker` or `process`; `maths` where no program is run at all."""
    reason: str = ""
    """Why it is not Docker; empty when it is."""

    @property
    def name(self) -> str:
        """What a person reads, such as `docker sandbox`."""
        return "maths judge" if self.kind == "maths" else f"{self.kind} sandbox"


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


UPLOADED = "working_dir_files"
"""Folder of a node's in which Ray keeps what jobs upload."""
CHECKPOINT_BYTES = 12
"""Of a checkpoint for each parameter: weight and both of Adam's moments, float32."""

STARTER_POLICY = ModelFacts(num_parameters=1_000_000, max_positions=512)
"""The starter's policy before it exists: its size is about this (a test holds it to that), its positions exactly."""


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


def check_devices(config: RunConfig) -> None:
    """Raise `EnvironmentFault` when a local run wants more GPUs than there are."""
    if not config.gpus or config.cluster.address != "local":
        return
    import torch

    if config.gpus > torch.cuda.device_count():
        raise EnvironmentFault(
            f"the run wants {config.gpus:g} GPUs, torch sees {torch.cuda.device_count()}. Lower gpus_per_worker, "
            "gpus_per_rank or reward_model.gpus, or `make setup ACCELERATOR=cuda` on a machine that has them."
        )


def check_disk(config: RunConfig, uses_starter: bool) -> None:
    """Raise `EnvironmentFault` unless the run's folder can be made and has `run.min_free_mib` free.

    Raises `ConfigError` for it, or a folder of checkpoints, inside of what Ray unpacked for a job, which Ray removes
    after it.
    """
    folders = {"run.dir": config.run.dir}
    if config.checkpoint.dir is not None and "://" not in config.checkpoint.dir:
        folders["checkpoint.dir"] = config.checkpoint.dir
    for path, folder in folders.items():
        if UPLOADED in Path(folder).absolute().parts:
            raise ConfigError(
                f"{path}={folder!r} is relative to this job's copy of its working_dir, which Ray removes after the job "
                f"with all that is in it. Name a folder that all nodes share: --set {path}=/shared/runs.",
                path=path,
            )
    _check_folder(Path(config.run.dir), "run.dir", "--set run.dir=FOLDER", config.run.min_free_mib)
    if uses_starter:
        _check_folder(cache_folder(), "the starter's cache", "PGRPO_CACHE=FOLDER", config.run.min_free_mib)


def check_checkpoint_room(config: RunConfig, policy: ModelFacts) -> None:
    """Raise `EnvironmentFault` when the disk cannot hold the checkpoints that a run keeps; a URL's is not known.

    `ConfigError` for a kind of URL that nobody knows.
    """
    section, root = config.checkpoint, config.checkpoint_root
    if not section.every_steps:
        return
    if "://" in root:
        _check_url(root)
        return
    each_mib = policy.num_parameters * CHECKPOINT_BYTES >> 20
    kept = section.keep + 2  # the best, and the one that is being written
    # Of a run that is resumed. What it superseded stays, so its room does not come back.
    own = CheckpointStore(root).names()
    there_mib = sum(file.stat().st_size for name in own for file in (Path(root) / name).iterdir()) >> 20
    existing = next(parent for parent in (Path(root).absolute(), *Path(root).absolute().parents) if parent.exists())
    free_mib = shutil.disk_usage(existing).free >> 20
    wanted_mib = kept * each_mib - there_mib
    if wanted_mib > free_mib:
        raise EnvironmentFault(
            f"checkpoint.dir: {root} has {free_mib:,} MiB free; {kept} checkpoints of {each_mib:,} MiB "
            f"(checkpoint.keep={section.keep}, the best, one being written) take {wanted_mib:,} MiB more. Free space, "
            "choose another folder or URL with --set checkpoint.dir=..., lower checkpoint.keep, or set "
            "checkpoint.every_steps=0 for none."
        )


def _check_url(root: str) -> None:
    import fsspec

    if (kind := root.partition("://")[0]) not in fsspec.available_protocols():
        raise ConfigError(
            f"checkpoint.dir: {root} begins with {kind!r}, a kind of URL that fsspec does not know. s3://, gs:// and "
            "abfs:// are usual; or give a folder.",
            path="checkpoint.dir",
        )


def _check_folder(folder: Path, what: str, fix: str, min_free_mib: int) -> None:
    folder = folder.absolute()
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:
        raise EnvironmentFault(f"{what}: {folder}: {error.strerror}. Choose another with {fix}.") from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise EnvironmentFault(
            f"{what}: {folder} cannot be made: {existing} is not a folder that you may write to. Choose another with "
            f"{fix}."
        )
    check_free(existing, what, "run.min_free_mib", min_free_mib, fix)


def cache_folder() -> Path:
    """Where artifacts are cached: `PGRPO_CACHE`, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PGRPO_CACHE") or Path(base) / "pgrpo_ray")


def choose_sandbox(config: RunConfig, problems: list[Problem] | None = None) -> Sandbox:
    """Say which sandbox a run will use. Raises `EnvironmentFault` where Docker is needed and does not answer.

    `problems`: those of the run; None: the starter's. Where all answers are compared, no sandbox is asked for.
    On a cluster the nodes that judge need Docker, not this machine: each pool examines its own when it starts.
    """
    from pgrpo_ray.sandbox.docker_runner import engine_problem
    from pgrpo_ray.sandbox.runners import resolve_image

    if problems is None:
        runs_programs = config.data.problems != STARTER or config.starter.family == "code"
    else:
        runs_programs = any(problem.style is not TestStyle.ANSWER for problem in problems)
    if not runs_programs:
        return Sandbox("maths", "answers are compared, no program is run.")
    section = config.sandbox
    if section.backend == "process":
        return Sandbox("process", "sandbox.backend=process chooses it.")
    if config.cluster.address != "local":
        return Sandbox("docker")
    problem = engine_problem()
    if problem is None:
        resolve_image(section.image)
        return Sandbox("docker")
    if section.backend == "docker":
        raise EnvironmentFault(
            f"sandbox.backend={section.backend}: {problem} "
            "A local run may use the weaker process sandbox with --set sandbox.backend=process."
        )
    return Sandbox("process", problem)


def check_memory_limits(config: RunConfig, problems: list[Problem]) -> None:
    """Raise `ConfigError` when a program may use more memory than its container has."""
    room = config.sandbox.memory_mib - SANDBOX_OVERHEAD_MIB
    in_containers = [problem for problem in problems if problem.style is not TestStyle.ANSWER]
    hungry = max(in_containers, key=lambda problem: problem.limits.memory_mib, default=None)
    if hungry is not None and hungry.limits.memory_mib > room:
        needed = hungry.limits.memory_mib + SANDBOX_OVERHEAD_MIB
        raise ConfigError(
            f"sandbox.memory_mib is {config.sandbox.memory_mib}, but problem {hungry.id!r} allows its programs "
            f"{hungry.limits.memory_mib} MiB: the container would stop them first, and they would be blamed. Set "
            f"sandbox.memory_mib={needed} or more.",
            path="sandbox.memory_mib",
        )


def check_judging(config: RunConfig, sandbox: Sandbox, problems: list[Problem]) -> None:
    """Check what judging these problems needs: checkers that work, an image with their languages, readable references.

    Raises `DataError` and `EnvironmentFault`.
    """
    from pgrpo_ray.evaluation.maths.pool import MathsPool
    from pgrpo_ray.sandbox import checkers
    from pgrpo_ray.sandbox.languages import compiled
    from pgrpo_ray.sandbox.runners import resolve_image

    runnable = [problem for problem in problems if problem.style is not TestStyle.ANSWER]
    compared = [problem for problem in problems if problem.style is TestStyle.ANSWER]
    for problem in runnable:
        checkers.prove(problem)
    if compared:
        try:
            with contextlib.closing(MathsPool(config.sandbox)) as pool:
                pool.prove(compared)
        except SandboxError as error:
            raise EnvironmentFault(f"the maths judge does not work: {error}") from error
    languages = compiled(runnable)
    if languages and sandbox.kind == "docker" and config.cluster.address == "local":
        resolve_image(config.sandbox.image, languages)


def load_problem_sets(config: RunConfig, starter: Any = None) -> ProblemSets:
    """Read and split the problems; `starter` holds the starter's files where the config names it."""
    from pgrpo_ray.data.loaders import load_problems
    from pgrpo_ray.data.problems import split_heldout

    section, seed = config.data, config.run.seed
    if section.problems == STARTER:
        train = load_problems(starter.train, "jsonl")
        heldout = load_problems(starter.heldout, "jsonl")
    else:
        train = load_problems(section.problems, section.format)
        if section.heldout is None:
            train, heldout = split_heldout(train, section.heldout_problems, seed)
        else:
            heldout = load_problems(section.heldout, section.format)
    if len(heldout) < section.heldout_problems:
        raise ConfigError(
            f"data.heldout_problems is {section.heldout_problems}, but only {len(heldout)} are there. Lower it or "
            "give more problems.",
            path="data.heldout_problems",
        )
    heldout = heldout[: section.heldout_problems]
    shared = {problem.id for problem in train} & {problem.id for problem in heldout}
    if shared:
        raise DataError(
            f"{len(shared)} held-out problems are also trained on, such as {min(shared)!r}: pass@1 would measure "
            "memory. Remove them from one of the files.",
            file=str(section.heldout),
        )
    if len(train) < config.rollout.prompts_per_step:
        raise ConfigError(
            f"rollout.prompts_per_step is {config.rollout.prompts_per_step}, but only {len(train)} training problems "
            "are there, and a batch may hold a problem once. Lower it or give more problems.",
            path="rollout.prompts_per_step",
        )
    return ProblemSets(train, heldout)


def model_facts(model: str, path: str, *, role: str) -> ModelFacts:
    """Read a model's config. `path` is the config key.

    `role`: `causal`, a language model; `reward`, a sequence classifier of one label; `base`, either of them
    (`reward_model.model.check_base` counts its labels).
    Raises `ModelError` when the model is not there or is of the wrong kind.
    """
    looks_local = model.startswith((".", "/", "~")) or Path(model).is_dir()
    if looks_local and not (Path(model) / "config.json").is_file():
        raise ModelError(
            f"{path}: {model} is no model folder (it has no config.json). Give a folder in Hugging Face format, a hub "
            "name such as Qwen/Qwen2.5-Coder-7B-Instruct, or `starter`."
        )
    if looks_local:  # before the imports, which take many seconds
        _check_model_files(Path(model), path)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        classifies = any("SequenceClassification" in name for name in config.architectures or [])
        as_classifier = role == "reward" or (role == "base" and classifies)
        auto = AutoModelForSequenceClassification if as_classifier else AutoModelForCausalLM
        with torch.device("meta"):  # shapes without memory
            shell = auto.from_config(config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path}: {model} cannot be loaded as a {role} model: {first_line} "
            "Check the name, the network, and that model and tokenizer files are both there."
        ) from error
    named = ", ".join(config.architectures or []) or "unnamed"
    if role == "causal" and classifies:
        raise ModelError(
            f"{path}: {model} is no language model: it is {named}, whose tokens nothing predicts. Give the language "
            "model that it was made of."
        )
    if role == "reward" and (config.num_labels != 1 or not classifies):
        raise ModelError(
            f"{path}: {model} is no reward model: it is {named} with {config.num_labels} labels. Give a sequence "
            "classification model with one label."
        )
    num_parameters = sum(parameter.numel() for parameter in shell.parameters())
    return ModelFacts(
        num_parameters=num_parameters,
        max_positions=getattr(config, "max_position_embeddings", None),
        shape=model_shape(config, num_parameters),
    )


def model_shape(config: Any, num_parameters: int) -> ModelShape | None:
    """Return the shape that a transformers config states; None for a model that is no plain decoder."""
    try:
        heads = config.num_attention_heads
        return ModelShape(
            num_parameters=num_parameters,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
        )
    except AttributeError:
        return None


def _check_model_files(folder: Path, path: str) -> None:
    """Raise `ModelError` when weights or tokenizer are missing: both are needed, and only later."""
    require_weights(folder, path)
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        raise ModelError(f"{path}: {folder} holds no tokenizer ({', '.join(names)}). Save it beside the model.")


def check_lengths(config: RunConfig, policy: ModelFacts) -> None:
    """Raise `ConfigError` when a rollout may be longer than the policy can attend to."""
    longest = derive(config).max_sequence_tokens
    if policy.max_positions is not None and longest > policy.max_positions:
        raise ConfigError(
            f"data.max_prompt_tokens + rollout.max_response_tokens = {longest}, but the policy was made for sequences "
            f"of {policy.max_positions} tokens. Lower one of the two.",
            path="rollout.max_response_tokens",
        )


def encode(config: RunConfig, model: str, problems: ProblemSets) -> dict[str, tuple[int, ...]]:
    """Encode every prompt with the policy's tokenizer. Raises `DataError` for one that is too long."""
    from transformers import AutoTokenizer

    from pgrpo_ray.data.prompts import encode_prompts

    section = config.data
    everything = [*problems.train, *problems.heldout]
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return encode_prompts(tokenizer, everything, section.system_prompt, section.max_prompt_tokens)


def memory_mib(config: RunConfig, policy: ModelFacts) -> dict[str, float]:
    """Estimate what each role holds, MiB: weights and optimizer state only, activations and libraries come on top.

    A rank keeps its share of weight, float32 gradient and two Adam moments, plus a float32 master copy for bfloat16
    (4 x 4 or 2 + 4 x 4 bytes a parameter, ZeRO-3, arXiv 1910.02054).
    """
    item = 2 if config.policy.dtype == "bfloat16" else 4
    share = policy.num_parameters / config.learner.num_ranks
    engine = policy.num_parameters * item / 2**20
    return {
        "each rollout worker": engine + (config.rollout.kv_cache_mib or 0),
        "each learner rank": share * (18 if item == 2 else 16) / 2**20,
        "all containers": config.sandbox.slots * config.sandbox.memory_mib,
    }
