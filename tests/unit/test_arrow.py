"""Schemas, tables and files of rollout batches."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pgrpo_ray.data import arrow
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import Judgement, Verdict

DOCS = Path(__file__).resolve().parents[2] / "docs" / "rollouts.md"


def rollouts(rows=3):
    """A valid rollout table whose lists have lengths 1, 2, 3, ..."""
    return arrow.build_table(
        arrow.ROLLOUT_SCHEMA,
        {
            "problem_id": ["p"] * rows,
            "sample_index": np.arange(rows),
            "policy_version": [0] * rows,
            "prompt": ["q"] * rows,
            "prompt_ids": [[1, 2]] * rows,
            "response_ids": [list(range(row + 1)) for row in range(rows)],
            "rollout_logprobs": [[-0.5] * (row + 1) for row in range(rows)],
            "versions": [[0]] * rows,
            "version_starts": [[0]] * rows,
            "response": ["r"] * rows,
            "finish_reason": ["stop"] * rows,
            "format_ok": np.ones(rows, dtype=bool),
            "thinking": ["t"] * rows,
            "program": [None] * rows,
        },
    )


def test_the_documentation_holds_exactly_the_table_of_the_schema():
    assert arrow.describe_columns() in DOCS.read_text(encoding="utf-8")


def test_every_column_is_documented_and_stands_once_over_all_stages():
    columns = [column for stage in arrow.STAGES.values() for column in stage]
    assert arrow.BATCH_SCHEMA.names == [column.name for column in columns]
    assert len(set(arrow.BATCH_SCHEMA.names)) == len(columns)
    assert all(column.meaning and column.filled_by for column in columns)
    assert all(arrow.BATCH_SCHEMA.field(c.name).nullable == (c.null_means is not None) for c in columns)


def test_a_stage_is_built_only_with_its_columns_types_and_nulls():
    columns = {"thinking_reward": [0.5, None], "thinking_error": [None, "down"]}
    assert arrow.build_table(arrow.THINKING_SCHEMA, columns).schema == arrow.THINKING_SCHEMA
    with pytest.raises(ValueError, match=r"missing \['thinking_error'\], unknown \['other'\]"):
        arrow.build_table(arrow.THINKING_SCHEMA, {"thinking_reward": [], "other": []})
    with pytest.raises(ValueError, match="thinking_reward does not fit"):
        arrow.build_table(arrow.THINKING_SCHEMA, {**columns, "thinking_reward": ["x", "y"]})
    with pytest.raises(ValueError, match="detail holds 1 nulls"):
        judgements = [Judgement(Verdict.PASSED, 1, 1, 1.0, "docker", detail=None)]
        arrow.verdict_table(judgements)


def test_verdicts_errors_and_rollouts_without_program_stay_apart():
    table = arrow.verdict_table(
        [
            Judgement(Verdict.PASSED, 3, 3, 12.5, "docker"),
            Judgement(None, 0, 3, 1.0, "docker", error="container died"),
            None,
        ]
    )
    assert table.schema == arrow.VERDICT_SCHEMA
    assert table["verdict"].to_pylist() == ["passed", None, None]
    assert table["execution_error"].to_pylist() == [None, "container died", None]
    assert table["sandbox"].to_pylist() == ["docker", "docker", None]
    assert table["tests_total"].to_pylist() == [3, 3, 0]


def test_dropped_rewards_are_null_and_others_may_not_be_nan():
    names = ("reward_format", "reward_outcome", "reward_thinking", "reward_other", "reward", "advantage")
    columns = {name: np.array([1.0, np.nan]) for name in names} | {"reward_format": np.array([1.0, 1.0])}
    table = arrow.reward_table(columns, [None, "execution_error"], ["cut", None])
    assert table["reward"].to_pylist() == [1.0, None]
    assert table["advantage"].to_pylist() == [1.0, None]
    assert table["masked"].to_pylist() == ["cut", None]
    assert table["reward_format"].to_pylist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="no finite number in a row that is not dropped"):
        arrow.reward_table(columns, [None, None], [None, None])


def test_stages_stand_side_by_side_and_never_overwrite():
    verdicts = arrow.verdict_table([None] * 3)
    both = arrow.append_columns(rollouts(), verdicts)
    assert both.schema == pa.schema([*arrow.ROLLOUT_SCHEMA, *arrow.VERDICT_SCHEMA])
    with pytest.raises(ValueError, match="columns stand twice"):
        arrow.append_columns(both, verdicts)
    with pytest.raises(ValueError, match=r"different heights.*\[3, 2\]"):
        arrow.append_columns(rollouts(), arrow.verdict_table([None] * 2))
    with pytest.raises(ValueError, match="no tables"):
        arrow.append_columns()


def test_a_file_comes_back_equal_with_its_metadata_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "step-1.arrow"
    arrow.write_ipc(path, rollouts(), {"step": "1"})
    table = arrow.read_ipc(path)
    assert table.equals(rollouts())
    assert table.schema.metadata == {b"step": b"1"}
    assert [file.name for file in tmp_path.iterdir()] == ["step-1.arrow"]


def test_a_write_that_fails_keeps_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "step.arrow"
    arrow.write_ipc(path, rollouts(2), {})

    def full(_descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        arrow.write_ipc(path, rollouts(3), {})
    assert arrow.read_ipc(path).num_rows == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_and_missing_files_are_data_errors(tmp_path):
    path = tmp_path / "step.arrow"
    arrow.write_ipc(path, rollouts(), {})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole Arrow IPC file"):
        arrow.read_ipc(path)
    with pytest.raises(DataError, match="cannot be read"):
        arrow.read_ipc(tmp_path / "none.arrow")


def test_rows_of_numpy_make_the_column_that_lists_make():
    schema = pa.schema([pa.field("ids", pa.list_(pa.int32()), nullable=False)])
    rows = [[1, 2], [], [3]]
    from_lists = arrow.build_table(schema, {"ids": rows})
    for dtype in (np.int32, np.int64):
        assert arrow.build_table(schema, {"ids": [np.array(row, dtype) for row in rows]}).equals(from_lists)
    assert arrow.build_table(schema, {"ids": [np.array([1], np.int32), [2]]})["ids"].to_pylist() == [[1], [2]]
    with pytest.raises(ValueError, match="ids does not fit"):
        arrow.build_table(schema, {"ids": [np.array([1.5])]})
    with pytest.raises(ValueError, match="ids does not fit"):
        arrow.build_table(schema, {"ids": [np.array([2**31])]})


def addresses(table):
    """Where every buffer of the table's columns lies."""
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    return [buffer.address for chunk in chunks for buffer in chunk.buffers() if buffer is not None]


def test_appended_columns_share_the_buffers_of_the_earlier_ones():
    table, verdicts = rollouts(), arrow.verdict_table([None] * 3)
    assert addresses(arrow.append_columns(table, verdicts)) == addresses(table) + addresses(verdicts)


def test_lengths_work_on_sliced_and_chunked_columns():
    table = pa.concat_tables([rollouts(3), rollouts(2)])
    assert arrow.list_lengths(table["response_ids"]).tolist() == [1, 2, 3, 1, 2]
    assert arrow.list_lengths(table.slice(2, 2)["response_ids"]).tolist() == [3, 1]
    assert arrow.list_lengths(table.slice(0, 0)["response_ids"]).shape == (0,)
    with pytest.raises(ValueError, match="1 of 2 lists are null"):
        arrow.list_lengths(pa.array([[1], None]))
