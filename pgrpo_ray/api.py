"""What the commands do, from Python; `import pgrpo_ray` offers these names.

    run = pgrpo_ray.train("cluster/local.yaml", {"run.steps": 10})
    print(run.summary["pass_at_1_after"], run.rollouts(10).num_rows)

Owns no work of its own: each function checks, starts and ends what its command does (`launch`, `grading`), and raises
the same errors (`pgrpo_ray.errors`). docs/python.md is a walk through all of them.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from pgrpo_ray import config as configuration
from pgrpo_ray import grading, launch
from pgrpo_ray.algo.rewards import RewardRule, Signals, Term, reward_rule
from pgrpo_ray.config import STARTER, RunConfig
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.jobs.starter import FAMILIES, make_starter
from pgrpo_ray.obs.display import Display
from pgrpo_ray.protocols import Judge
from pgrpo_ray.reward_model.scorer import RewardScorer
from pgrpo_ray.types import Problem

__all__ = [
    "RecordedRun",
    "RewardRule",
    "Signals",
    "Term",
    "load_config",
    "load_problems",
    "open_execution_pool",
    "open_reward_model",
    "reward_rule",
    "train",
]

Overrides = Mapping[str, Any]
"""Dotted keys and their values, such as `{"run.steps": 10}`: what `--set` is on the command line."""


def load_config(file: str | Path, overrides: Overrides | None = None) -> RunConfig:
    """Read a training run's config. Raises `ConfigError`."""
    return configuration.load(file, [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()])


def train(
    config: RunConfig | str | Path,
    overrides: Overrides | None = None,
    *,
    resume: str | None = None,
    console: Console | None = None,
) -> RecordedRun:
    """Train a policy, as `pgrpo train` does; return its record.

    `config`: a YAML file, or what `load_config` returned. `resume`: the name of a checkpoint of this run, or one of
    `launch.LATEST` and `launch.LATEST_IF_ANY`; None: begin. `console`: where progress is shown; None: the terminal.
    Starts Ray where `cluster.address` is `local`, and ends all that it started. Raises the project's errors.
    """
    if not isinstance(config, RunConfig):
        config = load_config(config, overrides)
    elif overrides:
        raise TypeError("overrides go with the file of a config: give them to load_config")
    return RecordedRun(launch.run(config, console or Console(), resume))


@contextlib.contextmanager
def open_execution_pool(
    problems: Collection[Problem], *, console: Console | None = None, **settings: Any
) -> Iterator[Judge]:
    """Judge programs of these problems while the block runs: `pool.judge_many([(problem, program), ...])`.

    `settings` are keys of the config's `sandbox` section, such as `slots=4` or `backend="docker"`; by default the
    weaker process sandbox serves where no Docker engine answers, and `console` (None: standard error) is told. Raises
    `ConfigError`, `DataError`, `EnvironmentFault` and `SandboxError`.
    """
    config = configuration.parse({"sandbox": settings}, where="open_execution_pool")
    with grading.judges(problems, config, console or Console(stderr=True)) as (judges, _):
        yield judges


def open_reward_model(model: RunConfig | str = STARTER, *, console: Console | None = None) -> RewardScorer:
    """Return a reward model in this process: `scorer.score([(problem's prompt, reasoning), ...])` gives R^t in [0, 1].

    `model`: a folder, a hub name, `starter`, or the config of a run, whose model and settings are taken. The starter's
    is made where it is not cached, which takes minutes and tells `console` (None: standard error). Raises `ConfigError`
    and `ModelError`.
    """
    config = model
    if not isinstance(config, RunConfig):
        config = configuration.parse({"reward_model": {"model": model}}, where="open_reward_model")
    section = config.reward_model
    if section.model == STARTER:
        with Display(console or Console(stderr=True)) as display:
            made = make_starter(config.starter, display.stage, families=FAMILIES)
        section = section.model_copy(update={"model": str(made.reward_model)})
    return RewardScorer(section)
