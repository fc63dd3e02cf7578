"""The ledger of a run: every rollout that was asked for, and what became of it.

A request for a group gets the next number when it is issued, and stays open until each of its rollouts has a fate. Then
it is settled, once: a second time is an error, as is a number that nobody issued. So at any moment

    issued = open + settled(trained) + settled(any other fate)

and what is open is exactly what a resumed run must ask for again. Settled rollouts go to the run's folder, a file a
step (`LEDGER_SCHEMA`); numbers that are open go into the checkpoint.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pgrpo_ray.data.arrow import read_ipc
from pgrpo_ray.errors import DataError, StageError

FATES = ("trained", "no_gradient", "cut", "execution_error", "thinking_error", "too_old", "not_needed")
"""What can become of a rollout: trained on; without a gradient in its group; masked as cut; lost to failing machinery
when its program was judged or its reasoning scored; older than `algo.max_staleness` allows; asked for ahead of a step
that was not taken."""
TRAINED, NO_GRADIENT, TOO_OLD, NOT_NEEDED = map(FATES.index, ("trained", "no_gradient", "too_old", "not_needed"))

LEDGER_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),  # of the request, from 0 in the order of issuing
        ("problem_id", pa.string()),
        ("epoch", pa.int32()),  # pass over the problems that it was asked for in, from 0
        ("issued_step", pa.int32()),  # whose problem it is, from 1
        ("sample_index", pa.int32()),  # in the group
        ("settled_step", pa.int32()),
        ("fate", pa.dictionary(pa.int8(), pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An open request."""

    problem_id: str
    epoch: int
    step: int
    """That issued it."""


class Ledger:
    """For one thread."""

    def __init__(self, group_size: int, issued: int = 0, settled: Mapping[str, int] | None = None):
        """`issued`: groups before now; `settled`: rollouts before now, by fate."""
        self._group_size = group_size
        self._open: dict[int, Entry] = {}
        self.issued = issued
        """Groups."""
        self.settled = Counter(settled or {})
        """Rollouts by fate."""
        self._rows: list[tuple[int, Entry, int, np.ndarray]] = []

    def issue(self, problem_ids: Sequence[str], epoch: int, step: int) -> range:
        """Enter requests; return their numbers."""
        numbers = range(self.issued, self.issued + len(problem_ids))
        self.issued = numbers.stop
        self.reopen(dict(zip(numbers, (Entry(problem_id, epoch, step) for problem_id in problem_ids), strict=True)))
        return numbers

    def reopen(self, entries: Mapping[int, Entry]) -> None:
        """Enter requests that were issued before a checkpoint and not settled by then."""
        self._open |= entries

    def settle(self, step: int, number: int, fates: np.ndarray) -> None:
        """Close a request in `step`; `fates` [G]: of each rollout its index in `FATES`. Raises `StageError`."""
        entry = self._open.pop(number, None)
        if entry is None or len(fates) != self._group_size:
            raise StageError(
                f"driver: group {number} was to be settled with {len(fates)} rollouts in step {step}, but "
                + ("it is not open: it came twice, or nobody asked for it." if entry is None else "that is no group."),
                stage="driver",
            )
        self._rows.append((number, entry, step, fates))
        self.settled.update({FATES[fate]: count for fate, count in enumerate(np.bincount(fates).tolist()) if count})

    def is_open(self, number: int) -> bool:
        """Whether a request has been issued and not settled."""
        return number in self._open

    def entry(self, number: int) -> Entry:
        """Return an open request."""
        return self._open[number]

    def check(self) -> None:
        """Raise `StageError` unless every rollout that was asked for is open or settled."""
        there = len(self._open) * self._group_size + self.settled.total()
        if there != self.issued * self._group_size:
            raise StageError(
                f"driver: rollouts were lost: {self.issued * self._group_size} were asked for, {there} are open or "
                f"settled ({dict(self.settled)}).",
                stage="driver",
            )

    def take(self) -> pa.Table:
        """Return what was settled since the last time, in that order."""
        rows, self._rows = self._rows, []
        each = np.repeat(np.arange(len(rows)), self._group_size)
        fates = np.concatenate([fates for *_, fates in rows]) if rows else np.zeros(0, np.int64)
        columns = {
            "number": [number for number, *_ in rows],
            "problem_id": [entry.problem_id for _, entry, *_ in rows],
            "epoch": [entry.epoch for _, entry, *_ in rows],
            "issued_step": [entry.step for _, entry, *_ in rows],
            "settled_step": [step for _, _, step, _ in rows],
        }
        table = pa.table({name: pa.array(values, LEDGER_SCHEMA.field(name).type) for name, values in columns.items()})
        samples = pa.array(np.tile(np.arange(self._group_size), len(rows)), pa.int32())
        names = pa.DictionaryArray.from_arrays(pa.array(fates, pa.int8()), list(FATES))
        table = table.take(each).append_column("sample_index", samples).append_column("fate", names)
        return table.select(LEDGER_SCHEMA.names)


def audit(folder: Path) -> dict[str, int]:
    """Read a run's ledger; return how many rollouts have each fate, how many groups, and how many are open or unknown.

    Raises `DataError` where a rollout was settled twice.
    """
    files = sorted(folder.glob("*.arrow"))
    if not files:
        raise DataError("holds no ledger (*.arrow). Give the `ledger` folder of a run.", str(folder))
    table = pa.concat_tables([read_ipc(file).cast(LEDGER_SCHEMA) for file in files]).combine_chunks()
    numbers = table["number"].to_numpy()
    keys = numbers * (1 << 20) + table["sample_index"].to_numpy()
    _, counts = np.unique(keys, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{int((counts > 1).sum())} rollouts were settled more than once.", str(folder))
    groups = np.unique(numbers)
    fates = Counter(table["fate"].to_pylist())
    return {"groups": len(groups), "missing_groups": int(groups.max()) + 1 - len(groups), **fates}
