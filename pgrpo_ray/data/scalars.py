"""The scalar columns of a batch: all that the driver ever sees of a rollout.

The execution pool cuts them from a judged group, so that tokens and texts stay where they are; the driver turns them
into numpy. In numpy, an absent text is "" and an absent number NaN.
"""

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pgrpo_ray.data.arrow import THINKING_SCHEMA, build_table, list_lengths, reward_table
from pgrpo_ray.data.digests import prompt_digest, row_digest
from pgrpo_ray.data.padding import TOKEN_COLUMNS, row_views
from pgrpo_ray.data.wording import wording

Columns = dict[str, np.ndarray]
"""One array a column, one entry a rollout."""

_FROM_ROLLOUT = ("problem_id", "sample_index", "policy_version", "finish_reason", "format_ok")
_FROM_VERDICT = ("verdict", "tests_passed", "tests_total", "execution_error")


def scalar_table(rollouts: pa.Table, verdicts: pa.Table) -> pa.Table:
    """Return the scalar columns of judged groups, with `prompt_length` and `response_length` in tokens, and
    `prompt_digest` and `row_digest` as `data.digests` says, and what `data.wording` says of the reasoning."""
    prompts, responses, logprobs = (row_views([rollouts], name) for name in TOKEN_COLUMNS)
    return pa.table(
        {name: rollouts[name] for name in _FROM_ROLLOUT}
        | {name: verdicts[name] for name in _FROM_VERDICT}
        | {
            "prompt_length": list_lengths(rollouts["prompt_ids"]),
            "response_length": list_lengths(rollouts["response_ids"]),
            "prompt_digest": np.array([prompt_digest(ids) for ids in prompts], np.int64),
            "row_digest": np.array([*map(row_digest, prompts, responses, logprobs)], np.int64),
        }
        | wording(rollouts["thinking"].to_pylist())
    )


def thinking_table(num_rows: int, scores: Mapping[int, float], errors: Mapping[int, str] | None = None) -> pa.Table:
    """Return the THINKING table of groups; `scores` maps the rows whose gate is open to R^t, `errors` to a failure.

    Raises `ValueError` for a score that is no finite number: it would count as not asked for.
    """
    if broken := [row for row, score in scores.items() if not math.isfinite(score)]:
        raise ValueError(f"R^t of the rows {broken} is no finite number")
    return build_table(
        THINKING_SCHEMA,
        {
            "thinking_reward": [scores.get(row) for row in range(num_rows)],
            "thinking_error": [(errors or {}).get(row) for row in range(num_rows)],
        },
    )


def to_columns(table: pa.Table) -> Columns:
    """Return every column of a scalar table as numpy."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_string(column.type):
            columns[name] = np.array([value or "" for value in column.to_pylist()], dtype=object)
        else:
            columns[name] = column.to_numpy()
    return columns


def to_reward_table(columns: Columns) -> pa.Table:
    """Return the REWARD table of a batch; `columns` as `algo.rewarding` makes them. Raises as `arrow.reward_table`."""
    dropped, masked = ([reason or None for reason in columns[name]] for name in ("dropped", "masked"))
    return reward_table(columns, dropped, masked)
