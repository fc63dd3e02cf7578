"""The curves of one run or several, as plain numbers: the page draws them with plotly, `figures` with matplotlib."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pgrpo_ray.report.runs import ReportedRun
from pgrpo_ray.types import Verdict

NO_PROGRAM = "no_program"
"""Share of rollouts without a verdict, as their format is wrong: beside the verdicts, so that all add up to 1."""
SHARE, SECONDS, TOKENS, NATS = "share", "seconds", "tokens", "nats"
"""Units of vertical axes; a share is shown as percent."""


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    run: int
    """Index of its run."""
    part: int
    """Which of the chart's quantities it is."""
    x: list[int]
    y: list[float | None]
    low: list[float | None] = field(default_factory=list)
    """Ends of the 95 % interval, as long as `x`; empty where none can be reckoned."""
    high: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """Curves on one pair of axes."""

    id: str
    title: str
    about: str
    unit: str
    series: list[Series]
    form: Literal["lines", "points", "stack"] = "lines"
    """`points`: few, with error bars; `stack`: areas that add up, the last series a line above where it is `total`."""
    log: bool = False


_LINES: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
    ("pass_rate", "Pass rate", "Share of sampled programs that pass all tests.", SHARE, {"pass_rate": ""}),
    (
        "reward",
        "Reward by part",
        "Mean of the reward and of its terms as added.",
        "reward",
        {
            "reward": "reward",
            "reward_format": "format",
            "reward_outcome": "outcome",
            "reward_thinking": "thinking",
            "reward_other": "other",
        },
    ),
    (
        "thinking",
        "Thinking reward of passers and failers",
        "Mean R^t of those that were scored; failers only where the rule or the config has them scored.",
        "R^t",
        {"thinking_passers": "passers", "thinking_failers": "failers"},
    ),
    (
        "gate_open",
        "Gate open",
        "Share of rollouts whose thinking reward counts.",
        SHARE,
        {"gate_open_frac": ""},
    ),
    ("format", "Format", "Share of responses with the right tag structure.", SHARE, {"format_rate": ""}),
    (
        "lengths",
        "Response length",
        "Mean and longest of a step.",
        TOKENS,
        {"response_tokens_mean": "mean", "response_tokens_max": "longest"},
    ),
    ("cut", "Cut responses", "Share cut at rollout.max_response_tokens.", SHARE, {"cut_frac": ""}),
    ("entropy", "Entropy", "Of the policy, over trained tokens.", NATS, {"entropy": ""}),
    (
        "mismatch",
        "Mismatch",
        "Gap between the engine's and the learner's logprob of a token.",
        NATS,
        {"mismatch_mean": "mean", "mismatch_max": "largest"},
    ),
    (
        "staleness",
        "Staleness",
        "Learner version at consumption minus the oldest version that sampled.",
        "optimizer steps",
        {"staleness_max": "largest"},
    ),
    (
        "no_gradient",
        "Groups without gradient",
        "Share of groups in which no rollout has an advantage.",
        SHARE,
        {"no_gradient_groups_frac": ""},
    ),
    ("grad_norm", "Gradient norm", "Before clipping, mean of the step.", "norm", {"grad_norm": ""}),
)
"""id, title, what it says, unit, quantities (key of the metrics -> its name in the chart)."""

_BUSY = {f"busy_{stage}_s": stage for stage in ("sampling", "judging", "scoring", "learning", "sync")}


def build_charts(runs: Sequence[ReportedRun]) -> list[Chart]:
    """Return all charts that have at least one known number."""
    found = [_heldout(runs)]
    for id_, title, about, unit, keys in _LINES:
        found.append(Chart(id_, title, about, unit, _curves(runs, keys), log=id_ == "mismatch"))
    prefix = "advantage_share_"
    terms = dict.fromkeys(key for run in runs for line in run.run.metrics for key in line if key.startswith(prefix))
    found.append(
        Chart(
            "advantage_share",
            "What the advantages are owed to",
            "Share of their variance by term; one is negative where it pulls against the others.",
            SHARE,
            _curves(runs, {key: key.removeprefix(prefix) for key in terms}),
        )
    )
    for at, run in enumerate(runs):
        of_run, suffix = (f": {run.label}", f"-{at + 1}") if len(runs) > 1 else ("", "")
        found.append(
            Chart(
                f"verdicts{suffix}",
                f"Verdicts{of_run}",
                "Share of rollouts by verdict; without a program where the format is wrong.",
                SHARE,
                _stack(run, at, {f"verdict_{verdict}": verdict.value for verdict in Verdict}, _without_program),
                form="stack",
            )
        )
        found.append(
            Chart(
                f"stages{suffix}",
                f"Stage times{of_run}",
                "For how long of a step each stage had work: above the step's own time where stages overlap.",
                SECONDS,
                [*_stack(run, at, _BUSY), _plain(run, at, "step_s", len(_BUSY), "total")],
                form="stack",
            )
        )
    return [chart for chart in found if any(y is not None for series in chart.series for y in series.y)]


def _heldout(runs: Sequence[ReportedRun]) -> Chart:
    series = []
    for at, run in enumerate(runs):
        points = run.heldout
        series.append(
            Series(
                run.label,
                at,
                0,
                list(points),
                *([_rounded(getattr(point, end)) for point in points.values()] for end in ("value", "low", "high")),
            )
        )
    about = "On problems that are never trained on; bars are 95 % intervals, bootstrapped over problems."
    return Chart("heldout", "Held-out pass@1", about, SHARE, series, form="points")


def _curves(runs: Sequence[ReportedRun], keys: dict[str, str]) -> list[Series]:
    """One series a run and quantity that is known somewhere."""
    series = []
    for at, run in enumerate(runs):
        for part, (key, name) in enumerate(keys.items()):
            label = " ".join(word for word in (run.label if len(runs) > 1 or not name else "", name) if word)
            curve = _plain(run, at, key, part, label)
            # A term that is 0 throughout, as `other` mostly is, would only hide the axis.
            if any(curve.y) or (len(keys) == 1 and any(y is not None for y in curve.y)):
                series.append(curve)
    return series


def _plain(run: ReportedRun, at: int, key: str, part: int, label: str) -> Series:
    steps, values, lows, highs = [], [], [], []
    for line in run.run.metrics:
        estimate = run.estimates.get(line["step"], {}).get(key)
        value = line.get(key)
        steps.append(line["step"])
        values.append(_rounded(value if value is not None else estimate.value if estimate else None))
        lows.append(_rounded(estimate.low if estimate else None))
        highs.append(_rounded(estimate.high if estimate else None))
    known = any(low is not None for low in lows)
    return Series(label, at, part, steps, values, lows if known else [], highs if known else [])


def _stack(
    run: ReportedRun, at: int, keys: dict[str, str], rest: Callable[[dict[str, Any]], float | None] | None = None
) -> list[Series]:
    lines = run.run.metrics
    steps = [line["step"] for line in lines]
    series = [
        Series(name, at, part, steps, [_rounded(line.get(key)) for line in lines])
        for part, (key, name) in enumerate(keys.items())
    ]
    if rest:
        series.append(Series(NO_PROGRAM, at, len(keys), steps, [_rounded(rest(line)) for line in lines]))
    return [one for one in series if any(one.y)]


def _without_program(line: dict[str, Any]) -> float | None:
    known = [share for verdict in Verdict if (share := line.get(f"verdict_{verdict}")) is not None]
    return max(0.0, 1 - sum(known)) if len(known) == len(Verdict) else None


def _rounded(value: Any) -> float | None:
    """Six digits: more would only make the page larger. None for what is unknown or no number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
