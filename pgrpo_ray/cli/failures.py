"""How a command ends: the project's errors and all others become a message and an exit status, never a bare traceback.

0 done, 1 the run or the machine failed, or we did (a defect), 2 the input is wrong, 130 interrupted.
"""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

import pgrpo_ray
from pgrpo_ray.errors import CheckpointError, ConfigError, DataError, ModelError, PgrpoError

DEBUG = "--debug"
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""
_INPUT = (CheckpointError, ConfigError, DataError, ModelError)


def status_of(command: Callable[..., Any], arguments: list[str]) -> int:
    """Run a typer app on `arguments`; return the exit status, with a message on stderr where it is not 0.

    `--debug` may stand anywhere among the arguments: tracebacks are then printed as well.
    """
    console = Console(stderr=True)
    try:
        command([argument for argument in arguments if argument != DEBUG], standalone_mode=True)
    except SystemExit as end:  # typer turns a KeyboardInterrupt into this
        status = end.code if isinstance(end.code, int) else 1
        if status == INTERRUPTED:
            console.print("[yellow]interrupted; what was written is kept[/yellow]")
        return status
    except Exception as error:  # the last one who can
        if DEBUG in arguments:
            traceback.print_exception(error, file=sys.stderr)
        message = str(error) if isinstance(error, PgrpoError) else _unforeseen(error)
        console.print(f"[bold red]error:[/bold red] {escape(message)}", highlight=False, soft_wrap=True)
        return 2 if isinstance(error, _INPUT) else 1
    return 0


def _unforeseen(error: Exception) -> str:
    """One sentence for an exception that is not the project's: what failed, whose fault it is, how to see more."""
    said = str(error).strip().partition("\n")[0]
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        named = f"{error.filename}: " if error.filename else ""
        return (
            f"{named}this machine refused ({error.strerror}). Give another file or folder, free space or change its "
            f"rights; {DEBUG} on the same command shows the traceback."
        )
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("pgrpo_ray"):
        return f"{what}: a package is missing on this machine. Install it (make setup); {DEBUG} shows who wants it."
    package = str(Path(pgrpo_ray.__file__).parent)
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(package)]
    where = f" at {Path(ours[-1].filename).relative_to(Path(package).parent)}:{ours[-1].lineno}" if ours else ""
    return (
        f"{what}{where}. This is a defect of pgrpo_ray, not of your input: run the same command with {DEBUG} for the "
        "traceback, and report it with that."
    )
