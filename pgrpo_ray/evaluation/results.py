"""The folder that an evaluation leaves.

    settings.json      what the samples were made with; a resumed evaluation must have the same
    parts/             samples judged so far; gone once `samples.parquet` is there
    samples.parquet    a row per sample (`SCHEMA`), problems in the benchmark's order, settings in its metadata
    summary.json       what follows from them (`summary`)

Owns the schema, whole-or-not writing and reading.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.disk import whole_file

SAMPLES, SUMMARY, SETTINGS, PARTS = "samples.parquet", "summary.json", "settings.json", "parts"
COLUMNS: tuple[tuple[str, pa.DataType, bool, str], ...] = (
    ("problem_id", pa.string(), False, "the benchmark's own id"),
    ("sample_index", pa.int32(), False, "place among the problem's samples, from 0"),
    ("difficulty", pa.string(), False, "in the benchmark's words; empty where it has none"),
    ("prompt", pa.string(), False, "what the model was given, chat template included; empty for solutions"),
    ("response", pa.string(), False, "what it wrote, or the solution"),
    ("program", pa.string(), True, "what was judged of it (an answer, in maths); null: nothing to judge"),
    ("format_ok", pa.bool_(), False, "the tag structure is right"),
    ("passed", pa.bool_(), True, "the verdict is `passed`; null: the machinery failed, see `error`"),
    ("verdict", pa.string(), True, "a value of `types.Verdict`; null: no program, or `error`"),
    ("tests_passed", pa.int32(), False, "cases passed; 0 when not run"),
    ("tests_total", pa.int32(), False, "cases of the problem; 0 when not run"),
    ("first_failed", pa.int32(), True, "index of the first case that did not pass; null: all passed, or not known"),
    ("finish_reason", pa.string(), False, "`stop`: ended by itself; `length`: cut; `solution`: not sampled"),
    ("prompt_tokens", pa.int32(), False, "0 for solutions"),
    ("response_tokens", pa.int32(), False, "end of sequence included if sampled; 0 for solutions"),
    ("duration_ms", pa.float32(), False, "wall time of judging inside the sandbox, milliseconds"),
    ("cpu_ms", pa.float32(), False, "CPU time of the program, milliseconds"),
    ("peak_mib", pa.float32(), False, "largest resident memory, MiB"),
    ("sandbox", pa.string(), True, "what judged: `docker`, `process` or `maths`; null: not run"),
    ("detail", pa.string(), False, "short excerpt for people; may be empty"),
    ("error", pa.string(), True, "the machinery's failure after all retries; null: it worked"),
)
"""Name, type, whether null is allowed, meaning; docs/evaluation.md holds the same."""
SCHEMA = pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable, _ in COLUMNS])


def describe_columns() -> str:
    """Return the schema as a Markdown table; docs/evaluation.md contains exactly this text."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | `{kind}` | {meaning} |" for name, kind, _, meaning in COLUMNS)]) + "\n"


def write_table(path: Path, table: pa.Table, settings: Mapping[str, Any]) -> None:
    """Write samples as Parquet, whole or not at all, with the settings as JSON under the metadata key `settings`."""
    metadata = {"settings": json.dumps(settings)}
    with whole_file(path, "wb") as file:
        parquet.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")


def read_table(path: Path) -> pa.Table:
    """Read samples. Raises `DataError` for what is no such file."""
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"cannot be read ({first}). Run the evaluation again.", str(path)) from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(f"lacks the column {missing[0]!r}: it is no result of `pgrpo eval`.", str(path))
    return table.select(SCHEMA.names).cast(SCHEMA)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished evaluation of one benchmark."""

    folder: Path
    settings: dict[str, Any]
    table: pa.Table

    @property
    def benchmark(self) -> str:
        """Its benchmark's name."""
        return str(self.settings.get("benchmark", ""))


def load_result(folder: Path) -> Result:
    """Read a finished evaluation. Raises `DataError` where there is none."""
    path = folder / SAMPLES
    if not path.is_file():
        going = " An evaluation was begun there; run it to its end." if (folder / SETTINGS).is_file() else ""
        raise DataError(f"has no {SAMPLES}. Give the folder of a finished `pgrpo eval`.{going}", str(folder))
    table = read_table(path)
    raw = parquet.read_schema(path).metadata or {}
    try:
        settings = json.loads(raw[b"settings"])
    except (KeyError, ValueError) as error:
        raise DataError("does not say what it was made with. Run the evaluation again.", str(path)) from error
    return Result(folder, settings, table)
