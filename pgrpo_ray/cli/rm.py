"""`pgrpo rm ...`: the reward model, from preference pairs to a served score."""

import typer

app = typer.Typer(help="Make, train, serve and probe the reward model that scores reasoning.", no_args_is_help=True)
