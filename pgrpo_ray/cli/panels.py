"""Under which heading `pgrpo --help` lists a command: jobs that a person comes with."""

from typing import Any

import typer
import typer.core

TRAIN = "Train"
LOOK = "Look"
"""At what a run or a benchmark gave: nothing is trained."""
REWARD_MODEL = "Reward model"
DATA = "Data"
MACHINE = "Machine"

_ORDER = (TRAIN, LOOK, REWARD_MODEL, DATA, MACHINE)


class CommandsByPanel(typer.core.TyperGroup):
    """Lists commands in the order of the panels, whatever module they come from."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands; within a panel as they were added, those without one last."""
        homes = {name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()}
        return sorted(homes, key=lambda name: _ORDER.index(homes[name]) if homes[name] in _ORDER else len(_ORDER))
