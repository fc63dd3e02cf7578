"""A replay gives what the driver recorded to the last bit, what another arm would have given, and no guess."""

import json

import numpy as np
import pyarrow as pa
import pytest
from recorded import record

from pgrpo_ray.algo.advantages import Estimator
from pgrpo_ray.algo.rewards import RULES
from pgrpo_ray.data.arrow import write_ipc
from pgrpo_ray.data.recorded_run import RecordedRun, group_index
from pgrpo_ray.errors import ConfigError, CorruptionError, DataError, StageError
from pgrpo_ray.jobs import replay_report
from pgrpo_ray.jobs.replay import _ranks, replay
from pgrpo_ray.obs.terminal import open_console

ALL = {"reward_model": {"score": "all"}, "sandbox": {"fail_fast": False}}
"""Settings that record whatever any built-in arm reads."""


@pytest.mark.parametrize("estimator", Estimator.__args__)
@pytest.mark.parametrize("rule", RULES)
def test_the_recorded_arm_comes_out_to_the_last_bit(tmp_path, rule, estimator):
    run = RecordedRun(record(tmp_path, 2, algo={"reward": rule, "advantage": estimator}, **ALL))
    rows = pa.concat_tables([run.rollouts(step) for step in run.steps])
    assert {None, "execution_error"} <= set(rows["dropped"].to_pylist())
    if rule != "outcome_only":
        assert "thinking_error" in rows["dropped"].to_pylist()
    found = replay(run, [], None, 10)
    assert found["total"]["rollouts"] == rows.num_rows == 144
    assert found["recorded"] == found["replayed"]
    assert found["most_changed"] == []


def test_masked_rows_and_a_length_penalty_come_out_to_the_last_bit(tmp_path):
    algo = {"mask_cut": True, "sampling_rounds": 2, "length_penalty_tokens": 20}
    run = RecordedRun(record(tmp_path, 1, algo=algo, rollout={"max_response_tokens": 40}))
    table = run.rollouts(1)
    assert set(table["masked"].to_pylist()) == {None, "cut", "no_gradient"}
    assert min(value for value in table["reward_other"].to_pylist() if value is not None) < -0.5
    found = replay(run, [], 1, 10)
    masked = sum(reason is not None for reason in table["masked"].to_pylist())
    assert found["total"]["recorded"]["masked"] == masked


@pytest.mark.parametrize("column", ["advantage", "reward", "dropped", "masked", "reward_other"])
def test_a_row_that_was_recorded_otherwise_is_named(tmp_path, column):
    run = RecordedRun(record(tmp_path, 2))
    table = run.rollouts(2)
    kept = [row for row, value in enumerate(table["reward"].to_pylist()) if value is not None]
    row, values = kept[5], table[column].to_pylist()
    if pa.types.is_floating(table[column].type):  # the smallest change that there is
        values[row] = float(np.nextafter(np.float32(values[row]), np.float32(9)))
    else:
        values[row] = "cut"
    field = table.schema.field(column)
    table = table.set_column(table.column_names.index(column), field, pa.array(values, field.type))
    write_ipc(run.folder / "rollouts" / "step-000002.arrow", table, {})
    name = f"2/{table['problem_id'][row].as_py()}/{table['sample_index'][row].as_py()}"
    with pytest.raises(CorruptionError, match=rf"row {row} of step 2 \({name}\): {column} is recorded as") as caught:
        replay(RecordedRun(run.folder), ["algo.reward=outcome_only"], None, 10)
    assert "1 of 72 rows differ" in str(caught.value)
    replay(RecordedRun(run.folder), [], 1, 10)  # the other step is as it was


@pytest.mark.parametrize("other", ["outcome_only", "linear", "soft", "decoupled"])
def test_another_arm_gives_what_a_run_under_it_records_of_the_same_rollouts(tmp_path, other):
    own = RecordedRun(record(tmp_path / "own", 2, **ALL))
    its = RecordedRun(record(tmp_path / "other", 2, algo={"reward": other}, **ALL))
    found = replay(own, [f"algo.reward={other}"], None, 10_000)
    alone = replay(its, [], None, 10)
    assert found["would_record"] == []
    assert not any(found["total"]["unknown"].values())
    for step, metrics in zip(found["steps"], its.metrics, strict=True):
        shares = {name.removeprefix("advantage_share_"): value for name, value in metrics.items() if "share" in name}
        assert step["replayed"]["advantage_shares"] == pytest.approx(shares)
    for key in ("groups_with_gradient", "dropped", "masked"):
        assert found["total"]["replayed"][key] == alone["total"]["recorded"][key]
    advantages = {}
    for run in (own, its):
        rows = (run.rollouts(step, ["problem_id", "sample_index", "advantage"]) for step in run.steps)
        advantages[run] = {
            f"{step}/{row['problem_id']}/{row['sample_index']}": row["advantage"]
            for step, table in zip(run.steps, rows, strict=True)
            for row in table.to_pylist()
        }
    named = {row["name"]: row for row in found["most_changed"]}
    both = [name for name in advantages[own] if None not in (advantages[own][name], advantages[its][name])]
    moved = [name for name in both if abs(advantages[own][name] - advantages[its][name]) > 1e-5]
    assert moved and set(moved) <= set(named)
    for name, row in named.items():
        assert row["recorded"]["advantage"] == pytest.approx(advantages[own][name], rel=1e-6)
        assert row["replayed"]["advantage"] == pytest.approx(advantages[its][name], rel=1e-6)
    flipped = sum(advantages[own][name] * advantages[its][name] < 0 for name in both)
    assert found["total"]["signs_changed"] == flipped
    sizes = [abs(row["advantage_change"]) for row in found["most_changed"]]
    assert sizes == sorted(sizes, reverse=True)


