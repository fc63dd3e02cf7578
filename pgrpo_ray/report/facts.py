"""What a report says of runs in words: what came out, with which versions, and how their configs differ."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_ray.config import RunConfig
from pgrpo_ray.report.aggregates import Estimate, difference
from pgrpo_ray.report.rows import Place
from pgrpo_ray.report.runs import ReportedRun

UNKNOWN = "unknown"
ABSENT = "absent"
"""Of a key that a config does not have, as another version of this project wrote it."""


@dataclass(frozen=True)
class Fact:
    """One line of the summary."""

    name: str
    values: list[str]
    """One a run."""


def facts(runs: Sequence[ReportedRun]) -> list[Fact]:
    """Return the summary, line by line."""
    lines = {
        "pass@1 before": lambda run: _share(_end(run, first=True)),
        "pass@1 after": lambda run: _share(_end(run, first=False)),
        "gain": _gain,
        "held-out": _heldout,
        "state": _state,
        "policy updates": lambda run: _count(run.run.metrics[-1].get("policy_version")),
        "rollouts": lambda run: _count(sum(line.get("issued") or 0 for line in run.run.metrics)),
        "time": lambda run: _duration((run.run.summary or {}).get("seconds")),
        "seed": lambda run: str(run.run.config_values.get("run", {}).get("seed", UNKNOWN)),
        "sandbox": _sandbox,
        "reward rule": lambda run: str(run.run.config_values.get("algo", {}).get("reward", UNKNOWN)),
        "reward model, held-out pairs": lambda run: _percent((run.run.summary or {}).get("rm_pair_accuracy")),
        "versions": _versions,
    }
    found = [Fact(name, [say(run) for run in runs]) for name, say in lines.items()]
    if len(runs) > 1:
        found.insert(3, Fact(f"after, minus {runs[0].label}", [_against(runs[0], run) for run in runs]))
    return found


@dataclass(frozen=True)
class Setting:
    """A key of the config and what it is."""

    path: str
    values: list[str]
    """Of the default and the run; or of each run."""


def settings(runs: Sequence[ReportedRun]) -> list[Setting]:
    """Return keys whose values differ: between runs, or of the one run from the defaults."""
    configs = [_flat(run.run.config_values) for run in runs]
    if len(configs) == 1:
        configs.insert(0, _flat(RunConfig().model_dump(mode="json")))
    paths = dict.fromkeys(path for config in configs for path in config)
    return [
        Setting(path, [_value(config.get(path, ABSENT)) for config in configs])
        for path in paths
        if any(config.get(path, ABSENT) != configs[0].get(path, ABSENT) for config in configs)
    ]


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}


def _value(value: Any) -> str:
    """As YAML has it, but for text, which needs no quotes here."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _end(run: ReportedRun, first: bool) -> Estimate | None:
    """pass@1 before the first step; after the last, once that is known."""
    if first:
        return run.heldout.get(0)
    return run.heldout.get(run.run.metrics[-1]["step"]) if run.run.summary is not None else None


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return UNKNOWN
    if not estimate.low <= estimate.high:  # no number: its rollouts are not there
        return f"{100 * estimate.value:.1f} %"
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _gain(run: ReportedRun) -> str:
    before, after = _end(run, first=True), _end(run, first=False)
    return f"{100 * (after.value - before.value):+.1f} points" if before and after else UNKNOWN


def _against(first: ReportedRun, run: ReportedRun) -> str:
    """The paired difference over the same held-out problems."""
    if run is first:
        return "-"
    one, two = _after(first), _after(run)
    found = difference(one, two) if one and two else None
    if found is None:
        return "not comparable"
    return f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _after(run: ReportedRun) -> Place | None:
    return next((place for place in run.places if place.kind == "heldout" and place.name == "after"), None)


def _heldout(run: ReportedRun) -> str:
    summary = run.run.summary or {}
    problems, samples = summary.get("heldout_problems"), summary.get("heldout_samples_per_problem")
    if problems is None:
        place = next((place for place in run.places if place.kind == "heldout"), None)
        return f"{len(place.starts) - 1:,} problems" if place else UNKNOWN
    return f"{problems:,} problems x {samples} samples"


def _state(run: ReportedRun) -> str:
    last = run.run.metrics[-1]["step"]
    if run.run.summary is not None:
        return f"finished, {last:,} steps"
    wanted = run.run.config_values.get("run", {}).get("steps", "?")
    return f"step {last:,} of {wanted}: going on, or ended early (no summary.json)"


def _sandbox(run: ReportedRun) -> str:
    if known := (run.run.summary or {}).get("sandbox"):
        return str(known)
    backend = run.run.config_values.get("sandbox", {}).get("backend", UNKNOWN)
    return f"{backend} asked for"


def _versions(run: ReportedRun) -> str:
    versions = (run.run.summary or {}).get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or UNKNOWN


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    hours, minutes = int(seconds) // 3600, int(seconds) % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds) % 60} s"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def _count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{int(number):,}"
