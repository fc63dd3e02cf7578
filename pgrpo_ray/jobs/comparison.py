"""`pgrpo compare`: two results, or two folders of results.

Results of two folders belong together where their own folders have the same name.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray.data.records import did_you_mean
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.evaluation.comparison import COMPARABLE, Comparison, compare_results
from pgrpo_ray.evaluation.results import SAMPLES, Result, load_result
from pgrpo_ray.obs.disk import check_out, write_out

_EXPLAINED = {
    "mcnemar": "p: McNemar's exact test over the problems that only one of them solved",
    "sign_flip": "p: random swaps of A and B within each problem; `only A` counts problems on which A did better",
}
_NEVER = ("benchmark", "problems", "num_problems")


def compare(
    first: Path, second: Path, allowed: Sequence[str], out: Path | None, seed: int, console: Console
) -> list[Comparison]:
    """Print one table of B against A and return its rows. Raises the project's errors before anything is printed."""
    known = [key for key in COMPARABLE if key not in _NEVER]
    for key in allowed:
        if key not in known:
            raise ConfigError(f"--allow {key}: is no setting that may differ. {did_you_mean(key, known)}")
    if out is not None:
        check_out(out)
    pairs = _pairs(first, second)
    found = [(_label(one, len(pairs)), row) for one, two in pairs for row in compare_results(one, two, allowed, seed)]
    rows = [row for _, row in found]
    table = Table(
        *("benchmark", "problems", "A", "B", "B - A (95 % interval)", "only A", "only B", "p", "tokens A", "tokens B"),
        title=escape(f"pass@1: A = {_who(pairs[0][0])}, B = {_who(pairs[0][1])}"),
    )
    for label, row in found:
        table.add_row(*_cells(label, row))
    console.print(table)
    for test in dict.fromkeys(row.difference.test for row in rows):
        console.print(_EXPLAINED[test], highlight=False)
    differing = [key for key in allowed if any(one.settings.get(key) != two.settings.get(key) for one, two in pairs)]
    if differing:
        console.print(f"[yellow]A and B differ in {', '.join(differing)}[/yellow]", highlight=False)
    if out is not None:
        facts = {"first": str(first), "second": str(second), "differing": differing}
        text = json.dumps(facts | {"rows": [{"name": label} | row.to_json() for label, row in found]}, indent=2)
        write_out(out, f"{text}\n")
    return rows


def _pairs(first: Path, second: Path) -> list[tuple[Result, Result]]:
    """Load what stands on both sides. Raises `DataError` when one side has a result that the other has not."""
    if (first / SAMPLES).is_file() or (second / SAMPLES).is_file():
        return [(load_result(first), load_result(second))]
    sides = [_results(folder) for folder in (first, second)]
    lacking = sorted(set(sides[0]) ^ set(sides[1]))
    if lacking:
        there = first if lacking[0] in sides[0] else second
        raise DataError(f"holds a result {lacking[0]}, the other folder does not. Evaluate both.", str(there))
    return [(sides[0][name], sides[1][name]) for name in sides[0]]


def _results(folder: Path) -> dict[str, Result]:
    """Return the results in a folder's own folders by name. Raises `DataError` where there are none."""
    found = {path.parent.name: load_result(path.parent) for path in sorted(folder.glob(f"*/{SAMPLES}"))}
    if not found:
        raise DataError(f"has no {SAMPLES}, and no folder in it has. Give a result of `pgrpo eval`.", str(folder))
    return found


def _who(result: Result) -> str:
    return str(result.settings.get("model") or f"{result.settings.get('solutions')} solutions")


def _label(result: Result, num_results: int) -> str:
    """Name a row: by the folder where there are several, as one benchmark may have two, such as all and hard."""
    return result.folder.name if num_results > 1 else result.benchmark


def _cells(label: str, row: Comparison) -> tuple[str, ...]:
    change = row.difference
    return (
        escape(f"{label}, {row.bucket}" if row.bucket else label),
        str(change.num_problems),
        f"{100 * row.first:.1f} %",
        f"{100 * row.second:.1f} %",
        f"{100 * change.value:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})",
        str(change.only_first),
        str(change.only_second),
        f"{change.p_value:.3f}" if change.p_value >= 0.0005 else "< 0.0005",
        f"{row.first_tokens:.1f}",
        f"{row.second_tokens:.1f}",
    )
