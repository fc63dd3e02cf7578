"""The record that a run leaves: `runs/<name>/`.

    config.yaml         the resolved config
    metrics.jsonl       one JSON object a step; a number that is unknown is null
    tensorboard/        the same numbers as event files
    rollouts/           step-000012.arrow: every rollout of step 12 (written by the recorder, schema in `data.arrow`)
    evaluations/        before.arrow, after.arrow: every held-out rollout
    model/              the trained policy in Hugging Face format
    trace.json          what ran when, for ui.perfetto.dev (`run.trace`)
    summary.json        what came out; written last, so its presence means that the run finished

Owns the folder and the driver's files in it. An earlier run of the same name is moved to `<name>.1`, never
overwritten; a second run at the same time is refused.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboard.summary import Writer

from pgrpo_ray.config import RunConfig
from pgrpo_ray.obs.disk import explain_full_disk, hold_name, move_aside, write_whole


class RunLog:
    """Writes one run's folder. Every line is flushed: a run that dies keeps what it wrote."""

    def __init__(self, config: RunConfig):
        """Make the folder. Raises `ConfigError` when the name is in use, `EnvironmentFault` when it cannot be made."""
        parent = Path(config.run.dir).absolute()
        self.folder = parent / config.run.name
        with explain_full_disk(parent):
            parent.mkdir(parents=True, exist_ok=True)
            self._lock = hold_name(
                parent / f".{config.run.name}.lock",
                f"run.name: a run named {config.run.name!r} is going on in {parent}. Wait for it, or give this one "
                "another name with --set run.name=NAME.",
                "run.name",
            )
            self.moved_to = move_aside(self.folder)
            (self.folder / "rollouts").mkdir(parents=True)
            (self.folder / "evaluations").mkdir()
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            (self.folder / "config.yaml").write_text(text, encoding="utf-8")
            self._metrics = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._events = Writer(str(self.folder / "tensorboard"))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's numbers."""
        with explain_full_disk(self.folder):
            self._metrics.write(json.dumps(_finite({"step": step, **metrics})) + "\n")
            self._metrics.flush()
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._events.add_scalar(name, value, step)
            self._events.flush()

    def rollouts_path(self, step: int) -> Path:
        """Where the rollouts of `step` go."""
        return self.folder / "rollouts" / f"step-{step:06d}.arrow"

    def evaluation_path(self, name: str) -> Path:
        """Where the rollouts of the evaluation `name` go."""
        return self.folder / "evaluations" / f"{name}.arrow"

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, whole or not at all."""
        with explain_full_disk(self.folder):
            write_whole(self.folder / "summary.json", json.dumps(_finite(dict(summary)), indent=2) + "\n")

    def close(self) -> None:
        """Flush and release the name. Idempotent."""
        with explain_full_disk(self.folder):
            self._metrics.close()
            self._events.close()
        self._lock.close()


def _finite(tree: Any) -> Any:
    """Replace NaN and infinities by None: JSON has neither, and other readers choke on them."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
