"""`pgrpo report`: what runs left, as one page and as plots."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pgrpo_ray.cli import panels

app = typer.Typer()


@app.command(rich_help_panel=panels.LOOK)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, such as runs/local.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("report.html"),
    png: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write the curves as PNG files, for papers.")
    ] = None,
    max_rollouts: Annotated[
        int, typer.Option(min=0, help="Of each run that can be browsed; beyond, whole groups are left out evenly.")
    ] = 100_000,
) -> None:
    """Write one self-contained HTML page: what came out, curves with intervals, every rollout, config differences.

    It needs no network and opens from disk. Several runs are compared. A run that goes on is reported as far as it is.

    Examples:

        pgrpo report runs/local

        pgrpo report runs/seed-0 runs/seed-1 --out seeds.html --png plots
    """
    from pgrpo_ray.report.page import write_report

    write_report(runs, out, png, max_rollouts, Console())
