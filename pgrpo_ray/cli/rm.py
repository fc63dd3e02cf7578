"""`pgrpo rm ...`: the reward model, from preference pairs to a served score."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pgrpo_ray.cli import completion
from pgrpo_ray.cli.lcb_rb import scoring_values
from pgrpo_ray.config import load_tree, parse_tree
from pgrpo_ray.config.base import apply_override

app = typer.Typer(help="Make, train, serve and probe the reward model that scores reasoning.", no_args_is_help=True)


@app.command()
def pairs(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="YAML file, such as cluster/pairs.yaml", autocompletion=completion.config_files
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override one key, such as chat.concurrency=64. May be repeated."),
    ] = None,
) -> None:
    """Make preference pairs: a model reasons about each problem, then makes its reasoning better and worse.

    Stopped at any time, the same command goes on where it was. Exit status 1 when requests went unanswered (run it
    again) or no pair came out, 2 when the input is wrong.

    Examples:

        pgrpo rm pairs cluster/pairs.yaml

        pgrpo rm pairs cluster/pairs.yaml --set pairs.source=od --set chat.backend=endpoint \\
            --set chat.base_url=http://localhost:8000/v1 --set chat.model=my-model --set problems.file=my.jsonl
    """
    from pgrpo_ray.config.pairs import PairsConfig

    resolved = load_tree(PairsConfig, config, overrides)
    from pgrpo_ray.jobs import pairs as job

    job.make(resolved, Console())


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="PAIRS", help="Parquet or JSON lines file of pairs.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write the same to.")] = None,
) -> None:
    """Show how well length alone, or a bag of words, tells the better side of each pair from the worse.

    Warns above 60 %, where that is not by chance (the interval excludes one half): a reward model trained on such pairs
    can learn the shortcut instead of reasoning.
    """
    from pgrpo_ray.jobs import pairs_report

    pairs_report.inspect(file, out, Console())


@app.command("train")
def train_reward_model(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="YAML file, such as cluster/reward-model.yaml",
            autocompletion=completion.config_files,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override one key, such as schedule.epochs=2. May be repeated."),
    ] = None,
) -> None:
    """Train a reward model on preference pairs with ZeRO-3, calibrate it and report how well it orders held-out pairs.

    The result is a sequence classifier in Hugging Face format under <output.dir>/<output.name>/model.

    Examples:

        pgrpo rm train cluster/reward-model.yaml

        pgrpo rm train cluster/reward-model.yaml --set data.pairs=pairs.parquet --set model.base=/models/my-coder
    """
    from pgrpo_ray.config.rm_training import RewardTrainingConfig

    resolved = load_tree(RewardTrainingConfig, config, overrides)
    from pgrpo_ray.jobs import rm_training

    rm_training.train_reward_model(resolved, Console())


@app.command()
def probe(
    reward_model: Annotated[
        str, typer.Option(help="Folder or hub name of a reward model with one label, or `starter`.")
    ],
    reasonings: Annotated[
        Path | None, typer.Option(help='JSONL of {"prompt", "reasoning"[, "program"]}: honest reasonings.')
    ] = None,
    problems: Annotated[
        Path | None, typer.Option(help="File of the starter's problems, instead of --reasonings.")
    ] = None,
    out: Annotated[Path, typer.Option(help="JSON report.")] = Path("probes.json"),
    max_reasonings: Annotated[int | None, typer.Option(help="Honest reasonings at most; default 500.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default) or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default) or cuda.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts per forward pass; default 16.")] = None,
    max_length_tokens: Annotated[int | None, typer.Option(help="Longer inputs are cut; default 2048.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of choice, probes and bootstrap; default 0.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override one key, such as starter.seed=1. May be repeated."),
    ] = None,
) -> None:
    """Say how often each probe fools a reward model into scoring a worse text at least as high as an honest one.

    Probes: padding, repetition, fluent nonsense, copied code, right words about another problem, swapped steps, one
    wrong constant, nothing at all, four words. Without --reasonings and --problems, the starter's own are used. A probe
    that does not apply to a text is skipped and counted.

    Example:

        pgrpo rm probe --reward-model models/rm --reasonings good.jsonl --out probes.json
    """
    from pgrpo_ray.config.lcb_rb import ProbeConfig
    from pgrpo_ray.errors import ConfigError

    if reasonings is not None and problems is not None:
        raise ConfigError("--reasonings and --problems both name what to start from. Give one of them.")
    section = {"max_reasonings": max_reasonings, "seed": seed}
    values = {
        "probe": {key: value for key, value in section.items() if value is not None},
        "scoring": scoring_values(dtype, device, batch_size, max_length_tokens, seed),
    }
    for override in overrides or []:
        apply_override(values, override)
    config = parse_tree(ProbeConfig, values, where="probe")
    from pgrpo_ray.jobs import probing

    probing.probe(reward_model, reasonings, problems, config, out, Console())


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="YAML file; none: defaults.", autocompletion=completion.config_files),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder, hub name, or `starter`.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free one.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Processes that each hold the model.")] = None,
    backend: Annotated[str | None, typer.Option(help="transformers or vllm.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override one key, such as server.deadline_s=10. May be repeated."),
    ] = None,
) -> None:
    """Serve a reward model over HTTP until Ctrl-C.

    POST /score scores reasonings; GET /health, /version, /docs tell the rest (docs/reward-server.md).

    Examples:

        pgrpo rm serve --model starter

        pgrpo rm serve --model /models/my-reward-model --replicas 2 --set reward_model.gpus=1
    """
    from pgrpo_ray.config.serving import ServingConfig

    given = {
        "reward_model": {"model": model, "replicas": replicas, "backend": backend},
        "server": {"host": host, "port": port},
    }
    told = [  # JSON is YAML, so a model named `1` or `a: b` stays a text
        f"{section}.{key}={json.dumps(value)}"
        for section, keys in given.items()
        for key, value in keys.items()
        if value is not None
    ]
    changes = [*told, *(overrides or [])]
    if config is not None:
        resolved = load_tree(ServingConfig, config, changes)
    else:
        values: dict = {}
        for change in changes:
            apply_override(values, change)
        resolved = parse_tree(ServingConfig, values, where="rm serve")
        resolved.check()
    from pgrpo_ray.jobs import serving

    serving.serve(resolved, Console())
