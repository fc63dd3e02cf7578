"""`pgrpo replay`: a run's rollouts, rewarded again.

The run's own arm is recomputed by the driver's own function (`algo.rewarding`) and must give the recorded columns to
the last bit. Another arm is then laid over the same rollouts and compared. That says what it would have made of these
rollouts, not what a run under it would have sampled.

Never guesses: where the other arm reads what was not recorded, the rollout is counted as unknown, and its group (with
estimators that compare over the batch: its whole step) is left out of every comparison.
"""

from collections.abc import Mapping
from copy import deepcopy
from heapq import nlargest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgrpo_ray import config as configuration
from pgrpo_ray.algo.rewarding import Arm, Rewarded, alive_groups, reward_batch, signals_of
from pgrpo_ray.algo.rewards import scores_read
from pgrpo_ray.config import RunConfig
from pgrpo_ray.data.arrow import REWARD_SCHEMA, list_lengths
from pgrpo_ray.data.recorded_run import RecordedRun, group_index, rollout_name
from pgrpo_ray.data.scalars import Columns, to_columns, to_reward_table
from pgrpo_ray.errors import CorruptionError, DataError, StageError
from pgrpo_ray.obs.terminal import visible
from pgrpo_ray.preflight.reward import rule_of
from pgrpo_ray.types import Verdict

_SCALARS = (
    *("problem_id", "sample_index", "finish_reason", "format_ok"),
    *("verdict", "tests_passed", "tests_total", "execution_error", "thinking_reward", "thinking_error"),
)
_NEEDED = (*_SCALARS, "response_ids", *REWARD_SCHEMA.names)
_DECIMALS = 6
"""Of advantages that are compared: closer ones differ by rounding alone. Ours."""
_WHOLE_BATCH = ("reinforce_pp", "reinforce_pp_baseline")
"""Estimators in which every rollout of a batch bears on every other."""
Tally = dict[str, float]
"""Counts and sums by what they are of; those of several steps add up."""


def replay(run: RecordedRun, changes: list[str], step: int | None, limit: int) -> dict[str, Any]:
    """Reward a step (None: all that are there) again and return what changes, as plain values.

    `changes`: of the config, such as `algo.reward="linear"`; none: the recorded arm is checked and that is all.
    `limit`: how many of the rollouts that change most are named.

    Raises `CorruptionError` where the recorded arm gives something else than was recorded, `ConfigError` and
    `DataError` for what is no arm or is not there, `StageError` for a rule that fails on a batch.
    """
    own, other = _config(run, []), _config(run, changes)
    arms = [Arm.of(rule_of(one), one.algo) for one in (own, other)]
    steps = run.steps if step is None else [step]
    if not steps:
        raise DataError("has no rollouts of a step yet. Wait for the first step.", str(run.folder))
    lines: list[dict[str, Any]] = []
    most: list[dict[str, Any]] = []
    total: Tally = {}
    for number in steps:
        table = run.rollouts(number, _NEEDED)
        columns = to_columns(table.select(_SCALARS)) | {"response_length": list_lengths(table["response_ids"])}
        groups = group_index(table)
        recorded = _reward(arms[0], columns, groups, own.algo.reward, number)
        check_recorded(table, columns | recorded.columns, str(run.folder), number)
        replayed = _reward(arms[1], columns, groups, other.algo.reward, number) if changes else recorded
        unknown = _unknown(arms[1], columns, own.sandbox.fail_fast)
        compared = _comparable(arms[1], unknown, groups)
        tally = _tally(columns, groups, recorded, replayed, unknown, compared)
        lines.append({"step": number, **_summary(tally)})
        total = {key: total.get(key, 0) + value for key, value in tally.items()}
        if changes:
            changed = _most_changed(columns, number, recorded, replayed, compared, limit)
            most = nlargest(limit, most + changed, key=lambda row: abs(row["advantage_change"]))
    return {
        "run": str(run.folder),
        "recorded": _described(own),
        "replayed": _described(other),
        "would_record": _would_record(arms[1], total),
        "steps": lines,
        "total": _summary(total),
        "most_changed": most,
    }


def _config(run: RecordedRun, changes: list[str]) -> RunConfig:
    """The run's config with changes; whether a run under it could be started is of no account here."""
    values = deepcopy(run.config_values)
    for change in changes:
        configuration.apply_override(values, change)
    return configuration.parse(values, where=str(run.folder / "config.yaml"))


