"""`pgrpo rollouts` and `pgrpo replay`: what a run's rollouts were, and what another reward would have made of them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pgrpo_ray.cli import panels
from pgrpo_ray.errors import ConfigError

app = typer.Typer()
"""Its commands are the root's: `cli` adds it without a name."""

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/local.")]


@app.command(rich_help_panel=panels.LOOK)
def rollouts(
    folder: RunFolder,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME [OTHER]]", help="Show this rollout in full; of two, what differs."),
    ] = None,
    step: Annotated[int | None, typer.Option(min=1, help="List those of this step; default the last.")] = None,
    evaluation: Annotated[str | None, typer.Option(help="List held-out ones: before, after, ...")] = None,
    problem: Annotated[str | None, typer.Option(help="Of this problem; `*` stands for any characters.")] = None,
    verdict: Annotated[
        list[str] | None, typer.Option(help="With this verdict, or not_run (no program). May be repeated.")
    ] = None,
    min_reward: Annotated[float | None, typer.Option(help="With at least this reward.")] = None,
    max_reward: Annotated[float | None, typer.Option(help="With at most this reward.")] = None,
    passed: Annotated[
        bool | None, typer.Option("--passed/--failed", help="All tests passed; or not, for a wrong format too.")
    ] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Lost to failing machinery.")] = False,
    search: Annotated[str | None, typer.Option(metavar="TEXT", help="With TEXT in response or detail.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="By reward, advantage, thinking, length, tests or duration; largest first."),
    ] = None,
    smallest_first: Annotated[bool, typer.Option("--smallest-first", help="Turns --sort round.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="List so many; 0: all.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List rollouts of a run, show one, or compare two. The run may be going on.

    A rollout is called step/problem/sample, as lists print it; held-out ones have the evaluation's name for the step.
    Control characters that a model wrote are written out, such as \\x1b. docs/rollouts.md says what the columns mean.

    Examples:

        pgrpo rollouts runs/local

        pgrpo rollouts runs/local --step 40 --failed --sort advantage --limit 10

        pgrpo rollouts runs/local 40/some-problem/3

        pgrpo rollouts runs/local 40/some-problem/3 40/some-problem/5
    """
    from pgrpo_ray.data.recorded_run import RecordedRun
    from pgrpo_ray.jobs import rollouts as job
    from pgrpo_ray.jobs import rollouts_shown
    from pgrpo_ray.obs.terminal import open_console

    verdicts, names = tuple(verdict or ()), names or []
    choice = job.Choice(problem, verdicts, min_reward, max_reward, passed, dropped, search, sort, smallest_first, limit)
    run, console = RecordedRun(folder), open_console()
    if not names:
        listing = job.choose(run, step, evaluation, choice)
        if as_json:
            _print_json(listing.rows)
        else:
            rollouts_shown.show_list(listing, str(folder), console)
        return
    if step is not None or evaluation is not None or choice != job.Choice(limit=limit):
        raise ConfigError("filters choose what is listed; leave them out with the name of a rollout.", path="NAME")
    if len(names) > 2:
        raise ConfigError("give one name to show a rollout, two to compare them.", path="NAME")
    found = [job.find(run, name) for name in names]
    if len(found) == 1:
        ((row, group),) = found
        _print_json(row) if as_json else rollouts_shown.show_one(row, group, console)
        return
    (first, _), (second, _) = found
    if as_json:
        _print_json({"rollouts": [first, second], "differences": rollouts_shown.differences(first, second)})
    else:
        rollouts_shown.show_two(first, second, console)


@app.command(rich_help_panel=panels.LOOK)
def replay(
    folder: RunFolder,
    step: Annotated[int | None, typer.Option(min=1, help="This step in detail; default all steps.")] = None,
    reward: Annotated[
        str | None, typer.Option(metavar="RULE", help="algo.reward of the other arm; default the run's own.")
    ] = None,
    advantage: Annotated[
        str | None, typer.Option(metavar="EST", help="algo.advantage of the other arm; default the run's own.")
    ] = None,
    std_floor: Annotated[
        float | None, typer.Option(help="algo.advantage_std_floor of the other arm; default the run's own.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Name so many of the rollouts that change most.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the same to.")] = None,
) -> None:
    """Reward a run's rollouts again under another arm, and say what that changes.

    The run's own arm is recomputed first and must come out as it was recorded, to the last bit; else the exit status is
    1 and the first row that differs is named. Without --reward, --advantage and --std-floor that is all. What the
    record does not tell, such as scores that nobody asked for, is counted and left out, never guessed.

    Examples:

        pgrpo replay runs/local

        pgrpo replay runs/local --step 40 --reward outcome_only

        pgrpo replay runs/local --advantage dr_grpo --out replay.json
    """
    from pgrpo_ray.data.recorded_run import RecordedRun
    from pgrpo_ray.jobs import replay as job
    from pgrpo_ray.jobs import replay_report
    from pgrpo_ray.obs.disk import check_out, write_out
    from pgrpo_ray.obs.terminal import open_console

    if out is not None:
        check_out(out)
    given = {"algo.reward": reward, "algo.advantage": advantage, "algo.advantage_std_floor": std_floor}
    # JSON is YAML, so a rule named `a: b` stays a text.
    told = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    found = job.replay(RecordedRun(folder), told, step, limit)
    if out is not None:
        write_out(out, json.dumps(found, indent=2) + "\n")
    if as_json:
        _print_json(found)
    else:
        replay_report.show(found, open_console())


def _print_json(tree: Any) -> None:
    """Print ASCII alone, so that no control character is left."""
    typer.echo(json.dumps(tree, indent=2))
