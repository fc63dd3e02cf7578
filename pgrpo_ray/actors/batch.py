"""One step's batch: groups that were judged and scored, what they are worth, and what becomes of each rollout.

Made on the driver from scalars alone; the tokens stay in the tables that the groups came in.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pgrpo_ray.actors.demands import Group, Shipment, in_order, places_of
from pgrpo_ray.algo.advantages import variance_shares
from pgrpo_ray.algo.rewarding import Arm, alive_groups, reward_batch, signals_of
from pgrpo_ray.algo.rewards import Signals
from pgrpo_ray.algo.staleness import check_staleness
from pgrpo_ray.config import AlgoSection
from pgrpo_ray.data import arrow
from pgrpo_ray.data.ledger import FATES, NO_GRADIENT, TRAINED
from pgrpo_ray.data.scalars import Columns, to_columns
from pgrpo_ray.errors import StageError
from pgrpo_ray.learner.shares import Places


@dataclass(frozen=True)
class Batch:
    """One step's groups, rewarded. Made by `reward_groups`."""

    groups: list[Group]
    columns: Columns
    """Of all rollouts, group after group; reward terms and advantages included."""
    group_index: np.ndarray
    """Of each rollout, int64 [N], ascending."""
    shipments: list[Shipment]
    """That its groups came in."""
    places: Places
    """Of its rollouts in the tables of these."""
    thinking: pa.Table
    """Its THINKING columns."""
    shares: dict[str, float]
    """Of the advantages' variance, by reward term."""

    def alive(self) -> np.ndarray:
        """Return which groups have a gradient, bool [groups]."""
        return alive_groups(self.columns["advantage"], self.group_index)

    def fates(self, every_row: bool) -> np.ndarray:
        """Return what becomes of each rollout, int64 [N], indices of `data.ledger.FATES`.

        `every_row`: one without an advantage is trained on as well, as where the loss has a KL term.
        """
        columns = self.columns
        reason = np.where(columns["dropped"] != "", columns["dropped"], columns["masked"])
        learned = (reason == "") & (columns["response_length"] > 0) & ((columns["advantage"] != 0) | every_row)
        fates = np.where(learned, TRAINED, NO_GRADIENT)
        for fate, name in enumerate(FATES):
            fates[reason == name] = fate
        return fates


def reward_groups(groups: list[Group], arm: Arm, algo: AlgoSection, policy_version: int) -> Batch:
    """Compose rewards and advantages of what has been judged and scored; `policy_version` is the learner's.

    Raises `StageError` where a rollout is too old, a role failed for the whole batch, or the reward rule failed.
    """
    shipments, places = places_of(groups)
    scalars = in_order([shipment.scalars for shipment in shipments], places)
    thinking = in_order([shipment.thinking for shipment in shipments], places)
    columns = to_columns(arrow.append_columns(scalars, thinking))
    group_index = np.repeat(np.arange(len(groups)), places.size)
    check_staleness(columns["policy_version"], policy_version, algo.max_staleness)
    _check_machinery(columns, signals_of(columns))
    try:
        rewarded = reward_batch(arm, columns, group_index)
    except Exception as error:  # a user's rule may raise anything, or break what it declares
        raise StageError(
            f"algo.reward={algo.reward!r} failed on a batch: {type(error).__name__}: {error}. What was rewarded "
            "before is in the run's folder.",
            stage="driver",
        ) from error
    columns |= rewarded.columns
    return Batch(groups, columns, group_index, shipments, places, thinking, variance_shares(rewarded.parts))


def _check_machinery(columns: Columns, signals: Signals) -> None:
    """Raise `StageError` when a role failed for the whole batch: what is left teaches nothing, or failures alone."""
    failed = signals.failed
    if failed.all():
        raise StageError(
            f"execution pool: all {len(failed)} rollouts of the batch were lost to failing machinery; the first: "
            f"{columns['execution_error'][0]}",
            stage="execution pool",
        )
    unscored = columns["thinking_error"] != ""
    asked = unscored | ~np.isnan(signals.thinking)
    if asked.any() and unscored[asked].all():
        raise StageError(
            f"reward server: none of the {asked.sum()} rollouts that were to be scored could be; the first: "
            f"{columns['thinking_error'][asked][0]}",
            stage="reward server",
        )
