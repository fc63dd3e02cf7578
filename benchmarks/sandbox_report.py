"""What `sandbox.py` says about speed: the arms' names, what a window holds, medians and ratios, tables, a plot."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

OURS = "pool"
ARMS = {
    "docker_run": "(a) docker run per program",
    "docker_exec": "(b) docker exec per program",
    "fork_manager": "(c) fork harness, Manager, no sandbox",
    "fork_pipe": "(c) fork harness, pipe, no sandbox",
    "exec_once": "(d) fork+exec python, one run",
    "fork_once": "(e) fork+compile+run, one run",
    "fork_per_case": "(e) fork+compile+run, every case",
}
NAMES = {OURS: "the pool, Docker", **ARMS}
WANTED = {"docker_run": 40.0, "docker_exec": 20.0, "fork_pipe": 1.0}
"""Ratios that the pool is to reach."""
ROLES = ("python host", "dockerd", "containerd", "shim", "warden", "zygote", "programs")
"""Who uses CPU time while the pool judges; see `sandbox.cpu_ms`."""


@dataclass(slots=True)
class Window:
    """What one arm did in one window."""

    round: int
    set: str
    arm: str
    slots: int
    programs: int
    programs_per_s: float
    latencies_ms: list[float]
    wrong: list[Sequence[str | None]]
    """(problem, verdict, known verdict) of each that disagrees."""
    sandbox_ms: list[float] = field(default_factory=list)
    """The pool's word for the time inside the sandbox, one for each latency."""
    one_at_a_time_per_s: float | None = None
    cpu_ms_per_program: dict[str, float] = field(default_factory=dict)


