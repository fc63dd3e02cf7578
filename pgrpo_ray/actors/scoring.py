"""The thinking scores of groups, as the driver asks for them.

`score` hands a judged table of groups to the reward server and returns at once; the driver waits for `Scoring.ref`
among its other references and takes the scores with `answer`. A table whose replica died is asked for again while its
deadline lasts; after it, the rows to score carry the first cause as an error. So every group is answered. A table
without such rows is answered here: where the gate is closed nobody needs to be asked.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from pgrpo_ray.actors import clock, waits
from pgrpo_ray.algo.rewards import Scored
from pgrpo_ray.data.scalars import thinking_table
from pgrpo_ray.errors import StageError
from pgrpo_ray.types import Verdict

RETRY_PAUSE_S = 0.1
"""After a replica died, for Serve to notice."""


@dataclass(eq=False)
class Scoring:
    """Groups that are scored together. References only, until they are done."""

    rollouts: Any
    """The ROLLOUT table."""
    num_rows: int
    rows: list[int]
    """Whose reasoning is to be scored."""
    statements: list[str]
    """Of their problems, as the reward model reads them (no chat template)."""
    deadline: float
    """After it nobody is asked again, seconds of `clock`."""
    ref: Any = None
    """Of the THINKING table; None once `table` is there."""
    table: Any = None
    cause: str = ""
    """The first failure; empty while there is none."""


class GroupScorer:
    """The driver's handle of the reward server. For one thread."""

    def __init__(
        self,
        ask: Callable[[Any, list[int], list[str], float], Any] | None,
        deadline_s: float,
        scored: Scored = "passers",
    ):
        """`ask` is `RewardServer.ask_groups` or has its shape, None where nobody is `scored`; `deadline_s` bounds the
        scoring of one table."""
        self._ask = ask
        self._deadline_s = deadline_s
        self._scored = scored
        self.version = ""
        """Of the reward model, for the record; set by who starts the server."""

    def score(self, rollouts: Any, scalars: Any, statements: Mapping[str, str]) -> Scoring:
        """Have judged groups scored, given as the reference of their rollouts and their scalar table.

        `statements`: by problem id. All is in when `ref` is None.
        """
        deadline, rows = clock.now() + self._deadline_s, self._rows(scalars)
        ids = scalars["problem_id"].to_pylist() if rows else []
        scoring = Scoring(rollouts, scalars.num_rows, rows, [statements[ids[row]] for row in rows], deadline)
        if scoring.rows:
            self._submit(scoring)
        else:
            scoring.table = thinking_table(scoring.num_rows, {})
        return scoring

    def _rows(self, scalars: Any) -> list[int]:
        """Whose reasoning is read: a failing program's only where the rule asks for everyone's."""
        if self._scored == "none":
            return []
        if self._scored == "passers":
            return [row for row, one in enumerate(scalars["verdict"].to_pylist()) if one == Verdict.PASSED]
        return [row for row, well_formed in enumerate(scalars["format_ok"].to_pylist()) if well_formed]

    def answer(self, scoring: Scoring, timeout_s: float) -> Any:
        """Return the THINKING table of groups that are ready, or None where it is asked for again (`ref` is new).

        Raises the rollout worker's error where they came broken, and `StageError` for a defect of the server's.
        """
        try:
            scoring.table, scoring.ref = ray.get(scoring.ref, timeout=timeout_s), None
        except (RayTaskError, GetTimeoutError) as error:
            raise waits.explain(error, "reward server", timeout_s) from error
        except RayError as error:  # its replica died, was killed for want of memory, or lost its node
            scoring.cause = scoring.cause or str(waits.explain(error, "reward server", timeout_s))
            time.sleep(RETRY_PAUSE_S)
            self._submit(scoring)
        return scoring.table

    def _submit(self, scoring: Scoring) -> None:
        """Ask, or give up with the first cause.

        Raises `StageError` when a whole deadline brought no replica: the next groups would wait as long.
        """
        scoring.ref = None
        left = scoring.deadline - clock.now()
        if left > 0:
            try:
                assert self._ask, "rows to score, where nobody is scored"
                scoring.ref = self._ask(scoring.rollouts, scoring.rows, scoring.statements, left)
                return
            except TimeoutError as error:
                if not scoring.cause:
                    raise StageError(
                        f"reward server: no replica within reward_model.deadline_s={self._deadline_s:g} s. Logs in "
                        "Ray's session folder say why none starts.",
                        stage="reward server",
                    ) from error
            except (RayActorError, RayServeException) as error:
                scoring.cause = scoring.cause or f"reward server: {type(error).__name__}: {error}"
        cause = scoring.cause or f"reward server: no score within {self._deadline_s:g} s."
        scoring.table = thinking_table(scoring.num_rows, {}, dict.fromkeys(scoring.rows, cause))