def check_recorded(table: pa.Table, columns: Columns, folder: str, step: int) -> None:
    """Raise `CorruptionError` at the first row in which recomputed reward `columns` are not those of `table`."""
    made = to_reward_table(columns)
    differing = {name: np.flatnonzero(_differ(table[name], made[name])) for name in REWARD_SCHEMA.names}
    rows = {name: int(found[0]) for name, found in differing.items() if found.size}
    if not rows:
        return
    row = min(rows.values())
    name = next(name for name in rows if rows[name] == row)
    was, now = (one[name][row].as_py() for one in (table, made))
    called = visible(rollout_name(step, columns["problem_id"][row], columns["sample_index"][row]))
    raise CorruptionError(
        f"{folder}: row {row} of step {step} ({called}): {name} is recorded as {was!r}, and the run's own arm gives "
        f"{now!r}. {len(np.unique(np.concatenate(list(differing.values()))))} of {table.num_rows} rows differ. Either "
        "the file or config.yaml was changed after the run, or another version of this project, or of the reward rule, "
        "wrote it: replay it with that one."
    )


def _differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Where two columns differ, bool [N]: floats by their bits, and null from any value."""
    if pa.types.is_floating(one.type):
        bits = [np.asarray(pc.fill_null(side, 0.0)).view(np.int32) for side in (one, other)]
        unequal = bits[0] != bits[1]
    else:
        values = [np.array(side.to_pylist(), dtype=object) for side in (one, other)]
        unequal = values[0] != values[1]
    return unequal | (np.asarray(pc.is_null(one)) != np.asarray(pc.is_null(other)))


def _reward(arm: Arm, columns: Columns, groups: np.ndarray, rule: str, step: int) -> Rewarded:
    try:
        return reward_batch(arm, columns, groups)
    except Exception as error:  # a user's rule may raise anything
        raise StageError(f"algo.reward={rule!r} failed on step {step}: {type(error).__name__}: {error}.") from error


def _unknown(arm: Arm, columns: Columns, fail_fast: bool) -> dict[str, np.ndarray]:
    """Which rollouts the arm would need more of than was recorded, bool [N], by what it would need.

    A score that was asked for and did not come is no such: the arm would have dropped the rollout as well.
    """
    signals = signals_of(columns)
    unasked = np.isnan(signals.thinking) & (columns["thinking_error"] == "")
    # A program that failed at its first or its last test has been through all that count.
    uncounted = (columns["verdict"] != "") & ~np.isin(columns["verdict"], [Verdict.PASSED, Verdict.COMPILE_ERROR])
    uncounted &= columns["tests_passed"] + 1 < columns["tests_total"]
    return {
        "thinking_reward": scores_read(arm.rule, signals) & unasked & ~signals.failed,
        "pass_frac": uncounted & arm.rule.pass_frac & fail_fast,
    }


def _comparable(arm: Arm, unknown: Mapping[str, np.ndarray], groups: np.ndarray) -> np.ndarray:
    """Which rollouts stand in a group (or, where it matters, a batch) in which nothing is unknown, bool [N]."""
    missing = np.zeros(len(groups), dtype=bool)
    for rows in unknown.values():
        missing |= rows
    if arm.estimator in _WHOLE_BATCH:
        return np.full(len(groups), not missing.any())
    return ~np.isin(groups, groups[missing])


def _tally(
    columns: Columns,
    groups: np.ndarray,
    recorded: Rewarded,
    replayed: Rewarded,
    unknown: Mapping[str, np.ndarray],
    compared: np.ndarray,
) -> Tally:
    """Counts and sums of one step, which add up over steps; `_summary` says what they mean."""
    sides = {"recorded": recorded, "replayed": replayed}
    both = compared & (recorded.columns["dropped"] == "") & (replayed.columns["dropped"] == "")
    tally: Tally = {"rollouts": len(groups), "groups": len(np.unique(groups))}
    tally |= {f"unknown {name}": int(rows.sum()) for name, rows in unknown.items()}
    tally |= {"compared": int(compared.sum()), "compared groups": len(np.unique(groups[compared]))}
    tally["both"] = int(both.sum())
    for side, rewarded in sides.items():
        made = rewarded.columns
        tally[f"{side} dropped"] = int((compared & (made["dropped"] != "")).sum())
        tally[f"{side} masked"] = int((compared & (made["masked"] != "")).sum())
        tally[f"{side} reward"] = float(made["reward"][both].sum())
        tally |= {f"{side} term {name}": float(term[both].sum()) for name, term in rewarded.terms.items()}
        whole = sum(rewarded.parts.values(), np.zeros(len(groups)))[compared]
        tally[f"{side} power"] = float((whole * whole).sum())
        for name, part in rewarded.parts.items():
            tally[f"{side} part {name}"] = float((part[compared] * whole).sum())
    was, now = (np.round(one.columns["advantage"][both], _DECIMALS) for one in sides.values())
    tally["sign"] = int((was * now < 0).sum())
    tally["rank"] = int((_ranks(was, groups[both]) != _ranks(now, groups[both])).sum())
    there = np.unique(groups[compared])
    alive, still = (alive_groups(one.columns["advantage"], groups)[there] for one in sides.values())
    tally |= {"recorded alive": int(alive.sum()), "replayed alive": int(still.sum())}
    tally |= {"gained": int((still & ~alive).sum()), "lost": int((alive & ~still).sum())}
    return tally


def _ranks(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How many members of its own group stand above each rollout, int64 [N]; equals share a rank."""
    order = np.lexsort((-values, groups))
    first = np.ones(len(order), dtype=bool)
    first[1:] = groups[order][1:] != groups[order][:-1]
    new = first.copy()
    new[1:] |= values[order][1:] != values[order][:-1]
    place = np.arange(len(order))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.maximum.accumulate(np.where(new, place, 0)) - np.maximum.accumulate(np.where(first, place, 0))
    return ranks


