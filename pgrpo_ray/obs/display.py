"""The terminal while a run goes on: a live line with progress and stage, and one lasting line a step.

Without a terminal (CI, a log file) only the lasting lines appear.
"""

import math
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HEADER = "  step   pass  format  reward  think  no-grad  entropy  clip  mismatch  tokens/s  sample+judge+learn+sync"


class Display:
    """Shows a run. A context manager; every method is cheap."""

    def __init__(self, console: Console):
        self.console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[stage]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, stage="")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def phase(self, name: str, total: int) -> None:
        """Begin a phase of `total` units, such as training steps or evaluation groups."""
        self._progress.reset(self._task, description=name, total=total, stage="")

    def stage(self, name: str) -> None:
        """Say which stage is running."""
        self._progress.update(self._task, stage=name)

    def advance(self, units: float = 1) -> None:
        """Move the phase on."""
        self._progress.advance(self._task, units)

    def note(self, text: str) -> None:
        """Print a lasting line; rich markup is honoured."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print one step's lasting line."""
        m = metrics
        seconds = "+".join(f"{m[key]:.1f}" for key in ("sample_s", "judge_tail_s", "update_s", "sync_s"))
        self.note(
            f"{step:6d}  {_percent(m['pass_rate'])}  {_percent(m['format_rate'])}  {m['reward']:6.2f}  "
            f"{_number(m['thinking_passers'])}   {_percent(m['no_gradient_groups_frac'])}   {_number(m['entropy'])}"
            f"    {m['clip_frac']:.3f}  {m['mismatch_max']:.1e}   {m['tokens_per_s']:7.0f}  "
            f"{m['step_s']:.1f} s = {seconds}"
        )


def warn_weak_sandbox(console: Console, reason: str) -> None:
    """Say that isolation is weak, where nobody can miss it."""
    console.print(
        "[bold red]Model code will run in the process sandbox of this machine, which is much weaker than Docker: "
        f"{escape(reason)} Every verdict says `process`.[/bold red]",
        highlight=False,
        soft_wrap=True,
    )


def _percent(value: float) -> str:
    return "    ?" if math.isnan(value) else f"{100 * value:4.0f}%"


def _number(value: float) -> str:
    return "   ?" if math.isnan(value) else f"{value:4.2f}"
