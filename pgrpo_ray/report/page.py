"""`pgrpo report`: one HTML file that holds everything it shows, plotly included, and opens without a network.

Protects whoever opens it against what models wrote (`obs.pages`): texts lie in base64 and reach the screen as text
only; two scripts may run, the page's own and plotly's, each by its hash. Plotly is gzipped too, and run when a curve
comes near the screen.
"""

import base64
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pgrpo_ray.data.recorded_findings import findings_of
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.obs import pages
from pgrpo_ray.obs.disk import check_out, whole_file
from pgrpo_ray.report.browser_data import Selection, columns_block, select, text_blocks
from pgrpo_ray.report.charts import Chart, build_charts
from pgrpo_ray.report.facts import facts, settings
from pgrpo_ray.report.figures import COLOURS, write_figures
from pgrpo_ray.report.runs import ReportedRun, open_runs

TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("data.js", "highlight.js", "curves.js", "rollouts.js", "detail.js", "start.js")
"""In the order in which they need each other."""


def write_report(folders: Sequence[Path], out: Path, png: Path | None, max_rollouts: int, console: Console) -> None:
    """Write the report of the runs in `folders` to `out`, their curves to the folder `png`; say what was written.

    Raises `DataError` for a folder that is no run's, or of a run without a step; `EnvironmentFault` where nothing can
    be written.
    """
    runs = open_runs(folders)
    check_out(out)
    charts = build_charts(runs)
    selections = [select(run.places, max_rollouts) for run in runs]
    notes = [
        left_out(run, selection) for run, selection in zip(runs, selections, strict=True) if selection.num_left_out
    ]
    try:
        with whole_file(out) as file:
            for piece in render(runs, charts, selections, notes):
                # Names of folders may hold bytes that are no UTF-8.
                file.write(piece.encode(errors="replace").decode())
    except OSError as error:
        raise EnvironmentFault(f"--out {out}: cannot be written: {error.strerror}. Name another file.") from error
    for note in notes:
        console.print(escape(note), style="yellow", highlight=False, soft_wrap=True)
    console.print(escape(f"open {out} in a browser"), highlight=False, soft_wrap=True)
    if png is not None:
        files = write_figures(charts, png, len(runs))
        console.print(escape(f"{len(files)} plots in {png}"), highlight=False, soft_wrap=True)


def left_out(run: ReportedRun, selection: Selection) -> str:
    """Return a sentence on what of the run the browser of rollouts does not hold."""
    return (
        f"{run.label}: {selection.num_rollouts:,} of its {selection.num_rollouts + selection.num_left_out:,} rollouts "
        "can be browsed, whole groups evenly over its steps; curves count all. --max-rollouts N holds more."
    )


def render(
    runs: Sequence[ReportedRun], charts: Sequence[Chart], selections: Sequence[Selection], notes: Sequence[str]
) -> Iterator[str]:
    """Yield the page piece by piece, so that it need not fit into memory. `notes`: what it leaves out."""
    from plotly.offline import get_plotlyjs

    plotly = get_plotlyjs()
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    data = {"runs": [run.label for run in runs], "charts": [asdict(chart) for chart in charts], "colours": COLOURS}
    yield from (
        pages.environment(TEMPLATES)
        .get_template("report.html")
        .generate(
            title=", ".join(run.label for run in runs),
            names=[run.label for run in runs],
            facts=facts(runs),
            settings=settings(runs),
            signs=[(run.label, findings_of(run.run)) for run in runs],
            left_out=notes,
            policy=pages.policy(script, plotly),
            style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            data=pages.in_script(data),
            columns=[columns_block(at, run.places, selections[at]) for at, run in enumerate(runs)],
            script=script,
            plotly=base64.b64encode(gzip.compress(plotly.encode(), mtime=0)).decode("ascii"),
            texts=chain.from_iterable(
                text_blocks(at, run.run, run.places, selections[at]) for at, run in enumerate(runs)
            ),
        )
    )
