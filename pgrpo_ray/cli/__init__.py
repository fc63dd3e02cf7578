"""The door: `pgrpo train | check | grade | doctor`, and the groups of commands in the modules beside.

Owns arguments and panels; `failures` says how a command ends. Commands import what they need when they run, so `--help`
answers at once, and after their config is read, so a slip in it is told at once.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray import __version__
from pgrpo_ray import config as configuration
from pgrpo_ray.cli import completion, data, evaluation, failures, lcb_rb, panels, report, rm, rollouts
from pgrpo_ray.errors import ConfigError, EnvironmentFault

app = typer.Typer(
    cls=panels.CommandsByPanel,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(evaluation.app)
app.add_typer(report.app)
app.add_typer(rollouts.app)
app.add_typer(rm.app, name="rm", rich_help_panel=panels.REWARD_MODEL)
app.add_typer(lcb_rb.app, name="lcb-rb", rich_help_panel=panels.REWARD_MODEL)
app.add_typer(data.app, name="data", rich_help_panel=panels.DATA)

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="YAML file, such as cluster/local.yaml", autocompletion=completion.config_files
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one key, such as rollout.group_size=16. May be repeated."),
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pgrpo_ray {__version__}")
        raise typer.Exit


@app.callback()
def pgrpo(
    debug: Annotated[bool, typer.Option(failures.DEBUG, help="With an error, print its traceback as well.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:  # `failures.status_of` takes --debug from wherever it stands; here it is listed
    """Posterior-GRPO on Ray: reasoning is rewarded, but only when the program passes all tests.

    Start with `pgrpo doctor`, then `pgrpo train cluster/local.yaml`.
    """


@app.command(rich_help_panel=panels.TRAIN)
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    resume_from: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on from this checkpoint of the run, such as step-000020.")
    ] = None,
    resume_if_any: Annotated[
        bool, typer.Option(help="Go on from the newest checkpoint where there is one, else begin: for jobs.")
    ] = False,
) -> None:
    """Train a policy with P-GRPO and leave a record under runs/<name>/.

    Examples:

        pgrpo train cluster/local.yaml

        pgrpo train cluster/local.yaml --resume

        pgrpo train cluster/local.yaml --set policy.model=/models/my-model --set data.problems=my.jsonl
    """
    if resume + resume_if_any + (resume_from is not None) > 1:
        raise ConfigError(
            "--resume, --resume-from and --resume-if-any each say where to go on. Give one of them.", path="--resume"
        )
    resolved = configuration.load(config, overrides)
    from pgrpo_ray import launch

    named = launch.LATEST if resume else launch.LATEST_IF_ANY if resume_if_any else resume_from
    launch.run(resolved, Console(), named)


@app.command(rich_help_panel=panels.TRAIN)
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    gpu_gib: Annotated[float, typer.Option(min=1, help="Memory of one GPU, GiB, to compare with.")] = 80.0,
    on_cluster: Annotated[
        bool, typer.Option(help="Also ask the Ray cluster at cluster.address whether its nodes can hold the run.")
    ] = False,
) -> None:
    """Validate a config, resolve it and print the numbers that follow; start nothing.

    Refuses settings that can give no gradient, and roles whose weights, optimizer and KV cache exceed their GPU. What
    each role holds and takes of a node is shown before this machine is looked at, so a run can be planned elsewhere.
    Exit status 2 when something is wrong, 1 when a machine lacks something.
    """
    resolved = configuration.load(config, overrides)
    from pgrpo_ray.cli import memory, placement
    from pgrpo_ray.obs.display import warn_weak_sandbox
    from pgrpo_ray.preflight.problems import encode
    from pgrpo_ray.preflight.reward import plan_reward
    from pgrpo_ray.preflight.run import examine

    console = Console()
    if plans := memory.plans_of(resolved, gpu_gib):
        memory.show(plans, gpu_gib, console)
    sized = plan_reward(resolved).sized(resolved)
    placement.show(sized, _offers(sized) if on_cluster else None, console)
    table = Table("derived", "value", title=f"{config}: {resolved.run.name}")
    for name, value in asdict(configuration.derive(resolved)).items():
        table.add_row(name, f"{value:,}")
    examined = examine(resolved)
    table.add_row("sandbox", examined.sandbox.kind)
    if examined.problems:
        table.add_row(
            "problems", f"{len(examined.problems.train):,} train, {len(examined.problems.heldout):,} held out"
        )
    table.add_row("policy parameters", f"{examined.policy.num_parameters:,}")
    held_mib = {} if plans else memory.rough_mib(resolved, examined.policy.num_parameters)
    if examined.sandbox.kind != "maths":
        held_mib["all containers"] = resolved.sandbox.slots * resolved.sandbox.memory_mib
    for role, mib in held_mib.items():
        table.add_row(f"memory, {role}", f"{mib:,.0f} MiB (libraries and activations on top)")
    if examined.problems and resolved.policy.model != configuration.STARTER:
        prompts = encode(resolved, resolved.policy.model, examined.problems)
        table.add_row("longest prompt", f"{max(map(len, prompts.values())):,} tokens")
    console.print(table)
    if examined.sandbox.kind == "process":
        warn_weak_sandbox(console, examined.sandbox.reason)
    for warning in examined.reward.warnings:
        console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)
    console.print("[green]ok[/green]")


def _offers(config: configuration.RunConfig) -> dict[str, dict[str, float]]:
    """Return what the nodes of a run's cluster offer. Raises `EnvironmentFault` where they cannot hold it."""
    from pgrpo_ray.actors import cluster, reservation

    if config.cluster.address == "local":
        raise ConfigError(
            "cluster.address is 'local', so there is no cluster to ask. Give --set cluster.address=auto on one of its "
            "nodes, or its address.",
            path="cluster.address",
        )
    with reservation.ray_session(config):
        return cluster.offers()


