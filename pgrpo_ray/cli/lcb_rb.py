"""`pgrpo lcb-rb ...`: a benchmark of reasoning pairs from executed samples, and how well models order them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pgrpo_ray.cli import completion
from pgrpo_ray.errors import ConfigError

app = typer.Typer(help="Build LCB-RB, a benchmark of reasoning pairs, and score models on it.", no_args_is_help=True)

PairsFile = Annotated[Path, typer.Argument(metavar="FILE", help="pairs.jsonl of a build, or a RewardBench file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one key, such as judge.kind=none. May be repeated."),
]


@app.command()
def build(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="YAML file, such as cluster/lcb-rb.yaml", autocompletion=completion.config_files
        ),
    ],
    overrides: Overrides = None,
) -> None:
    """Build the benchmark: sample a policy (or read a run's samples), judge, pair, balance.

    Writes pairs.jsonl, candidates.jsonl, unparsed.jsonl and report.json to <lcb_rb.dir>/<lcb_rb.name>/; docs/lcb-rb.md
    says what they hold. The same command again does again only what was not done.

    Examples:

        pgrpo lcb-rb build cluster/lcb-rb.yaml

        pgrpo lcb-rb build cluster/lcb-rb.yaml --set 'samples.files=["runs/local/evaluations/*.arrow"]'
    """
    from pgrpo_ray.config.base import load_tree
    from pgrpo_ray.config.lcb_rb import LcbRbConfig

    resolved = load_tree(LcbRbConfig, config, overrides)
    from pgrpo_ray.jobs import lcb_rb

    lcb_rb.build(resolved, Console())


@app.command()
def score(
    file: PairsFile,
    reward_model: Annotated[
        str | None, typer.Option(help="Folder or hub name of a reward model with one label, or `starter`.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="YAML whose section `judge` says which LLM to ask.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also longer wins, shorter wins, random.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON report. Default: FILE with .scores.json added.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the reward model: float32 (default) or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default) or cuda.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts per forward pass; default 16.")] = None,
    max_length_tokens: Annotated[int | None, typer.Option(help="Longer inputs are cut; default 2048.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the bootstrap and the judge; default 0.")] = None,
    overrides: Overrides = None,
) -> None:
    """Say how well a reward model, an LLM judge and trivial baselines order the pairs of FILE.

    FILE is LCB-RB, or RewardBench's columns prompt, chosen, rejected, subset as JSON lines or Parquet. Ties count half;
    intervals are 95 % bootstraps over problems. --set overrides keys of the judge's config. `starter` means the starter
    of the build, where its report.json lies beside FILE.

    Examples:

        pgrpo lcb-rb score lcb-rb/local/pairs.jsonl --reward-model models/rm

        pgrpo lcb-rb score rewardbench.parquet --reward-model models/rm --judge cluster/lcb-rb.yaml
    """
    from pgrpo_ray.config.base import load_tree, parse_tree
    from pgrpo_ray.config.lcb_rb import LcbRbConfig, ScoreConfig

    scoring = scoring_values(dtype, device, batch_size, max_length_tokens, seed)
    config = parse_tree(ScoreConfig, {"scoring": scoring}, where="score")
    section = None
    if judge is not None:
        tree = load_tree(LcbRbConfig, judge, [*(overrides or []), "judge.kind=llm"])
        section, config = tree.judge, config.model_copy(update={"starter": tree.starter})
    elif overrides:
        raise ConfigError("--set overrides the judge's config, and there is none. Give --judge CONFIG.")
    target = out or file.with_name(f"{file.name}.scores.json")
    from pgrpo_ray.jobs import lcb_rb_score

    lcb_rb_score.score(file, reward_model, section, config, baselines, target, Console())


@app.command()
def agree(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="candidates.jsonl of one build or several.")],
    human: Annotated[Path | None, typer.Option(metavar="CSV", help="A person's decisions (pair_id, decision).")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON report.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Say how far judges and people agree: Cohen's kappa with a 95 % interval, two by two.

    Files of candidates tell more than files of pairs, in which every decision is `accept`.
    """
    from pgrpo_ray.jobs import lcb_rb_agreement

    lcb_rb_agreement.agree(files, human, seed, out, Console())


@app.command()
def review(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="pairs.jsonl or candidates.jsonl of a build.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("review.html"),
    sample: Annotated[int | None, typer.Option(min=1, help="Show so many pairs, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of pairs and of left and right.")] = 0,
) -> None:
    """Write one self-contained HTML page on which a person judges the pairs blindly.

    It needs no network, keeps decisions in the browser, and exports them as CSV for `pgrpo lcb-rb agree --human`.
    """
    from pgrpo_ray.jobs import lcb_rb_review

    lcb_rb_review.write_page(file, out, sample, seed, Console())


def scoring_values(
    dtype: str | None, device: str | None, batch_size: int | None, max_length_tokens: int | None, seed: int | None
) -> dict[str, Any]:
    """Return what was given of a scoring section; its defaults stand in the config tree alone."""
    given = {
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "max_length_tokens": max_length_tokens,
        "seed": seed,
    }
    return {key: value for key, value in given.items() if value is not None}
