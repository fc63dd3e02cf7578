"""`pgrpo lcb-rb agree`: how far judges and people decide alike, two by two."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.disk import check_out, write_json
from pgrpo_ray.obs.display import interval_cell
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.reward_model.lcb_rb.agreement import compare, read_decisions
from pgrpo_ray.reward_model.lcb_rb.schema import UNPARSED


def agree(files: Sequence[Path], human: Path | None, seed: int, out: Path | None, console: Console) -> dict[str, Any]:
    """Compare the decisions of judges (files of pairs or candidates) and a person, two by two; print and return them.

    An `unparsed` candidate was not decided and is left out. Raises `DataError` where two raters share no pair.
    """
    raters: dict[str, dict[str, str]] = {}
    groups: dict[str, str] = {}  # the problem of each pair
    for file in files:
        pairs = schema.read_pairs(file)
        groups |= {pair.id: pair.problem_id for pair in pairs}
        raters[str(file)] = {pair.id: pair.decision for pair in pairs if pair.decision != UNPARSED}
    if human is not None:
        raters[str(human)] = read_decisions(human)
    if len(raters) < 2:
        raise DataError("is the only rater. Give a second file, or a person's decisions with --human.", str(files[0]))
    names = list(raters)
    if out is not None:
        check_out(out, inputs=[*files, *([human] if human else [])])
    found = []
    table = Table()
    for name in ("first", "second", "both rated", "agree", "kappa", "95 % interval"):
        table.add_column(name, overflow="fold")
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            one = compare(raters[first], raters[second], groups, seed)
            if one is None:
                raise DataError(f"shares no pair with {first}. Were they made of the same samples and seed?", second)
            found.append({"first": first, "second": second, **one.to_json()})
            kappa = "not defined" if one.kappa is None else f"{one.kappa:.3f}"
            interval = interval_cell(one.low, one.high, scale=1, digits=3)
            cells = (str(one.num_items), f"{100 * one.agreement_frac:.1f} %", kappa, interval)
            table.add_row(escape(first), escape(second), *cells)
    console.print(table)
    if any(one["kappa"] is None for one in found):
        console.print("kappa is not defined where both always say the same one word: compare files of candidates.")
    report = {"agreement": found}
    if out is not None:
        write_json(out, report)
    return report
