"""The terminal while a run goes on: a live line with progress and stage, and one lasting line a step.

Where lines cannot be drawn over (CI, a log file, a dumb terminal) the lasting lines appear, without control codes; and
while nothing else is printed, a plain line now and then that says what is being done and for how long.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HEADER = "  step   pass  format  reward  think  no-grad  entropy  clip  mismatch  tokens/s  sample+judge+learn+sync"


HEARTBEAT_S = 30.0
"""Without a terminal, how long nothing may be printed. A watcher of CI gives up on silence after minutes."""


def is_live(console: Console) -> bool:
    """Return whether lines can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal


class Heartbeat:
    """Prints what is being done, when nothing has been printed for a while. A context manager with a thread of its own,
    which nobody waits for but its exit. Nothing on a live terminal."""

    def __init__(self, console: Console, every_s: float = HEARTBEAT_S):
        self._console = console
        self._every_s = every_s
        self._doing, self._since = "", time.monotonic()
        self._printed = self._since
        self._where: Callable[[], str] = str
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if not is_live(self._console) and not self._console.quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def update(self, doing: str) -> None:
        """Say what is being done from now on; empty: nothing that takes time."""
        if doing.partition(":")[0] != self._doing.partition(":")[0]:  # behind a colon stands how much of it is done
            self._since = time.monotonic()
        self._doing = doing

    def place(self, where: Callable[[], str]) -> None:
        """Put what `where` returns before each line, such as how much is done. It is called from another thread."""
        self._where = where

    def printed(self) -> None:
        """Something else has been printed."""
        self._printed = time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(max(0.01, self._printed + self._every_s - time.monotonic())):
            now = time.monotonic()
            if now - self._printed < self._every_s:
                continue
            self._printed = now
            if self._doing:
                line = f"{self._where()}{self._doing}, for {now - self._since:.0f} s"
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def working(console: Console, doing: str) -> Iterator[Callable[[str], None]]:
    """Show that something goes on that takes a while; yields what tells in other words what it is."""
    if is_live(console):
        with console.status(escape(doing)) as status:
            yield lambda doing: status.update(escape(doing))
    else:
        with Heartbeat(console) as heartbeat:
            heartbeat.update(doing)
            yield heartbeat.update


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
            disable=not is_live(console),
        )
        self._task = self._progress.add_task("", total=None, stage="")
        self._heartbeat = Heartbeat(console)
        self._heartbeat.place(self._place)

    def __enter__(self) -> "Display":
        self._progress.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeat.__exit__()
        self._progress.stop()

    def phase(self, name: str, total: int) -> None:
        """Begin a phase of `total` units, such as training steps or evaluation groups."""
        self._progress.reset(self._task, description=name, total=total, stage="")
        self._heartbeat.update("")

    def stage(self, name: str) -> None:
        """Say which stage is running."""
        self._progress.update(self._task, stage=name)
        self._heartbeat.update(name)

    def advance(self, units: float = 1) -> None:
        """Move the phase on."""
        self._progress.advance(self._task, units)

    def note(self, text: str) -> None:
        """Print a lasting line; rich markup is honoured."""
        self.console.print(text, highlight=False, soft_wrap=True)
        self._heartbeat.printed()

    def _place(self) -> str:
        task = self._progress.tasks[0]
        return f"{task.description} {task.completed:.0f}/{task.total:.0f}: " if task.total else ""

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


def interval_cell(low: float | None, high: float | None, scale: float = 100, digits: int = 1) -> str:
    """Return an interval for a table, its bracket escaped; blank where there is none."""
    return "" if low is None or high is None else f"\\[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
