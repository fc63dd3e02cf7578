"""What `pgrpo rm pairs` and `pgrpo rm inspect` show: counts, and how well shortcuts tell the sides apart."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray.obs.disk import check_out, write_out
from pgrpo_ray.reward_model.od.shortcuts import WARN_ABOVE, ShortcutReport, examine
from pgrpo_ray.reward_model.pairs import sample_pairs

SAMPLE = 20_000
"""Pairs of a larger file that shortcuts are measured on: the interval is then below a percent wide."""


def examine_file(path: Path) -> ShortcutReport:
    """Measure the shortcuts of a file of pairs. Raises `DataError` for a pair that is not usable."""
    return examine(sample_pairs(path, SAMPLE, seed=0))


def inspect(path: Path, out: Path | None, console: Console) -> ShortcutReport:
    """Show what shortcuts tell of any file of pairs; write it as JSON to `out` where that is given."""
    if out is not None:
        check_out(out, inputs=[path])
    report = examine_file(path)
    if out is not None:
        write_out(out, json.dumps({"file": str(path)} | report.to_json(), indent=2) + "\n")
    show_shortcuts(report.to_json(), str(path), console)
    return report


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report of a job that made pairs."""
    table = Table("", "number", title=escape(report["out"]))
    calls, pairs = report["calls"], report["pairs"]
    if "problems" in report:
        table.add_row("problems", f"{report['problems']:,}")
        if report["duplicate_problems"]:
            table.add_row("problems left out: same statement as another", f"{report['duplicate_problems']:,}")
        for stage, count in calls["parsed"].items():
            table.add_row(f"{stage}: answers with a reasoning", f"{count:,}")
        for stage, reasons in calls["failed"].items():
            for reason, count in reasons.items():
                table.add_row(f"[yellow]{stage}: no reasoning, {reason.replace('_', ' ')}[/]", f"{count:,}")
        for stage, count in calls["unanswered"].items():
            table.add_row(f"[red]{stage}: no answer[/]", f"{count:,}")
        if calls["not_asked"]:
            table.add_row("versions not asked for: no original", f"{calls['not_asked']:,}")
        tokens = report["tokens"]
        table.add_row("tokens: prompts, answers", f"{tokens['prompt']:,}, {tokens['completion']:,}")
        if report["cost"]:
            table.add_row("cost", f"{report['cost']:,.2f}")
    table.add_row("pairs before filters", f"{pairs['made']:,}")
    for reason, count in pairs["dropped"].items():
        table.add_row(f"left out: {reason.replace('_', ' ')}", f"{count:,}")
    table.add_row("[bold]pairs[/]", f"[bold]{pairs['kept']:,}[/]")
    for kind, count in pairs["by_kind"].items():
        table.add_row(f"  {kind}", f"{count:,}")
    console.print(table)
    if because := calls["rejected_because"]:
        console.print(
            f"[bold yellow]rejected requests[/] are asked again by the same command; the last was told: "
            f"{escape(because)}",
            highlight=False,
            soft_wrap=True,
        )
    if report["shortcuts"]:
        show_shortcuts(report["shortcuts"], report["out"], console)


def show_shortcuts(found: dict[str, Any], name: str, console: Console) -> None:
    """Print both measurements, and say loudly when one of them separates the sides."""
    table = Table("pairs ordered rightly by", "the longer side", "a bag of words")
    table.title = f"shortcuts in {found['num_pairs']:,} pairs of {found['num_problems']:,} problems"
    keys = ("longer_wins", "bag_of_words")
    table.add_row("all, with 95 % interval", *(_cell(found[key], interval=True) for key in keys))
    for kind in found["longer_wins_by_kind"]:
        table.add_row(f"  {kind}", *(_cell(found[f"{key}_by_kind"].get(kind)) for key in keys))
    console.print(table)
    for sentence in found["warnings"]:
        console.print(
            f"[bold red]warning:[/] {escape(name)}: {sentence} (above {100 * WARN_ABOVE:.0f} %, and not by chance): a "
            "reward model can learn that instead of reasoning.",
            highlight=False,
            soft_wrap=True,
        )
    if found["warnings"] and found["words_of_better"]:
        console.print(f"  words of the better side: {escape(' '.join(found['words_of_better']))}", highlight=False)
        console.print(f"  words of the worse side:  {escape(' '.join(found['words_of_worse']))}", highlight=False)


def _cell(share: dict[str, Any] | None, interval: bool = False) -> str:
    if share is None:
        return "unknown"
    text = f"{100 * share['accuracy']:.1f} %"
    if not interval or share["low"] is None:
        return text
    return f"{text} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"
