"""`pgrpo eval` and `pgrpo compare`: what a model is worth on a benchmark, and whether two differ."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pgrpo_ray.cli import completion, panels
from pgrpo_ray.config.base import apply_override, load_tree, parse_tree

app = typer.Typer()
"""Its commands are the root's: `cli` adds it without a name."""


@app.command("eval", rich_help_panel=panels.LOOK)
def evaluate(
    model: Annotated[str | None, typer.Option(help="Folder, hub name, or `starter`.")] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="humaneval, humaneval_plus, mbpp, mbpp_plus, livecodebench, bigcodebench, math500, minerva, aime24, "
            "gsm8k, or jsonl (our own format; with --data starter the default).",
            autocompletion=completion.benchmark_names,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="File (.jsonl, .jsonl.gz, .json, .parquet), hub id, or `starter`. May be repeated."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Samples per problem; default 1.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Report pass@k; default 1. May be repeated.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling; default 0, the most likely token.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first so many problems.")] = None,
    first_day: Annotated[str | None, typer.Option("--from", metavar="DAY", help="Published then or later.")] = None,
    last_day: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Published then or earlier.")] = None,
    release: Annotated[str | None, typer.Option(help="LiveCodeBench's, v1 to v6: the files of it in --data.")] = None,
    template: Annotated[Path | None, typer.Option(help="Prompt file, instead of the benchmark's own.")] = None,
    answers: Annotated[
        str | None, typer.Option(help="tags (default), or fenced for models that were not trained on tags.")
    ] = None,
    solutions: Annotated[
        str | None, typer.Option(help="reference or corrupted: judge the benchmark's own solutions instead of a model.")
    ] = None,
    skip_missing_libs: Annotated[
        bool, typer.Option("--skip-missing-libs", help="Leave out problems whose libraries the sandbox lacks.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default evaluations/<model>/<benchmark>.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file, such as cluster/evaluation.yaml.", autocompletion=completion.config_files),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override one key, such as rollout.num_workers=8."),
    ] = None,
) -> None:
    """Solve a benchmark with a model: sample, judge, and report pass@k with 95 % intervals.

    Writes samples.parquet and summary.json (docs/evaluation.md). Stopped at any time, the same command goes on where it
    was. Exit status 1 when samples could not be judged (run it again), 2 when the input is wrong.

    Examples:

        pgrpo eval --model starter --data starter --config cluster/evaluation.yaml

        pgrpo eval --model runs/local/model --benchmark humaneval --data HumanEval.jsonl.gz --n 10 --temperature 0.8 \\
            --k 1 --k 10

        pgrpo eval --benchmark mbpp --data mbpp.jsonl --solutions reference
    """
    from pgrpo_ray.config.evaluation_job import EvaluationConfig

    given = {
        "policy.model": model,
        "benchmark.name": benchmark,
        "benchmark.data": data,
        "benchmark.limit": limit,
        "benchmark.first_day": first_day,
        "benchmark.last_day": last_day,
        "benchmark.release": release,
        "benchmark.skip_missing_libs": skip_missing_libs or None,
        "prompt.template": template and str(template),
        "prompt.answers": answers,
        "rollout.group_size": n,
        "rollout.temperature": temperature,
        "evaluation.k": k,
        "evaluation.solutions": solutions,
        "evaluation.out": out and str(out),
    }
    # JSON is YAML, so a model named `1` or `a: b` stays a text.
    told = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    changes = [*told, *(overrides or [])]
    if config is not None:
        resolved = load_tree(EvaluationConfig, config, changes)
    else:
        values: dict[str, Any] = {}
        for change in changes:
            apply_override(values, change)
        resolved = parse_tree(EvaluationConfig, values, where="eval")
        resolved.check()
    from pgrpo_ray.jobs import evaluation

    evaluation.evaluate(resolved, Console())


@app.command(rich_help_panel=panels.LOOK)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Result of `pgrpo eval`, or a folder of several.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same of the other model.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTING", help="May differ all the same, such as template. May be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the same to.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Say whether B is better than A: pass@1 on the same problems, benchmark by benchmark.

    Each difference has a 95 % bootstrap interval over problems and a p-value: McNemar's exact test for one sample a
    problem, random swaps of the two models for several. Unequal problems or settings are refused.

    Example:

        pgrpo compare evaluations/base evaluations/trained
    """
    from pgrpo_ray.jobs import comparison

    comparison.compare(first, second, allow or [], out, seed, Console())
