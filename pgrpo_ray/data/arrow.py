"""The Arrow columns of a rollout, stage by stage: what flows between processes and what lies on disk.

Each stage (rollout, verdict, thinking, reward) appends its columns to the right of the earlier ones and never rewrites
them. Rows of one table are the members of one group after another, in sampling order; a batch is the concatenation of
its groups.
Token ids are the only truth from engine to loss; `prompt` and `response` are views for people. The schemas and their
documentation are one and the same list here; `docs/rollouts.md` is kept equal to it by a test.

Tables, not record batches, go through Ray: a sliced RecordBatch ships its whole buffers (Ray 2.60). They travel as IPC
streams (`to_wire`). What comes out of the object store are views of shared memory, read-only; `append_columns` shares
the buffers that it is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.disk import whole_file
from pgrpo_ray.types import Judgement


@dataclass(frozen=True, slots=True)
class Column:
    """One column and its documentation."""

    name: str
    type: pa.DataType
    meaning: str
    """Unit included."""
    filled_by: str
    """The module or role that appends it."""
    null_means: str | None = None
    """None: the column is never null."""


def _columns(filled_by: str, rows: Sequence[tuple[Any, ...]]) -> tuple[Column, ...]:
    """Build the columns of one stage from (name, type, meaning[, null means])."""
    return tuple(Column(row[0], row[1], row[2], filled_by, row[3] if len(row) > 3 else None) for row in rows)


_TEXT, _FLOAT, _COUNT = pa.string(), pa.float32(), pa.int32()

STAGES: dict[str, tuple[Column, ...]] = {
    "rollout": _columns(
        "rollout worker",
        [
            ("problem_id", _TEXT, "the group's problem"),
            ("sample_index", _COUNT, "place in the group, 0 to group_size - 1"),
            ("policy_version", pa.int64(), "oldest policy version that sampled one of the tokens, optimizer steps"),
            ("prompt", _TEXT, "text view of `prompt_ids`, chat template included"),
            ("prompt_ids", pa.list_(pa.int32()), "token ids the policy was given"),
            ("response_ids", pa.list_(pa.int32()), "token ids the policy sampled, end of sequence included if sampled"),
            ("rollout_logprobs", pa.list_(_FLOAT), "of each of `response_ids`, by the engine when sampled, nats"),
            ("versions", pa.list_(pa.int64()), "policy versions that sampled the response, in the order of its tokens"),
            ("version_starts", pa.list_(pa.int32()), "index of the first token that each of `versions` sampled"),
            ("response", _TEXT, "text view of `response_ids`, without end of sequence"),
            ("finish_reason", _TEXT, "`stop`: ended by itself; `length`: cut at `rollout.max_response_tokens`"),
            ("format_ok", pa.bool_(), "R^f: the tag structure is right"),
            ("thinking", _TEXT, "inside `<think>`", "the format is wrong"),
            ("program", _TEXT, "inside `<answer>`, code fence stripped", "the format is wrong"),
        ],
    ),
    "verdict": _columns(
        "execution pool",
        [
            ("verdict", _TEXT, "a value of `types.Verdict`", "not run (no program), or `execution_error` says why"),
            ("tests_passed", _COUNT, "cases passed, 0 when not run"),
            ("tests_total", _COUNT, "cases of the problem, 0 when not run"),
            ("first_failed", _COUNT, "index of the first case that did not pass", "all passed, or not known"),
            ("duration_ms", _FLOAT, "wall time inside the sandbox, all cases together, milliseconds; 0 when not run"),
            ("cpu_ms", _FLOAT, "CPU time of the program, all cases together, milliseconds; 0 when not run"),
            ("peak_mib", _FLOAT, "largest resident memory of its processes, interpreter included, MiB; 0 when not run"),
            (
                "sandbox",
                _TEXT,
                "isolation that judged: `docker`, `process`; or `maths`",
                "not run, or no sandbox could be had",
            ),
            ("detail", _TEXT, "short excerpt for people, escaped and cut; may be empty"),
            ("execution_error", _TEXT, "the machinery's failure after all retries", "the machinery worked"),
        ],
    ),
    "thinking": _columns(
        "reward server",
        [
            (
                "thinking_reward",
                _FLOAT,
                "R^t in [0, 1]",
                "not asked for (gate closed, or the rule reads none); or `thinking_error`",
            ),
            (
                "thinking_error",
                _TEXT,
                "the reward server's failure, after retries until `reward_model.deadline_s`",
                "the machinery worked",
            ),
        ],
    ),
    "reward": _columns(
        "driver",
        [
            ("reward_format", _FLOAT, "R^f: 0 or 1"),
            ("reward_outcome", _FLOAT, "R^o: 0 or 1 (`soft`: the pass fraction)", "dropped"),
            ("reward_thinking", _FLOAT, "the term as added; of `posterior` R^o * R^t, in [0, 1]", "dropped"),
            ("reward_other", _FLOAT, "all other terms together: length penalty, a user's own", "dropped"),
            ("reward", _FLOAT, "sum of the terms; of `posterior` 0, 1 or 2..3", "dropped"),
            ("advantage", _FLOAT, "reward relative to its group, as `algo.advantage` says", "dropped"),
            ("dropped", _TEXT, "why the rollout has no reward, such as `execution_error`", "not dropped"),
            ("masked", _TEXT, "why the loss leaves it out though it has a reward: `cut`, `no_gradient`", "not masked"),
        ],
    ),
}
"""All columns by stage, in the order in which the stages append them."""


def _schema(stage: str) -> pa.Schema:
    """Return the Arrow schema of one stage."""
    return pa.schema([pa.field(c.name, c.type, nullable=c.null_means is not None) for c in STAGES[stage]])


ROLLOUT_SCHEMA = _schema("rollout")
VERDICT_SCHEMA = _schema("verdict")
THINKING_SCHEMA = _schema("thinking")
REWARD_SCHEMA = _schema("reward")
BATCH_SCHEMA = pa.schema([*ROLLOUT_SCHEMA, *VERDICT_SCHEMA, *THINKING_SCHEMA, *REWARD_SCHEMA])
"""A finished batch: all stages side by side."""


def build_table(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """Build a stage's table from sequences or numpy arrays, one per column of `schema`.

    A column of lists costs one copy where every row is a one-dimensional numpy array, and some 15 ns a value where rows
    are Python lists. Raises `ValueError` for a missing or extra column, unequal lengths, a type that does not convert
    without loss, or null where `schema` allows none.
    """
    if set(columns) != set(schema.names):
        missing, extra = set(schema.names) - set(columns), set(columns) - set(schema.names)
        raise ValueError(f"columns differ from the schema: missing {sorted(missing)}, unknown {sorted(extra)}")
    arrays = []
    for field in schema:
        try:
            array = _array(columns[field.name], field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"column {field.name} does not fit {field.type}: {error}") from error
        # Arrow writes nullability down but does not enforce it.
        if array.null_count and not field.nullable:
            raise ValueError(f"column {field.name} holds {array.null_count} nulls and may hold none")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """Convert one column; rows of numpy arrays are joined, not walked value by value."""
    if pa.types.is_list(kind) and len(values) and all(isinstance(row, np.ndarray) and row.ndim == 1 for row in values):
        flat = np.concatenate(values)
        if len(flat) > np.iinfo(np.int32).max:
            raise pa.ArrowInvalid(f"{len(flat)} values are more than a column of lists can hold")
        offsets = np.zeros(len(values) + 1, dtype=np.int32)
        np.cumsum([len(row) for row in values], out=offsets[1:])
        return pa.ListArray.from_arrays(offsets, pa.array(flat, kind.value_type))
    return pa.array(values, type=kind)


def verdict_table(judgements: Sequence[Judgement | None]) -> pa.Table:
    """Return the verdict columns; None stands for a rollout without a program, which is never run."""
    nothing = Judgement(verdict=None, tests_passed=0, tests_total=0, duration_ms=0.0, sandbox="")
    rows = [judgement or nothing for judgement in judgements]
    return build_table(
        VERDICT_SCHEMA,
        {
            "verdict": [None if row.verdict is None else str(row.verdict) for row in rows],
            "tests_passed": [row.tests_passed for row in rows],
            "tests_total": [row.tests_total for row in rows],
            "first_failed": [row.first_failed for row in rows],
            "duration_ms": [row.duration_ms for row in rows],
            "cpu_ms": [row.cpu_ms for row in rows],
            "peak_mib": [row.peak_mib for row in rows],
            "sandbox": [row.sandbox or None for row in rows],
            "detail": [row.detail for row in rows],
            "execution_error": [row.error for row in rows],
        },
    )


def reward_table(
    columns: Mapping[str, np.ndarray], dropped: Sequence[str | None], masked: Sequence[str | None]
) -> pa.Table:
    """Return the reward columns from numpy arrays named as in REWARD_SCHEMA, null in every dropped row.

    `dropped` and `masked` hold the reason or None per row. Raises `ValueError` for NaN and infinities in a row that is
    not dropped.
    """
    gone = np.array([reason is not None for reason in dropped], dtype=bool)
    built: dict[str, Any] = {"dropped": list(dropped), "masked": list(masked)}
    for field in REWARD_SCHEMA:
        if field.name in built:
            continue
        values = np.asarray(columns[field.name], dtype=np.float32)
        hidden = gone if field.nullable else np.zeros_like(gone)
        if not np.isfinite(values[~hidden]).all():
            raise ValueError(f"{field.name} is no finite number in a row that is not dropped")
        built[field.name] = pa.array(values, mask=hidden)
    return build_table(REWARD_SCHEMA, built)


def append_columns(*tables: pa.Table) -> pa.Table:
    """Put tables of equal height side by side, in order, without copying.

    Raises `ValueError` when heights differ or a column stands twice: stages append, they never rewrite.
    """
    if not tables:
        raise ValueError("no tables to put side by side")
    heights = [table.num_rows for table in tables]
    if len(set(heights)) > 1:
        raise ValueError(f"tables of different heights cannot stand side by side: {heights}")
    names = [name for table in tables for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns stand twice: {twice}")
    schema = pa.schema([field for table in tables for field in table.schema])
    return pa.Table.from_arrays([column for table in tables for column in table.columns], schema=schema)


def to_wire(table: pa.Table) -> pa.Buffer:
    """Return `table` as one Arrow IPC stream; of a slice, its own rows alone. There is nothing left to pickle in it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def from_wire(stream: pa.Buffer) -> pa.Table:
    """Return the table of `to_wire`, whose columns are views of `stream`. Raises `DataError` for a damaged one."""
    try:
        return _checked(pa.ipc.open_stream(stream).read_all())
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"no whole Arrow stream arrived ({error}). Send it again.") from error


