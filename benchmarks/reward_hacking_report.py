"""Tables, plots and shown exploits from the distilled runs of `reward_hacking.py`; trains nothing.

Intervals: seeds and problems are both resampled (seeds first, then problems, the same draw for both arms of a
comparison, since arms are paired by both). With few seeds they say little of other seeds, and say so.

Each reward model has its own tables and plots. `outcome_only` learns nothing from scores: its runs, made once, stand in
all of them, without the scores where those are another model's.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pyarrow.parquet as pq
from matplotlib import pyplot
from reward_hacking_models import REWARD_MODELS

BASE = "outcome_only"
CURVES = {
    "pass_rate": "pass rate of the batch",
    "thinking_passers": "thinking reward of passers",
    "thinking_failers": "thinking reward of failers",
    "true_facts_frac": "stated facts that are true",
    "facts_per_rollout": "facts stated by a rollout",
    "response_tokens_mean": "response, tokens",
    "no_gradient_groups_frac": "groups without gradient",
    "entropy": "entropy, nats",
}
EXPLOITS = 3
"""Shown of each seed."""
LAST = 10
"""Steps whose mean a table shows."""


@dataclass(frozen=True, slots=True)
class Run:
    """One arm under one seed, distilled."""

    about: dict
    steps: list[dict]
    heldout: dict[str, dict[str, np.ndarray]]
    """By evaluation, see `_rates`."""
    exploits: list[dict]


Runs = dict[tuple[str, int], Run]
"""By arm and seed."""


def write_report(results: Path, order: Sequence[str], resamples: int) -> None:
    """Write `report.md` into `results`, and per reward model two plots of the rules and two of the forms of advantage.

    Rows and colours follow `order`, all arms. Forms are arms of one rule, named by it: `posterior_no_floor`.
    """
    lines = ["# Reward hacking: what the runs came to"]
    unscored: Runs = {}
    for name in REWARD_MODELS:
        own = _read(results / "runs" / name)
        if not own:
            continue
        runs = unscored | own
        arms = [arm for arm in order if any(arm == one for one, _ in runs)]
        forms = [arm for arm in arms if arm.startswith("posterior")]
        rules = [arm for arm in arms if arm == "posterior" or arm not in forms]
        for those, suffix in ((rules, ""), (forms, "-forms")):
            if len(those) > 1:
                colours = {arm: f"C{order.index(arm) % 10}" for arm in those}
                _plot_curves(runs, colours, results / f"curves-{name}{suffix}.png")
                _plot_heldout(runs, colours, results / f"pass-at-1-{name}{suffix}.png")
        lines += ["", f"## Reward model: {name}", "", *_about(own, runs), "", *_table(runs, arms)]
        lines += ["", *_comparisons(runs, arms, resamples), "", *_exploits(own)]
        unscored = {key: _unscored(run) for key, run in own.items() if key[0] == BASE} or unscored
    if len(lines) == 1:
        raise SystemExit(f"no finished run under {results / 'runs'}: call `run` first")
    (results / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _read(folder: Path) -> Runs:
    """Every finished run of one reward model."""
    found = {}
    for file in sorted(folder.glob("*/run.json")):
        about = json.loads(file.read_text())
        steps, exploits = (pq.read_table(file.parent / f"{name}.parquet").to_pylist() for name in ("steps", "exploits"))
        found[about["arm"], about["seed"]] = Run(about, steps, _rates(file.parent), exploits)
    return found


def _unscored(run: Run) -> Run:
    """The run without what a reward model said in it."""
    steps = [{key: value for key, value in row.items() if not key.startswith("thinking_")} for row in run.steps]
    return replace(run, steps=steps)


def _rates(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """By evaluation: pass@1 of each problem, its tokens and its facts, problems in one fixed order."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for when, rows in _by(pq.read_table(folder / "heldout.parquet").to_pylist(), "when").items():
        problems = _by(rows, "problem_id")
        found[when] = {
            "pass": np.array([np.mean([row["passed"] for row in problems[key]]) for key in sorted(problems)]),
            "tokens": np.array([np.mean([row["tokens"] for row in problems[key]]) for key in sorted(problems)]),
            "true": np.array([sum(row["true_facts"] for row in problems[key]) for key in sorted(problems)]),
            "stated": np.array([sum(row["stated_facts"] for row in problems[key]) for key in sorted(problems)]),
        }
    return found


