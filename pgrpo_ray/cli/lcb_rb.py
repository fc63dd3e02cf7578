"""`pgrpo lcb-rb ...`: a benchmark of reasoning pairs from executed samples, and how well models order them."""

import typer

app = typer.Typer(help="Build LCB-RB, a benchmark of reasoning pairs, and score models on it.", no_args_is_help=True)