def _checked(table: pa.Table) -> pa.Table:
    """Return `table` when every offset lies inside its buffers: Arrow would read beyond them, and end the process."""
    table.validate(full=True)
    return table


def write_ipc(path: str | Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write `table` as an Arrow IPC file, whole or not at all, with `metadata` in its schema.

    After the return the bytes are on disk: a step that the ledger calls done can be read after a power cut.
    """
    path = Path(path)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        whole_file(path, "wb", durable=True) as file,
        pa.ipc.new_file(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table)


def read_ipc(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table that `write_ipc` wrote; its metadata is `table.schema.metadata` (bytes). Raises `DataError`.

    `columns`: read and check these alone, in the file's order; those that it lacks are left out. None: all.
    """
    try:
        with pa.OSFile(str(path), "rb") as file:
            fields = None
            if columns is not None:
                with pa.ipc.open_file(file) as reader:
                    fields = [at for at, name in enumerate(reader.schema.names) if name in set(columns)]
            with pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields)) as reader:
                return _checked(reader.read_all())
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot be read ({reason}). Give the path of an .arrow file of a run.", str(path)) from error
    except pa.ArrowException as error:
        raise DataError(f"is not a whole Arrow IPC file ({error}). Copy it again.", str(path)) from error


def list_lengths(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the length of each list, int64 [B]. Raises `ValueError` for nulls."""
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} lists are null")
    return np.asarray(pc.list_value_length(column), dtype=np.int64)


def describe_columns() -> str:
    """Return all stages as Markdown tables; `docs/rollouts.md` contains exactly this text."""
    parts = []
    for stage, columns in STAGES.items():
        lines = [f"### Stage `{stage}`, appended by the {columns[0].filled_by}", ""]
        lines += ["| column | type | meaning | null means |", "|---|---|---|---|"]
        for column in columns:
            kind = str(column.type).replace("element: ", "").replace("item: ", "")
            lines.append(f"| `{column.name}` | `{kind}` | {column.meaning} | {column.null_means or 'never null'} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