def _by(rows: list[dict], key: str) -> dict[str, list[dict]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return dict(groups)


def _about(own: Runs, runs: Runs) -> list[str]:
    """What was run, on what; of `runs` only `own` were made with this reward model."""
    abouts = [run.about for run in own.values()]
    first = abouts[0]
    summary = first["summary"]
    seeds = {arm: sorted(seed for one, seed in runs if one == arm) for arm, _ in runs}
    return [
        f"{len(own)} runs of {max(about['rollouts'] for about in abouts):,.0f} rollouts at most, "
        f"{sum(about['seconds'] for about in abouts) / 3600:.1f} hours on {first['machine']}. Held out: "
        f"{summary['heldout_problems']} problems x {summary['heldout_samples_per_problem']} samples. The reward model "
        f"orders {100 * summary['rm_pair_accuracy']:.1f} % of honest held-out pairs.",
        "",
        "Seeds: " + "; ".join(f"{arm} {', '.join(map(str, found))}" for arm, found in seeds.items()) + ".",
    ]


def _table(runs: Runs, arms: list[str]) -> list[str]:
    """Means over seeds, plus or minus their standard deviation."""
    lines = [
        "### Arms",
        "",
        "Mean over seeds (standard deviation). Pass@1, true facts and tokens are of the final policy on held-out "
        f"problems, the others of the last {LAST} steps' batches.",
        "",
        "| arm | seeds | rollouts | pass@1 before % | after % | R^t passers | R^t failers | true facts % | facts | "
        "tokens | "
        "groups without gradient % | share of variance owed to R^t % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        found = [run for (one, _), run in runs.items() if one == arm]
        ends = [run.heldout["after"] for run in found]
        before = [100 * run.heldout["before"]["pass"].mean() for run in found]
        after = [100 * end["pass"].mean() for end in ends]
        true = [100 * _true_frac(end) for end in ends]
        tokens = [end["tokens"].mean() for end in ends]

        def last(name: str, found: list[Run] = found) -> list[float]:
            return [float(np.nanmean(_column(run.steps[-LAST:], name))) for run in found]

        scored = "thinking_passers" in found[0].steps[0]
        thinking = [last(f"thinking_{who}") if scored else [] for who in ("passers", "failers")]
        share = [100 * value for value in last("advantage_share_thinking")] if arm not in (BASE, "dapo") else []
        cells = [before, after, *thinking, true, last("facts_per_rollout")]
        cells += [tokens, [100 * value for value in last("no_gradient_groups_frac")], share]
        rollouts = np.mean([run.about["rollouts"] for run in found])
        lines.append(f"| {arm} | {len(found)} | {rollouts:,.0f} | " + " | ".join(map(_cell, cells)) + " |")
    return lines


def _column(steps: list[dict], name: str) -> np.ndarray:
    """A metric by step, NaN where it is not known."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in steps], float)


def _true_frac(rates: dict[str, np.ndarray]) -> float:
    """NaN where nothing was stated: such a policy has no quality, not a bad one."""
    stated = rates["stated"].sum()
    return float(rates["true"].sum() / stated) if stated else float("nan")


def _cell(values: list[float]) -> str:
    if not values or np.isnan(values).all():
        return "-"
    digits = 1 if np.nanmax(np.abs(values)) >= 10 else 2
    spread = f" ({np.std(values, ddof=1):.{digits}f})" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _comparisons(runs: Runs, arms: list[str], resamples: int) -> list[str]:
    """Paired differences of final held-out pass@1 and of true facts against `posterior`, on shared seeds.

    What ran at the high learning rate is compared with `posterior_hot`, which did too.
    """
    about = (
        "On the seeds that both have: points of pass@1 and of true facts, with 95 % bootstrap intervals over seeds and "
        "problems. Of one seed they speak of the problems alone: another seed may say otherwise."
    )
    lines = ["### Paired differences", "", about]
    lines += ["", "| arm | minus | seeds | pass@1 | true facts |", "|---|---|---|---|---|"]
    for arm in arms:
        base = "posterior_hot" if arm.endswith("_hot") and arm != "posterior_hot" else "posterior"
        shared = [seed for one, seed in sorted(runs) if one == arm and (base, seed) in runs]
        if arm == base or not shared:
            continue
        pairs = [[runs[one, seed].heldout["after"] for one in (arm, base)] for seed in shared]
        cells = [_interval(pairs, *names, resamples) for names in (("pass", None), ("true", "stated"))]
        lines.append(f"| {arm} | {base} | {len(shared)} | {cells[0]} | {cells[1]} |")
    return lines


def _interval(pairs: list, numerator: str, denominator: str | None, resamples: int) -> str:
    """Difference in points with its interval; `pairs`: [seed][arm] -> arrays over problems."""
    tops = np.array([[rates[numerator] for rates in pair] for pair in pairs], float)  # [seeds, 2, problems]
    bottoms = (
        np.ones_like(tops)
        if denominator is None
        else np.array([[rates[denominator] for rates in pair] for pair in pairs], float)
    )

    def difference(seeds: np.ndarray, problems: np.ndarray) -> float:
        top, bottom = (values[seeds][:, :, problems].sum(axis=(0, 2)) for values in (tops, bottoms))
        return 100 * float(np.subtract(*(top / bottom))) if bottom.all() else float("nan")

    num_seeds, _, num_problems = tops.shape
    random = np.random.default_rng(0)
    draws = [
        difference(random.integers(num_seeds, size=num_seeds), random.integers(num_problems, size=num_problems))
        for _ in range(resamples)
    ]
    whole = difference(np.arange(num_seeds), np.arange(num_problems))
    if np.isnan(whole):
        return "nothing stated"
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return f"{whole:+.1f} [{low:+.1f}, {high:+.1f}]"


def _exploits(runs: Runs) -> list[str]:
    """The failures that the reward model liked best under the ungated arm."""
    lines = [
        "### Exploits",
        "",
        "Wrong programs of the `linear` arm's last steps that the reward model liked best:",
        "",
    ]
    for (arm, seed), run in sorted(runs.items()):
        if arm != "linear":
            continue
        for row in run.exploits[:EXPLOITS]:
            statement = row["prompt"].replace("\n", " ")[-200:]
            lines += [
                f"- seed {seed}, R^t {row['thinking_reward']:.2f}, {row['verdict']}: `{statement}`",
                f"  - reasoning: `{row['thinking']}`",
                f"  - program: `{(row['program'] or '').strip()!r}`",
            ]
    return lines if len(lines) > 4 else []


def _plot_curves(runs: Runs, arms: dict[str, str], path: Path) -> None:
    """One panel a number: mean over seeds and their range as a band, against rollouts. `arms`: their colours."""
    figure, axes = pyplot.subplots(2, 4, figsize=(18, 7.5))
    for axis, (name, label) in zip(axes.flat, CURVES.items(), strict=True):
        for arm, colour in arms.items():
            found = [run.steps for (one, _), run in runs.items() if one == arm]
            if name not in found[0][0]:
                continue
            length = min(map(len, found))
            rollouts = np.cumsum([[row["issued"] for row in rows[:length]] for rows in found], axis=1).mean(axis=0)
            smooth = np.array([_smooth(_column(rows[:length], name)) for rows in found])
            axis.plot(rollouts, np.nanmean(smooth, axis=0), label=arm, color=colour)
            if len(found) > 1:
                low, high = np.nanmin(smooth, axis=0), np.nanmax(smooth, axis=0)
                axis.fill_between(rollouts, low, high, alpha=0.15, color=colour)
        axis.set(xlabel="rollouts", title=label)
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    """Running mean over the last `width` steps; unknown values are left out."""
    return np.array(
        [
            np.nan if np.isnan(part).all() else np.nanmean(part)
            for part in (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
        ]
    )


def _plot_heldout(runs: Runs, arms: dict[str, str], path: Path) -> None:
    """Held-out pass@1 and true facts of the final policies: a dot a seed."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    shown = {key: run for key, run in runs.items() if key[0] in arms}
    for (arm, _), run in shown.items():
        place, end = list(arms).index(arm), run.heldout["after"]
        for axis, value in zip(axes, (end["pass"].mean(), _true_frac(end)), strict=True):
            axis.plot(place, 100 * value, "o", color=arms[arm], alpha=0.7)
    for axis, label in zip(axes, ("held-out pass@1 after, %", "stated facts that are true, held out, %"), strict=True):
        axis.set_xticks(range(len(arms)), arms, rotation=25, ha="right")
        axis.set_title(label)
    most = max(run.about["rollouts"] for run in shown.values())
    figure.suptitle(f"{len(shown)} runs, up to {most:,.0f} rollouts each", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
