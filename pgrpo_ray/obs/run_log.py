"""The record that a run leaves: `runs/<name>/`.

    config.yaml         the resolved config
    metrics.jsonl       one JSON object a step; a number that is unknown is null
    tensorboard/        the same numbers as event files (`obs.sinks`)
    wandb/              what Weights & Biases has of them (`run.wandb`); wandb-run.json: which of its runs this is
    rollouts/           step-000012.arrow: every rollout of step 12 (written by the recorder, schema in `data.arrow`)
    ledger/             step-000012.arrow: what became of every rollout that step 12 settled (`data.ledger`)
    evaluations/        before.arrow, after.arrow: every held-out rollout
    checkpoints/        the whole state at the last steps (`obs.checkpoints`), unless `checkpoint.dir` is elsewhere
    model/              the trained policy in Hugging Face format
    trace.json          what ran when, for ui.perfetto.dev (`run.trace`)
    summary.json        what came out; written last, so its presence means that the run finished
    superseded/         what had been written after the checkpoint that the run was resumed from, a folder a resume

Owns the folder and the driver's files in it. An earlier run of the same name is moved to `<name>.1`, never
overwritten, unless it is resumed; a second run at the same time is refused.
"""

import json
import math
import os
from bisect import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from pgrpo_ray.config import RunConfig, dump_tree
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.obs.disk import explain_full_disk, first_free, hold_name, move_aside, write_whole
from pgrpo_ray.obs.sinks import MetricSink, sinks_of

ROLLOUTS, LEDGER, EVALUATIONS = "rollouts", "ledger", "evaluations"


class RunLog:
    """Writes one run's folder. Every line is flushed: a run that dies keeps what it wrote."""

    def __init__(self, config: RunConfig, *, resume: bool = False):
        """Make the folder, or take the one of the run that is resumed (`rewind` must follow).

        Raises `ConfigError` when the name is in use or has no run to resume, `EnvironmentFault` when the folder cannot
        be made.
        """
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
            if resume and not self.folder.is_dir():
                self._lock.close()
                raise ConfigError(
                    f"run.name: there is no run named {config.run.name!r} in {parent} to resume. Give its name and "
                    "folder with --set run.name=NAME --set run.dir=FOLDER, or start it without --resume.",
                    path="run.name",
                )
            self.moved_to = None if resume else move_aside(self.folder)
            for name in (ROLLOUTS, LEDGER, EVALUATIONS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._config = dump_tree(config)
            if not resume:
                write_whole(self.folder / "config.yaml", self._config)
            self._metrics = self._open()
            self._sinks: list[MetricSink] = sinks_of(self.folder, config)

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end before."""
        return (self.folder / "summary.json").exists()

    def _open(self) -> TextIO:
        return (self.folder / "metrics.jsonl").open("a", encoding="utf-8")

    def rewind(self, step: int) -> Path | None:
        """Go back to the end of `step`: move what was written afterwards to a folder of its own; return that.

        Sinks are told what is left of the metrics, of which they are a view.
        """
        with explain_full_disk(self.folder):
            self._metrics.close()
            aside = first_free(lambda number: self.folder / "superseded" / str(number))
            metrics = self.folder / "metrics.jsonl"
            lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = lines[: bisect(lines, float(step), key=_step_of_line)]
            for path in self._written_after(step):
                (aside / path.parent.name).mkdir(parents=True, exist_ok=True)
                path.rename(aside / path.parent.name / path.name)
            if lines[len(kept) :]:
                aside.mkdir(parents=True, exist_ok=True)
                write_whole(aside / metrics.name, "".join(lines[len(kept) :]))
                write_whole(metrics, "".join(kept))
            written = self.folder / "config.yaml"
            if written.exists() and written.read_text(encoding="utf-8") != self._config:
                aside.mkdir(parents=True, exist_ok=True)
                written.rename(aside / written.name)
            write_whole(written, self._config)
            self._metrics = self._open()
            for sink in self._sinks:
                sink.rewind([json.loads(line) for line in kept])
            return aside if aside.exists() else None

    def _written_after(self, step: int) -> list[Path]:
        """Files of later steps; the evaluation before the first step is none."""
        files = [path for name in (ROLLOUTS, LEDGER, EVALUATIONS) for path in (self.folder / name).glob("*.arrow")]
        later = [path for path in files if path.stem != "before" and _step_of(path) > step]
        return [*later, *(path for path in (self.folder / "model", self.folder / "summary.json") if path.exists())]

    def sync(self) -> None:
        """Return once all metrics are on the disk."""
        with explain_full_disk(self.folder):
            self._metrics.flush()
            os.fsync(self._metrics.fileno())

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's numbers."""
        with explain_full_disk(self.folder):
            self._metrics.write(json.dumps(_finite({"step": step, **metrics})) + "\n")
            self._metrics.flush()
            for sink in self._sinks:
                sink.step(step, metrics)

    def rollouts_path(self, step: int) -> Path:
        """Where the rollouts of `step` go."""
        return self.folder / ROLLOUTS / f"step-{step:06d}.arrow"

    def ledger_path(self, step: int | None) -> Path:
        """Where what `step` settled goes; None: what was left when the run ended."""
        return self.folder / LEDGER / ("end.arrow" if step is None else f"step-{step:06d}.arrow")

    def evaluation_path(self, name: str) -> Path:
        """Where the rollouts of the evaluation `name` go."""
        return self.folder / EVALUATIONS / f"{name}.arrow"

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, whole or not at all."""
        with explain_full_disk(self.folder):
            write_whole(self.folder / "summary.json", json.dumps(_finite(dict(summary)), indent=2) + "\n")

    def close(self) -> None:
        """Flush and release the name. Idempotent."""
        if self._lock.closed:
            return
        with explain_full_disk(self.folder):
            self._metrics.close()
            for sink in self._sinks:
                sink.close()
        self._lock.close()


def _step_of(path: Path) -> float:
    """The step that a file is of; that of `after.arrow` comes after all."""
    number = path.stem.removeprefix("step-")
    return int(number) if number.isdecimal() else math.inf


def _step_of_line(line: str) -> float:
    """The step of a line of metrics; one that was torn as its process died comes after all."""
    try:
        step: float = json.loads(line)["step"]
        return step
    except ValueError:
        return math.inf


def _finite(tree: Any) -> Any:
    """Replace NaN and infinities by None: JSON has neither, and other readers choke on them."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