@app.command("config", rich_help_panel=panels.TRAIN)
def print_config(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="local, or another; without it, names are listed.")
    ] = "",
) -> None:
    """Print one of the configs that come with the package, as a file to begin with.

    Examples:

        pgrpo config

        pgrpo config local > my.yaml
    """
    from pgrpo_ray.cli import recipes

    typer.echo(recipes.text(name) if name else "\n".join(recipes.configs()), nl=not name)


@app.command(rich_help_panel=panels.DATA)
def grade(
    problems: Annotated[Path, typer.Option(help="File of problems.")],
    programs: Annotated[Path, typer.Option(help='JSONL of {"problem_id", "program"} lines; an answer counts as one.')],
    out: Annotated[Path, typer.Option(help="JSONL to write: the same lines, in order, with their verdicts.")],
    format: Annotated[str, typer.Option(help="jsonl, humaneval, math500 or another (docs/problems.md).")] = "jsonl",
    backend: Annotated[str, typer.Option(help="auto, docker or process.")] = "auto",
    slots: Annotated[int, typer.Option(min=1, help="Programs judged at a time.")] = 2,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End a program at its first failing test.")] = False,
) -> None:
    """Judge programs in the execution pool.

    Adds verdict, tests_passed, tests_total, first_failed, duration_ms, cpu_ms, peak_mib, detail and sandbox to each
    line (docs/sandbox.md says what they mean). A verdict of null with an `error` means that the sandbox failed, not the
    program; the exit status is then 1.
    """
    from pgrpo_ray import grading

    config = configuration.parse(
        {"sandbox": {"backend": backend, "slots": slots, "fail_fast": fail_fast}}, where="grade"
    )
    errors = grading.grade_file(problems, format, programs, out, config, Console(stderr=True))
    if errors:
        raise EnvironmentFault(f"{errors} programs could not be judged: see `error` in {out}.")


@app.command(rich_help_panel=panels.MACHINE, short_help="Look at this machine; say how to fix what is wrong.")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable findings.")] = False) -> None:
    """Look at this machine: versions, Docker, devices, shared memory, disk; say how to fix what is wrong.

    Exit status 1 when a local run would not work.
    """
    from pgrpo_ray import diagnosis

    findings = diagnosis.examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        console = Console()
        colour = {"ok": "green", "warning": "yellow", "error": "bold red"}
        for finding in findings:
            mark = f"[{colour[finding.level]}]{finding.level:>7}[/]"
            console.print(f"{mark}  {escape(finding.subject)}: {escape(finding.text)}", highlight=False, soft_wrap=True)
            if finding.fix:
                console.print(f"         fix: {escape(finding.fix)}", highlight=False, soft_wrap=True)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; turn the project's errors into a message and an exit status."""
    sys.exit(failures.status_of(app, sys.argv[1:]))