def test_means_and_gradients_of_another_arm_by_hand(tmp_path):
    run = RecordedRun(record(tmp_path))
    found = replay(run, ["algo.reward=outcome_only"], 1, 10)
    rows = [row for row in run.rollouts(1).to_pylist() if row["dropped"] is None]
    assert found["total"]["recorded"]["terms"]["thinking"] == pytest.approx(
        np.mean([row["reward_thinking"] for row in rows])
    )
    assert found["total"]["replayed"]["reward"] == pytest.approx(
        np.mean([row["format_ok"] + (row["verdict"] == "passed") for row in rows])
    )
    # Both groups in which everybody passes differ in thinking alone.
    assert (found["total"]["groups_gained"], found["total"]["groups_lost"]) == (0, 2)


def test_what_was_never_scored_is_unknown_and_leaves_its_group_out(tmp_path):
    run = RecordedRun(record(tmp_path))
    table = run.rollouts(1)
    rows, groups = table.to_pylist(), group_index(table)
    unasked = np.array([row["verdict"] not in (None, "passed") for row in rows])
    found = replay(run, ["algo.reward=linear"], 1, 100)
    total = found["total"]
    assert total["unknown"] == {"thinking_reward": unasked.sum(), "pass_frac": 0}
    touched = np.unique(groups[unasked])
    assert total["compared_groups"] == len(np.unique(groups)) - len(touched) > 0
    assert total["compared_rollouts"] == (~np.isin(groups, touched)).sum()
    assert found["would_record"] == ["reward_model.score=all"]
    # Whoever compares over the batch has nothing left to compare with.
    batch = replay(run, ["algo.reward=linear", "algo.advantage=reinforce_pp"], 1, 100)["total"]
    assert (batch["compared_rollouts"], batch["replayed"]["reward"]) == (0, None)


def test_a_share_of_tests_that_was_cut_short_is_unknown(tmp_path):
    run = RecordedRun(record(tmp_path, reward_model={"score": "all"}))
    found = replay(run, ["algo.reward=soft"], 1, 10)
    rows = run.rollouts(1).to_pylist()
    cut_short = [row for row in rows if row["verdict"] == "wrong_answer" and row["first_failed"] < 3]
    assert found["total"]["unknown"] == {"thinking_reward": 0, "pass_frac": len(cut_short)}
    assert found["would_record"] == ["sandbox.fail_fast=false"]


def test_a_run_without_a_reward_server_lacks_the_scores_of_passers(tmp_path, capsys):
    run = RecordedRun(record(tmp_path, algo={"reward": "outcome_only"}))
    found = replay(run, ["algo.reward=posterior"], None, 10)
    passed = run.rollouts(1)["verdict"].to_pylist().count("passed")
    assert found["total"]["unknown"]["thinking_reward"] == passed
    assert found["would_record"] == ["reward_model.score=passers"]
    replay_report.show(found, open_console())
    shown = capsys.readouterr().out
    assert f"Of 72 rollouts {passed} were never scored" in shown
    assert "reward_model.score=passers records it" in shown


def test_ranks_are_counted_inside_groups_and_equals_share_them():
    values, groups = np.array([0.5, 2.0, 0.5, -1.0, 7.0, 9.0]), np.array([0, 0, 0, 0, 1, 1])
    assert _ranks(values, groups).tolist() == [1, 0, 1, 3, 1, 0]
    assert _ranks(values[:0], groups[:0]).tolist() == []


def test_all_steps_together_are_the_sum_of_each(tmp_path):
    run = RecordedRun(record(tmp_path, 3))
    whole = replay(run, ["algo.advantage=dr_grpo"], None, 4)
    alone = [replay(run, ["algo.advantage=dr_grpo"], step, 4) for step in run.steps]
    assert whole["steps"] == [one["steps"][0] for one in alone]
    for key in ("rollouts", "groups", "compared_rollouts", "signs_changed", "ranks_changed", "groups_lost"):
        assert whole["total"][key] == sum(one["total"][key] for one in alone)
    most = sorted((row for one in alone for row in one["most_changed"]), key=lambda row: -abs(row["advantage_change"]))
    assert whole["most_changed"] == most[:4]
    json.dumps(whole, allow_nan=False)


def test_what_is_no_arm_and_what_is_not_there_is_refused(tmp_path, monkeypatch):
    run = RecordedRun(record(tmp_path))
    with pytest.raises(ConfigError, match="Did you mean 'linear'"):
        replay(run, ["algo.reward=linea"], None, 10)
    with pytest.raises(ConfigError, match="advantage_std_floor"):
        replay(run, ["algo.advantage_std_floor=0"], None, 10)
    with pytest.raises(DataError, match="There are steps 1 to 1"):
        replay(run, [], 2, 10)
    (tmp_path / "own_rule.py").write_text(
        "from pgrpo_ray.algo.rewards import Term, reward_rule\n"
        "@reward_rule(terms=(Term('outcome', 0, 1),), scores='none')\n"
        "def broken(signals):\n    raise KeyError('nothing')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StageError, match=r"algo\.reward='own_rule:broken' failed on step 1: KeyError"):
        replay(run, ["algo.reward=own_rule:broken"], None, 10)