def summarize(windows: list[Window]) -> list[dict[str, Any]]:
    """One row per set, slots and arm: medians over rounds, percentiles over all, the pool's ratio within each round."""
    groups: dict[tuple[str, int, str], list[Window]] = {}
    for row in windows:
        groups.setdefault((row.set, row.slots, row.arm), []).append(row)
    fewest = {
        name: rows for (name, _, arm), rows in sorted(groups.items(), key=lambda group: -group[0][1]) if arm == OURS
    }
    summary = []
    for (name, slots, arm), rows in groups.items():
        latencies = [latency for row in rows for latency in row.latencies_ms]
        entry: dict[str, Any] = {
            "set": name,
            "slots": slots,
            "arm": arm,
            "programs_per_s": statistics.median(row.programs_per_s for row in rows),
            "p50_ms": percentile(latencies, 50),
            "p99_ms": percentile(latencies, 99),
            "latencies": len(latencies),
        }
        if arm == OURS:
            inside = [ms for row in rows for ms in row.sandbox_ms]
            outside = [latency - ms for latency, ms in zip(latencies, inside, strict=True)]
            entry |= {
                "growth": statistics.median(
                    row.programs_per_s / least.programs_per_s for row, least in zip(rows, fewest[name], strict=True)
                ),
                "sandbox_p50_ms": percentile(inside, 50),
                "overhead_p50_ms": percentile(outside, 50),
                "one_at_a_time_per_s": statistics.median(row.one_at_a_time_per_s for row in rows),
                "cpu_ms_per_program": {
                    role: statistics.median(row.cpu_ms_per_program[role] for row in rows) for role in ROLES
                },
            }
        else:
            pairs = zip(groups[name, slots, OURS], rows, strict=True)
            ratios = sorted(ours.programs_per_s / row.programs_per_s for ours, row in pairs)
            entry["pool_ratio"] = {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
        summary.append(entry)
    return sorted(summary, key=lambda entry: (entry["set"], entry["slots"]))


def percentile(values: list[float], percent: int) -> float:
    """Nearest rank: always a value that was measured."""
    return sorted(values)[max(0, -(-percent * len(values) // 100) - 1)]


def slim(row: Window) -> dict[str, Any]:
    """Return a window for the JSON file, latencies as percentiles."""
    latencies = row.latencies_ms
    short = {"p50_ms": percentile(latencies, 50), "p99_ms": percentile(latencies, 99)}
    return {key: value for key, value in (asdict(row) | short).items() if key not in ("latencies_ms", "sandbox_ms")}


def tables(result: dict[str, Any]) -> str:
    lines = []
    summary = result["summary"]
    for name in dict.fromkeys(entry["set"] for entry in summary):
        lines += [f"set {name}", f"  {'':38}{'slots':>6}{'programs/s':>12}{'p50 ms':>10}{'p99 ms':>10}   the pool is"]
        for entry in (entry for entry in summary if entry["set"] == name):
            numbers = f"{entry['programs_per_s']:12.1f}{entry['p50_ms']:10.2f}{entry['p99_ms']:10.2f}"
            lines.append(f"  {NAMES[entry['arm']]:38}{entry['slots']:6}{numbers}   {verdict_on(entry)}".rstrip())
        lines.append("")
    lines.append(
        "where the pool's time goes, per program: p50 with one caller a slot; CPU time while a batch is judged"
    )
    heads = "".join(f"{role:>12}" for role in ROLES)
    lines.append(f"  {'':8}{'slots':>6}{'p50 ms':>10}{'sandbox':>10}{'overhead':>10}   CPU ms:{heads}")
    for entry in (entry for entry in summary if entry["arm"] == OURS):
        times = "".join(f"{entry[key]:10.2f}" for key in ("p50_ms", "sandbox_p50_ms", "overhead_p50_ms"))
        cpu = "".join(f"{entry['cpu_ms_per_program'][role]:12.2f}" for role in ROLES)
        lines.append(f"  {entry['set']:8}{entry['slots']:6}{times}          {cpu}")
    trip = result["empty_request_ms"]
    lines.append(f"round trip of an empty request: {'unknown' if trip is None else f'{trip:.3f} ms'}")
    lines.append(f"verdicts that are not the known ones: {len(result['wrong'])}")
    lines += [f"  {who}: {case} got {got}, known {known}" for who, case, got, known in result["wrong"][:20]]
    return "\n".join(lines)


def verdict_on(entry: dict[str, Any]) -> str:
    if entry["arm"] == OURS:
        return (
            f"{entry['growth']:.2f}x of the fewest slots; {entry['one_at_a_time_per_s']:.1f} programs/s one at a time"
        )
    ratio = entry["pool_ratio"]
    text = f"{ratio['median']:.2f}x ({ratio['least']:.2f} to {ratio['most']:.2f})"
    if entry["arm"] in WANTED:
        wanted = WANTED[entry["arm"]]
        text += f", wanted {wanted:g}x: {'yes' if ratio['median'] >= wanted else 'NO'}"
    return text


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw rates by slots for both styles, and where the pool's CPU time goes."""
    figure, axes = pyplot.subplots(1, 3, figsize=(16, 5))
    for panel, name in zip(axes, ("stdin", "assert"), strict=False):
        for arm, label in NAMES.items():
            rows = [entry for entry in result["summary"] if (entry["set"], entry["arm"]) == (name, arm)]
            points = [entry["slots"] for entry in rows], [entry["programs_per_s"] for entry in rows]
            panel.plot(*points, marker="o", linewidth=3 if arm == OURS else 1, label=label)
        panel.set(title=f"10 tests, {name} style", xlabel="slots", ylabel="programs/s", yscale="log")
        panel.set_xticks(sorted({entry["slots"] for entry in result["summary"]}), minor=False)
    rows = [entry for entry in result["summary"] if entry["arm"] == OURS]
    labels, bottom = [f"{entry['set']}, {entry['slots']}" for entry in rows], [0.0] * len(rows)
    for role in ROLES:
        heights = [entry["cpu_ms_per_program"][role] for entry in rows]
        axes[2].bar(labels, heights, bottom=bottom, label=role)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes[2].set(title="the pool: CPU per program, by set and slots", ylabel="ms")
    axes[2].tick_params(axis="x", rotation=60)
    axes[2].legend(fontsize="x-small")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize="small")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=100)
