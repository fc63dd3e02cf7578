"""Where the numbers of a run go to be looked at, beside `metrics.jsonl`, of which each is a view.

A sink is told every step once, in order, and told when a run goes back to a checkpoint. TensorBoard always; Weights &
Biases where `run.wandb` says so. What fails to show numbers must not end a run: the sink says so once and is left.
"""

import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tensorboard.summary import Writer

from pgrpo_ray.config import RunConfig
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.obs.disk import write_whole

Metrics = Mapping[str, float | None]
"""Of one step, keys of `metrics.jsonl`; None and NaN are unknown and not shown."""
API_KEY = "WANDB_API_KEY"
"""Environment variable with the key of Weights & Biases."""


class MetricSink(Protocol):
    """Shows a run's numbers somewhere."""

    def step(self, step: int, metrics: Metrics) -> None:
        """Show one step's numbers."""

    def rewind(self, kept: Sequence[Metrics]) -> None:
        """Go back: the run goes on after the last of `kept`, each with its `step`."""

    def close(self) -> None:
        """Have everything shown that was given. Idempotent."""


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder."""

    def __init__(self, folder: Path):
        self._folder = folder / "tensorboard"
        self._writer = Writer(str(self._folder))

    def step(self, step: int, metrics: Metrics) -> None:
        """Write one step's events."""
        self._add(step, metrics)
        self._writer.flush()

    def rewind(self, kept: Sequence[Metrics]) -> None:
        """Make the event files again: none can be shortened."""
        self._writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = Writer(str(self._folder))
        for metrics in kept:
            self._add(int(metrics["step"] or 0), metrics)

    def close(self) -> None:
        """Flush."""
        self._writer.close()

    def _add(self, step: int, metrics: Metrics) -> None:
        for name, value in _known(metrics).items():
            self._writer.add_scalar(name, value, step)


class WeightsAndBiases:
    """One run of Weights & Biases for one of ours, over all its resumes: its id is in `wandb-run.json` of the folder.

    Curves are over our `step`, as theirs only goes forward: after a resume the steps that are taken again stand there
    twice, the later ones last. Files are in the run's folder; with `offline` nothing leaves the machine until somebody
    calls `wandb sync`.
    """

    def __init__(self, folder: Path, config: RunConfig):
        import wandb

        mode = config.run.wandb
        assert mode != "none", "sinks_of opens it where it is wanted"
        place = folder / "wandb-run.json"
        known = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {"id": secrets.token_hex(4)}
        write_whole(place, json.dumps(known) + "\n")
        try:
            self._run: Any = wandb.init(
                project=config.run.wandb_project,
                name=config.run.name,
                id=known["id"],
                resume="allow" if mode == "online" else None,  # offline the id alone does it
                mode=mode,
                dir=str(folder),
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, save_code=False, x_disable_meta=True
                ),
            )
        except Exception as error:  # of its server or its process; so far nothing has been trained
            raise EnvironmentFault(
                f"Weights & Biases cannot be reached: {error} Check {API_KEY} and the network, or set "
                "run.wandb=offline and upload later with `wandb sync`."
            ) from error
        self._run.define_metric("*", step_metric="step")

    def step(self, step: int, metrics: Metrics) -> None:
        """Log one step's numbers."""
        if self._run is None:
            return
        try:
            self._run.log({**_known(metrics), "step": step})
        except Exception as error:  # whatever it is: curves are not worth a run
            logging.getLogger(__name__).warning("Weights & Biases shows no more of this run: %s", error)
            self._run = None

    def rewind(self, kept: Sequence[Metrics]) -> None:
        """Nothing: what was logged cannot be taken back."""

    def close(self) -> None:
        """Wait until everything is uploaded, or with `offline` on the disk."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()


def check_wandb(config: RunConfig) -> None:
    """Raise `ConfigError` where `run.wandb` asks for what is not there."""
    if config.run.wandb == "none":
        return
    if find_spec("wandb") is None:
        raise ConfigError(
            f"run.wandb={config.run.wandb} needs the package wandb, which is not installed. `pip install "
            "'pgrpo-ray[wandb]'`, or set run.wandb=none.",
            path="run.wandb",
        )
    if config.run.wandb == "online" and not os.environ.get(API_KEY):
        raise ConfigError(
            f"run.wandb=online needs a key in the environment variable {API_KEY}, which is not set. Set it (no config "
            "holds a key), or set run.wandb=offline and upload later with `wandb sync`.",
            path="run.wandb",
        )


def sinks_of(folder: Path, config: RunConfig) -> list[MetricSink]:
    """Open the sinks that a run has; `check_wandb` must have passed."""
    sinks: list[MetricSink] = [TensorBoard(folder)]
    if config.run.wandb != "none":
        sinks.append(WeightsAndBiases(folder, config))
    return sinks


def _known(metrics: Metrics) -> dict[str, float]:
    return {name: v for name, v in metrics.items() if name != "step" and v is not None and math.isfinite(v)}
