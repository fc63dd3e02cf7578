"""How rollouts look in a terminal: a list, one in full, two side by side.

Every text goes through `obs.terminal.visible` and is printed as `Text`, never as markup: a model wrote it.
"""

import difflib
import re
from typing import Any

from rich.console import Console, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from pgrpo_ray.jobs.rollouts import NOT_RUN, Listing
from pgrpo_ray.obs.terminal import visible, visible_lines
from pgrpo_ray.types import Verdict

TERMS = ("reward_format", "reward_outcome", "reward_thinking", "reward_other", "reward", "advantage")
"""Columns with a number of a rollout's reward, in the order in which they are shown."""
_THEME = "ansi_dark"
_SENTENCE = re.compile(r"(?<=[.;:!?])\s+")
_DIFF_STYLE = {"+": "green", "-": "red", "@": "cyan"}


def show_list(listing: Listing, run: str, console: Console) -> None:
    """Print a list, a line a rollout, and how to see more of them."""
    names = ["name", "verdict", "tests", "tokens"]
    names += ["R^t", "reward", "advantage", "left out"] if listing.rewarded else []
    table = Table(*names, box=None, pad_edge=False, header_style="bold")
    table.columns[0].overflow = "fold"  # a name must be whole to be copied
    for name, column in zip(names[1:], table.columns[1:], strict=True):
        column.no_wrap = True
        column.justify = "left" if name in ("verdict", "left out") else "right"
    for row in listing.rows:
        cells: list[RenderableType] = [
            Text(visible(row["name"])),
            _verdict(row),
            _tests(row),
            str(row["response_length"]),
        ]
        if listing.rewarded:
            cells += [_number(row[name]) for name in ("thinking_reward", "reward", "advantage")]
            cells.append(row["dropped"] or row["masked"] or "")
        table.add_row(*cells)
    console.print(table)
    source = f"step {listing.source}" if isinstance(listing.source, int) else f"evaluation {listing.source}"
    _say(
        console,
        f"{source}: {listing.total} rollouts of {listing.problems} problems, {listing.passed} passed; "
        f"{len(listing.rows)} of {listing.matching} shown",
    )
    if listing.rows and console.is_terminal:
        _say(console, f"one in full: pgrpo rollouts {run} {listing.rows[0]['name']}; give two names to compare them")


def show_one(row: dict[str, Any], group: list[dict[str, Any]], console: Console) -> None:
    """Print a rollout: facts, prompt, reasoning, program."""
    console.print(Text(visible(row["name"]), style="bold"), soft_wrap=True)
    facts = Table.grid("", "", padding=(0, 2))
    for name, value in (_facts(row) | {"its group": _group(group)}).items():
        facts.add_row(name, value)
    console.print(facts)
    parts = [("prompt", row["prompt"])]
    if row["format_ok"]:
        parts += [("reasoning", row["thinking"]), ("program", row["program"])]
    else:
        parts.append(("response, whose format is wrong", row["response"]))
    for title, text in parts:
        _heading(console, title)
        coloured = title == "program" and console.is_terminal and row.get("sandbox") != "maths"
        console.print(_program(text) if coloured else Text(visible_lines(text)), soft_wrap=True)


def show_two(first: dict[str, Any], second: dict[str, Any], console: Console) -> None:
    """Print two rollouts: their numbers side by side, then what differs in reasoning and program."""
    table = Table("", box=None, pad_edge=False, header_style="bold")
    for row in (first, second):
        table.add_column(Text(visible(row["name"])), overflow="fold")
    one, other = _facts(first), _facts(second)
    for name in one | other:
        table.add_row(name, one.get(name, "-"), other.get(name, "-"))
    console.print(table)
    if first["prompt"] != second["prompt"]:
        _say(console, "they answer different prompts")
    for title, lines in differences(first, second).items():
        _heading(console, title)
        for line in lines or ["(the same)"]:
            console.print(Text(visible(line, keep="\t"), style=_DIFF_STYLE.get(line[:1], "")), soft_wrap=True)


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, list[str]]:
    """Return unified diffs of reasoning and program, or of the whole responses where a format is wrong.

    Long lines are cut at the ends of sentences first, as reasoning often is one line.
    """
    well_formed = first["format_ok"] and second["format_ok"]
    parts = {"reasoning": "thinking", "program": "program"} if well_formed else {"response": "response"}
    names = first["name"], second["name"]
    return {
        title: list(difflib.unified_diff(_lines(first[column]), _lines(second[column]), *names, lineterm=""))
        for title, column in parts.items()
    }


def _lines(text: str) -> list[str]:
    return [piece for line in text.split("\n") for piece in (_SENTENCE.split(line) if len(line) > 100 else [line])]


def _facts(row: dict[str, Any]) -> dict[str, RenderableType]:
    """What is known of a rollout beside its texts, by name."""
    spans = zip(row["versions"], row["version_starts"], strict=True)
    facts: dict[str, RenderableType] = {
        "verdict": Text.assemble(_verdict(row), f"  {_tests(row)} tests"),
        "first failed test": _first_failed(row),
        "detail": Text(visible(row["detail"])),
        "sandbox": f"{row['sandbox'] or '-'}, {_costs(row)}",
        "tokens": f"{row['prompt_length']} prompt, {row['response_length']} response ({row['finish_reason']})",
        "policy version": ", ".join(f"{version} from token {start}" for version, start in spans),
    }
    if "reward" in row:
        facts |= {name.replace("_", " "): _number(row[name]) for name in TERMS}
        facts |= {"R^t": _number(row["thinking_reward"]), "left out": row["dropped"] or row["masked"] or "-"}
    for name in ("execution_error", "thinking_error"):
        if row.get(name) is not None:
            facts[name.replace("_", " ")] = Text(visible(row[name]))
    return facts


def _costs(row: dict[str, Any]) -> str:
    return f"{row['duration_ms']:.0f} ms, CPU {row['cpu_ms']:.0f} ms, {row['peak_mib']:.0f} MiB"


def _group(group: list[dict[str, Any]]) -> str:
    passed = sum(row["verdict"] == Verdict.PASSED for row in group)
    rewards = [row["reward"] for row in group if row.get("reward") is not None]
    mean = f", mean reward {sum(rewards) / len(rewards):.3f}" if rewards else ""
    return f"{len(group)} rollouts, {passed} passed{mean}"


def _verdict(row: dict[str, Any]) -> Text:
    if row["execution_error"] is not None:
        return Text("machinery failed", style="magenta")
    word = visible(row["verdict"] or NOT_RUN)
    return Text(word, style="green" if word == Verdict.PASSED else "red")


def _tests(row: dict[str, Any]) -> str:
    return f"{row['tests_passed']}/{row['tests_total']}"


def _first_failed(row: dict[str, Any]) -> str:
    return "-" if row["first_failed"] is None else f"number {row['first_failed']}, counted from 0"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _program(text: str) -> Text:
    language = "cpp" if "#include" in text else "python"  # the record does not say; only colours follow from it
    return Syntax("", language, theme=_THEME, background_color="default").highlight(visible_lines(text))


def _heading(console: Console, title: str) -> None:
    console.print(Text(f"\n--- {title}", style="bold"), soft_wrap=True)


def _say(console: Console, text: str) -> None:
    console.print(Text(visible(text)), soft_wrap=True)
