"""Writing a run's checkpoints beside the run.

Who waits for whom: `begin` waits until every learner rank has copied its state to its host's memory, which is all that
training waits for. Then ranks and recorder write their files while the run goes on. `poll`, and `finish`, which comes
before the next one, commit what has been written whole; nothing else makes a checkpoint. One that fails, such as on a
full disk, is told, and leaves those before it; too many in a row end the run.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import ray
from rich.markup import escape

from pgrpo_ray.actors import waits
from pgrpo_ray.config import CheckpointSection
from pgrpo_ray.data.run_state import RunState
from pgrpo_ray.errors import CheckpointError, EnvironmentFault, LostError, PgrpoError
from pgrpo_ray.obs.checkpoint_files import FileFacts, put_file
from pgrpo_ray.obs.checkpoints import STATE, CheckpointStore

CHECKPOINT = "checkpoint"
"""Concurrency group of a learner rank's `write_snapshot`, which runs beside its updates."""
SOMETIMES = "heldout_pass_at_1"
"""The number that only a step with an evaluation has."""


class Checkpointer:
    """For the driver's thread."""

    def __init__(
        self, store: CheckpointStore, section: CheckpointSection, learner: Sequence[Any], note: Callable[[str], None]
    ):
        """`note` tells the user."""
        self._store = store
        self._section = section
        self._learner = learner
        self._note = note
        self._writing: list[Any] = []
        self._draft = ""
        self._step, self._began = 0, 0.0
        self._value: float | None = None
        self._files: dict[str, FileFacts] = {}
        self._failures = 0
        self._told = False
        """That no step has the number that the best is chosen by."""

    def due(self, step: int) -> bool:
        """Whether the run wants one after this step."""
        every = self._section.every_steps
        return bool(every) and step % every == 0

    def begin(
        self,
        state: RunState,
        metrics: Mapping[str, float],
        keep: Callable[[str], list[Any]],
        timeout_s: float,
        wait_any: waits.WaitAny,
    ) -> None:
        """Begin a checkpoint of the state that learner and driver are in; the one before must be finished.

        `metrics` has the number that the best is chosen by. `keep` is given the draft, and returns references of the
        files that others put into it. Raises `OwnershipError` where another process writes them by now.
        """
        self._began, self._step = time.monotonic(), state.step
        self._value = self._value_in(metrics)
        self._draft = ""  # the last one's is a checkpoint by now, which a failure must not remove
        try:
            self._store.check_owner()
            self._draft = self._store.begin(state.step)
            name, facts = put_file(self._draft, STATE, lambda path: path.write_text(state.model_dump_json(), "utf-8"))
        except EnvironmentFault as error:
            self._failed(error)
            return
        self._files = {name: facts}
        kept = keep(self._draft)
        waits.get([rank.snapshot.remote() for rank in self._learner], timeout_s, "learner", wait_any)
        writes = [
            rank.write_snapshot.options(concurrency_group=CHECKPOINT).remote(self._draft) for rank in self._learner
        ]
        self._writing = [*kept, *writes]

    def poll(self) -> None:
        """Commit what has been written by now."""
        if self._writing:
            ready, _ = ray.wait(self._writing, num_returns=len(self._writing), timeout=0, fetch_local=False)
            if len(ready) == len(self._writing):
                self.finish(waits.wait_any)

    def finish(self, wait_any: waits.WaitAny) -> None:
        """Wait for what is being written, and commit it."""
        if not self._writing:
            return
        writing, self._writing = self._writing, []
        left = self._began + self._section.deadline_s - time.monotonic()
        try:
            files = waits.get(writing, max(1.0, left), "checkpoint writer", wait_any)
            self._store.check_owner()
            self._store.commit(self._draft, self._step, self._files | dict(files), self._value)
            self._store.prune(self._section.keep, highest=self._section.best_is == "highest")
        except (CheckpointError, EnvironmentFault, LostError) as error:
            if waits.is_death(error):
                raise
            self._failed(error)
            return
        self._failures = 0

    def _value_in(self, metrics: Mapping[str, float]) -> float | None:
        """Return the number that the best is chosen by, None where this step has none; tell once of an unknown name."""
        name = self._section.best_by
        if name not in metrics and name != SOMETIMES and not self._told:
            self._told = True
            near = ", ".join(get_close_matches(name, metrics, 3)) or "see metrics.jsonl"
            why = escape(f"checkpoint.best_by={name!r}: step {self._step} has no such number (near: {near}).")
            self._note(f"[red]{why} No checkpoint is kept as the best until one has.[/red]")
        value = metrics.get(name, math.nan)
        return float(value) if math.isfinite(value) else None

    def _failed(self, error: PgrpoError) -> None:
        """Tell that there is no checkpoint of this step. Raises `error` where that has happened too often."""
        if self._draft:
            self._store.drop(self._draft)
        self._failures += 1
        if self._failures > self._section.max_failures:
            raise error
        why = escape(f"no checkpoint of step {self._step}: {error}")
        self._note(f"[red]{why} The run goes on; the next is tried later.[/red]")
