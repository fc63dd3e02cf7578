"""The runs of a report: their names on it, and what is reckoned once from their rollouts."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.errors import DataError
from pgrpo_ray.report.aggregates import Estimate, heldout_pass_at_1, step_estimates
from pgrpo_ray.report.rows import Place, read_places


class ReportedRun:
    """A run and what is reckoned from its rollouts, once."""

    def __init__(self, run: RecordedRun, label: str):
        """`label`: what the report calls it. Raises `DataError` where there is nothing to report."""
        self.run, self.label = run, label
        if not run.metrics:
            raise DataError(
                "has no steps to report yet: its metrics.jsonl is absent or empty. Wait for the first step, or give "
                "another run.",
                str(run.folder),
            )

    @cached_property
    def places(self) -> list[Place]:
        """Scalar columns of all rollouts."""
        return read_places(self.run)

    @property
    def seed(self) -> int:
        """Of the run, which its intervals are drawn by too."""
        return int(self.run.config_values.get("run", {}).get("seed") or 0)

    @cached_property
    def estimates(self) -> dict[int, dict[str, Estimate]]:
        """Step -> numbers with intervals, where the step's rollouts are there."""
        return {place.step: step_estimates(place, self.seed) for place in self.places if place.kind == "training"}

    @cached_property
    def heldout(self) -> dict[int, Estimate]:
        """Step -> pass@1 on held-out problems after it, 0 before the first; NaN for ends that nobody knows."""
        nan = math.nan
        found = {
            line["step"]: Estimate(value, nan, nan)
            for line in self.run.metrics
            if (value := line.get("heldout_pass_at_1")) is not None
        }
        summary = self.run.summary or {}
        for name, step in (("before", 0), ("after", self.run.metrics[-1]["step"])):
            value, low, high = (summary.get(f"pass_at_1_{name}{end}") for end in ("", "_low", "_high"))
            if value is not None and low is not None and high is not None:
                found[step] = Estimate(value, low, high)
        for place in self.places:
            if place.kind == "heldout" and (estimate := heldout_pass_at_1(place, self.seed)):
                found[place.step] = estimate
        return dict(sorted(found.items()))


def open_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """Return the runs, each under a name that no other has. Raises `DataError`."""
    recorded = [RecordedRun(folder) for folder in folders]
    resolved = [run.folder.resolve() for run in recorded]
    if len(set(resolved)) < len(resolved):
        twice = next(folder for folder in resolved if resolved.count(folder) > 1)
        raise DataError("is given twice. Give each run once.", str(twice))
    names = [run.name for run in recorded]
    unique = len(set(names)) == len(names)
    return [ReportedRun(run, run.name if unique else str(run.folder)) for run in recorded]
