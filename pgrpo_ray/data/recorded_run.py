"""A run's folder, read: what reports, replays and the terminal's views of rollouts have in common.

Owns no file and writes none, so a run that goes on can be read. `obs.run_log` says what lies where.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pgrpo_ray import config as configuration
from pgrpo_ray.config import RunConfig
from pgrpo_ray.data.arrow import read_ipc
from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.run_log import EVALUATIONS, ROLLOUTS


class RecordedRun:
    """One run's folder. Everything is read when it is asked for."""

    def __init__(self, folder: str | Path):
        """Raises `DataError` where the folder is none of a run."""
        self.folder = Path(folder)
        if not (self.folder / "config.yaml").is_file():
            raise DataError(
                "is no folder of a run: it has no config.yaml. Give one that `pgrpo train` left, such as runs/local.",
                str(folder),
            )

    @property
    def name(self) -> str:
        """Of the folder, which tells `runs/local` from `runs/local.1`."""
        return self.folder.resolve().name

    @cached_property
    def config_values(self) -> dict[str, Any]:
        """The resolved config as plain values, whatever version of this project wrote it. Raises `ConfigError` and
        `DataError`."""
        file = self.folder / "config.yaml"
        values = configuration.read_values(file)
        if not all(isinstance(section, dict) for section in values.values()):
            raise DataError("is no config of a run: it must be a mapping of sections.", str(file))
        return values

    @cached_property
    def config(self) -> RunConfig:
        """The config. Raises `ConfigError` where another version of this project wrote keys that are unknown here."""
        return configuration.load(self.folder / "config.yaml")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict a step in their order, keys of `docs/metrics.md`; None: unknown. A last line that is being written
        is left out. Raises `DataError`."""
        file = self.folder / "metrics.jsonl"
        try:
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read ({error}).", str(file)) from error
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
            except ValueError as error:
                if number == len(lines) and not line.endswith("\n"):
                    break
                raise DataError("is no JSON object. Delete the line to read the others.", str(file), number) from error
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                raise DataError("has no `step`. Delete the line to read the others.", str(file), number)
            found.append(values)
        return found

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """What came out; None for a run that has not finished. Raises `DataError`."""
        file = self.folder / "summary.json"
        try:
            return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read ({error}).", str(file)) from error

    @cached_property
    def steps(self) -> list[int]:
        """Steps whose rollouts are there, ascending."""
        files = (self.folder / ROLLOUTS).glob("step-*.arrow")
        return sorted(int(number) for file in files if (number := file.stem.removeprefix("step-")).isdecimal())

    def rollouts(self, step: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rollouts of a step, group after group; columns of `data.arrow`, all by default.

        Raises `DataError` where there are none.
        """
        if step not in self.steps:
            there = f"There are steps {self.steps[0]} to {self.steps[-1]}." if self.steps else "There are none."
            raise DataError(f"has no rollouts of step {step}. {there}", str(self.folder / ROLLOUTS))
        return self._read(self.folder / ROLLOUTS / f"step-{step:06d}.arrow", columns)

    @cached_property
    def evaluations(self) -> list[str]:
        """Names of the evaluations whose rollouts are there, in the order in which they were made."""
        names = {file.stem for file in (self.folder / EVALUATIONS).glob("*.arrow")}
        return sorted(names, key=lambda name: ({"before": 0, "after": 2}.get(name, 1), name))

    def evaluation(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the held-out rollouts of an evaluation; they have no reward. Raises `DataError` where it is none."""
        if name not in self.evaluations:
            there = ", ".join(self.evaluations) or "none"
            raise DataError(f"has no evaluation {name!r}. There are: {there}.", str(self.folder / EVALUATIONS))
        return self._read(self.folder / EVALUATIONS / f"{name}.arrow", columns)

    def named(self, name: str) -> tuple[pa.Table, int]:
        """Return the group of a rollout, and its row there; `name` as `rollout_name` gives it. Raises `DataError`."""
        source, _, rest = name.partition("/")
        problem_id, _, sample = rest.rpartition("/")
        if not problem_id or not sample.isdecimal():
            raise DataError(
                f"{name!r} names no rollout. Write step/problem/sample such as 12/some-problem/0, or the name of an "
                "evaluation in place of the step.",
                str(self.folder),
            )
        table = self.rollouts(int(source)) if source.isdecimal() else self.evaluation(source)
        ids = np.array(table["problem_id"].to_pylist(), dtype=object)
        if not (rows := np.flatnonzero(ids == problem_id)).size:
            raise DataError(f"has no rollouts of the problem {problem_id!r} in {source}.", str(self.folder))
        group = table.take(rows)
        samples = group["sample_index"].to_pylist()
        if int(sample) not in samples:
            raise DataError(
                f"{source}/{problem_id} has the samples 0 to {max(samples)}, not {sample}.", str(self.folder)
            )
        return group, samples.index(int(sample))

    @staticmethod
    def _read(file: Path, columns: Sequence[str] | None) -> pa.Table:
        table = read_ipc(file, columns)
        if missing := set(columns or ()) - set(table.column_names):
            raise DataError(f"lacks the columns {sorted(missing)}: another version wrote it.", str(file))
        return table if columns is None else table.select(list(columns))


def rollout_name(source: int | str, problem_id: str, sample_index: int) -> str:
    """Return what a rollout is called: `40/some-problem/3` is sample 3 of step 40, `after/some-problem/0` sample 0 of
    that evaluation. A step, and an evaluation, has a problem once."""
    return f"{source}/{problem_id}/{sample_index}"


def group_starts(table: pa.Table) -> np.ndarray:
    """Return the first row of each group, and the number of rows behind the last, int64 [groups + 1].

    A group begins with another problem, or with the same one's samples anew.
    """
    problems = table["problem_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    samples = table["sample_index"].to_numpy()
    begins = (problems[1:] != problems[:-1]) | (samples[1:] <= samples[:-1])
    first = [0] if len(problems) else []
    return np.concatenate([first, np.flatnonzero(begins) + 1, [len(problems)]]).astype(np.int64)


def group_index(table: pa.Table) -> np.ndarray:
    """Return which group each row belongs to, int64 [N], from 0."""
    starts = group_starts(table)
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))
