"""Arrow on the wire and on disk, damaged: `DataError`, or a table whose every value can be read."""

import struct

import pyarrow as pa
import pytest
from fuzzing import as_file, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.data import arrow
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import Judgement, Verdict

VERDICTS = [
    Judgement(Verdict.PASSED, 1, 2, 1.5, "docker", detail="é"),
    None,
    Judgement(None, 0, 2, 0.0, "", error="broke"),
]
TABLES = [
    arrow.verdict_table(VERDICTS),
    arrow.verdict_table([]),
    pa.table({"ids": pa.array([[1, 2], [], [3]], pa.list_(pa.int32())), "text": ["a", "b" * 50, None]}),
]
STREAMS = [arrow.to_wire(table).to_pybytes() for table in TABLES]


def written(table) -> bytes:
    file = as_file(b"", "table.arrow")
    arrow.write_ipc(file, table, {"step": "3"})
    return file.read_bytes()


FILES = [written(table) for table in TABLES]
SEEDS = [*FILES, *STREAMS]
ODD = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff" * 8, b"\0" * 64, b"ARROW1"]


def read(data: bytes) -> None:
    """Read `data` as a file and as a stream; use every value of what comes out."""
    file = as_file(data, "table.arrow")
    try:
        use(arrow.read_ipc(file))
    except DataError as error:
        assert error.file == str(file)
    try:
        use(arrow.from_wire(pa.py_buffer(data)))
    except DataError as error:
        assert "Arrow" in str(error)


def use(table) -> None:
    assert len(table.to_pylist()) == table.num_rows
    assert pa.ipc.open_stream(arrow.to_wire(table)).read_all().schema == table.schema


@fuzz(400)
@given(damaged(SEEDS, ODD) | st.binary(max_size=60))
def test_damaged_tables(data):
    read(data)


@pytest.mark.parametrize("column", [["x" * 7777, "y" * 5], [list(range(7777)), [1] * 5]])
def test_offsets_beyond_the_buffer_are_refused_and_not_followed(column):
    """Arrow follows them: without the check, reading a value ends the process."""
    table, sink = pa.table({"a": column}), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    stream, file = (moved(buffer.to_pybytes()) for buffer in (arrow.to_wire(table), sink.getvalue()))
    with pytest.raises(DataError, match="no whole Arrow stream"):
        arrow.from_wire(pa.py_buffer(stream))
    with pytest.raises(DataError, match="not a whole Arrow IPC file"):
        arrow.read_ipc(as_file(file, "offsets.arrow"))


def moved(data: bytes) -> bytes:
    offsets = struct.pack("<iii", 0, 7777, 7782)
    assert data.count(offsets) == 1
    return data.replace(offsets, struct.pack("<iii", 0, 1 << 28, 7782))