def _summary(tally: Tally) -> dict[str, Any]:
    """What a tally says: means over rollouts that both arms reward, shares of the advantages' variance, changes."""

    def mean(total: float) -> float | None:
        return total / tally["both"] if tally["both"] else None

    def side(name: str) -> dict[str, Any]:
        starts = {kind: f"{name} {kind} " for kind in ("term", "part")}
        found = {kind: [key for key in tally if key.startswith(start)] for kind, start in starts.items()}
        power = tally[f"{name} power"]
        return {
            "reward": mean(tally[f"{name} reward"]),
            "terms": {key.removeprefix(starts["term"]): mean(tally[key]) for key in found["term"]},
            "advantage_shares": {
                key.removeprefix(starts["part"]): tally[key] / power if power else None for key in found["part"]
            },
            "dropped": tally[f"{name} dropped"],
            "masked": tally[f"{name} masked"],
            "groups_with_gradient": tally[f"{name} alive"],
        }

    unknown = {key.removeprefix("unknown "): tally[key] for key in tally if key.startswith("unknown ")}
    return {
        "rollouts": tally["rollouts"],
        "groups": tally["groups"],
        "unknown": unknown,
        "compared_rollouts": tally["compared"],
        "compared_groups": tally["compared groups"],
        "recorded": side("recorded"),
        "replayed": side("replayed"),
        "signs_changed": tally["sign"],
        "ranks_changed": tally["rank"],
        "groups_gained": tally["gained"],
        "groups_lost": tally["lost"],
    }


def _most_changed(
    columns: Columns, step: int, recorded: Rewarded, replayed: Rewarded, compared: np.ndarray, limit: int
) -> list[dict[str, Any]]:
    """The rollouts whose advantage moves farthest, farthest first; those that stay are none of them."""
    was, now = recorded.columns, replayed.columns
    change = np.round(np.where(compared, now["advantage"] - was["advantage"], np.nan), _DECIMALS)
    rows = np.flatnonzero(np.nan_to_num(change) != 0)
    rows = rows[np.argsort(-np.abs(change[rows]), kind="stable")][:limit]
    return [
        {
            "name": rollout_name(step, columns["problem_id"][row], columns["sample_index"][row]),
            "verdict": columns["verdict"][row] or None,
            "recorded": {name: float(was[name][row]) for name in ("reward", "advantage")},
            "replayed": {name: float(now[name][row]) for name in ("reward", "advantage")},
            "advantage_change": float(change[row]),
        }
        for row in rows.tolist()
    ]


def _described(config: RunConfig) -> dict[str, Any]:
    algo = config.algo
    return {"reward": algo.reward, "advantage": algo.advantage, "advantage_std_floor": algo.advantage_std_floor}


def _would_record(arm: Arm, total: Tally) -> list[str]:
    """Settings under which the run would have recorded what is unknown of it."""
    lacking = []
    if total["unknown thinking_reward"]:
        lacking.append(f"reward_model.score={arm.rule.scores}")
    if total["unknown pass_frac"]:
        lacking.append("sandbox.fail_fast=false")
    return lacking
