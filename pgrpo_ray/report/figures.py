"""The curves as PNG files for papers: one file a chart, by matplotlib, without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.report.charts import SHARE, Chart, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5b3a", "#000000", "#999999")
"""Okabe and Ito's, which colour-blind readers can tell apart, and three more; the page has the same."""
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)))


def write_figures(charts: Sequence[Chart], folder: Path, num_runs: int) -> list[Path]:
    """Write `<folder>/<chart>.png` for each chart, return the files. Raises `EnvironmentFault`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
            _draw(axes, chart, num_runs)
            if len(chart.series) > 1:
                figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
            files.append(folder / f"{chart.id}.png")
            figure.savefig(files[-1], dpi=200)
            pyplot.close(figure)
    except OSError as error:
        raise EnvironmentFault(
            f"--png {folder}: cannot be written: {error.strerror or error}. Name another folder."
        ) from error
    return files


def _draw(axes: "Axes", chart: Chart, num_runs: int) -> None:
    from matplotlib.ticker import PercentFormatter

    if chart.form == "stack":
        areas = [series for series in chart.series if series.name != "total"]
        names = [_name(series) for series in areas]
        axes.stackplot(
            areas[0].x, [_numbers(s.y) for s in areas], labels=names, colors=[COLOURS[s.part] for s in areas]
        )
    for series in chart.series:
        if chart.form == "stack" and series.name != "total":
            continue
        by_run = num_runs > 1 and chart.form != "stack"
        colour = COLOURS[(series.run if by_run else series.part) % len(COLOURS)]
        dash = _DASHES[series.part % len(_DASHES)] if by_run else "-"
        _line(axes, chart, series, "black" if series.name == "total" else colour, dash)
    axes.set(title=chart.title.replace("$", r"\$"), xlabel="step", ylabel="" if chart.unit == SHARE else chart.unit)
    if chart.log:
        axes.set_yscale("log")
    if chart.unit == SHARE:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: "Axes", chart: Chart, series: Series, colour: str, dash: object) -> None:
    y, low, high = _numbers(series.y), _numbers(series.low), _numbers(series.high)
    marker = "o" if chart.form == "points" or len(series.x) == 1 else None
    axes.plot(series.x, y, color=colour, linestyle=dash, marker=marker, linewidth=1.4, label=_name(series))
    if chart.form == "points" and len(low):
        axes.errorbar(series.x, y, [y - low, high - y], color=colour, fmt="none", capsize=3)
    elif len(low):
        axes.fill_between(series.x, low, high, color=colour, alpha=0.15, linewidth=0)


def _name(series: Series) -> str:
    """What the legend says: no mathematics, and shown although it may begin with an underscore."""
    return series.name.replace("_", " ").replace("$", r"\$").strip() or "?"


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
