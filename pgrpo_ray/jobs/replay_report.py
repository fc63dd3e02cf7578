"""How a replay looks in a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pgrpo_ray.obs.terminal import visible


def show(found: dict[str, Any], console: Console) -> None:
    """Print what `jobs.replay.replay` found: a line a step where there are several, then what they come to."""
    total, steps = found["total"], found["steps"]
    own, other = found["recorded"], found["replayed"]
    scope = f"step {steps[0]['step']}" if len(steps) == 1 else f"{len(steps)} steps"
    _say(
        console,
        f"{scope}, {total['rollouts']} rollouts: the run's own arm ({_arm(own)}) comes out as recorded, bit for bit",
    )
    if own == other:
        return
    _say(console, f"the same under {_arm(other)}:")
    if any(total["unknown"].values()):
        _say(console, _unknown(total, found["would_record"]), "yellow")
    if len(steps) > 1:
        console.print(_lines(steps, total))
    if not total["compared_rollouts"]:
        return
    console.print(_means(total))
    _say(
        console,
        f"advantages of {total['signs_changed']} rollouts change their sign, of {total['ranks_changed']} their rank in "
        f"the group; {total['groups_gained']} groups gain a gradient, {total['groups_lost']} lose theirs",
    )
    if found["most_changed"]:
        console.print(_most_changed(found["most_changed"]))
        _say(console, f"one in full: pgrpo rollouts {found['run']} {found['most_changed'][0]['name']}")


def _arm(arm: dict[str, Any]) -> str:
    return f"{arm['reward']}, {arm['advantage']}, floor {arm['advantage_std_floor']:g}"


def _unknown(total: dict[str, Any], would_record: list[str]) -> str:
    words = {"thinking_reward": "were never scored", "pass_frac": "were ended at their first failed test"}
    parts = [f"{count} {words[name]}" for name, count in total["unknown"].items() if count]
    left_out = total["groups"] - total["compared_groups"]
    return (
        f"unknown: this arm reads more than the run recorded. Of {total['rollouts']} rollouts {', '.join(parts)}, so "
        f"{left_out} of {total['groups']} groups are left out. A run with {' and '.join(would_record)} records it."
    )


def _lines(steps: list[dict[str, Any]], total: dict[str, Any]) -> Table:
    names = ("step", "rollouts", "unknown", "reward", "sign", "rank", "gradient", "gain", "lose")
    table = Table(*names, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    for line in [*steps, total]:
        was, now = line["recorded"], line["replayed"]
        table.add_row(
            str(line.get("step", "all")),
            str(line["rollouts"]),
            str(sum(line["unknown"].values())),
            f"{_number(was['reward'])} -> {_number(now['reward'])}",
            str(line["signs_changed"]),
            str(line["ranks_changed"]),
            f"{was['groups_with_gradient']} -> {now['groups_with_gradient']}",
            str(line["groups_gained"]),
            str(line["groups_lost"]),
        )
    return table


def _means(total: dict[str, Any]) -> Table:
    """Means by term, and what each owns of the advantages' variance."""
    was, now = total["recorded"], total["replayed"]
    table = Table("", "recorded", "replayed", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in {**was["terms"], **now["terms"]}:
        table.add_row(Text(visible(f"mean {name}")), *(_number(one["terms"].get(name)) for one in (was, now)))
    table.add_row("mean reward", *(_number(one["reward"]) for one in (was, now)))
    for name in {**was["advantage_shares"], **now["advantage_shares"]}:
        shares = (_percent(one["advantage_shares"].get(name)) for one in (was, now))
        table.add_row(Text(visible(f"share of the advantages' variance, {name}")), *shares)
    for key in ("groups_with_gradient", "dropped", "masked"):
        table.add_row(key.replace("_", " "), *(str(one[key]) for one in (was, now)))
    return table


def _most_changed(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "changes most", "verdict", "reward", "", "advantage", "", box=None, pad_edge=False, header_style="bold"
    )
    table.columns[0].overflow = "fold"  # a name must be whole to be copied
    for row in rows:
        cells = [Text(visible(row["name"])), Text(visible(row["verdict"] or "not_run"))]
        for key in ("reward", "advantage"):
            cells += [Text(_number(row["recorded"][key])), Text(f"-> {_number(row['replayed'][key])}")]
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(visible(text), style=style), soft_wrap=True)
