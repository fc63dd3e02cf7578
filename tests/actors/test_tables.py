"""Arrow tables through Ray's object store: read without a copy, and of a slice no more than its rows."""

import sys

import numpy as np
import pyarrow as pa
import pytest
import ray

from pgrpo_ray.actors.cluster import actor_class, ship_tables
from pgrpo_ray.data import arrow
from pgrpo_ray.data.padding import TOKEN_COLUMNS, row_views

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
ROWS, TOKENS = 64, 4000


def token_table():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 1000, TOKENS).astype(np.int32) for _ in range(ROWS)]
    schema = pa.schema([arrow.ROLLOUT_SCHEMA.field(name) for name in TOKEN_COLUMNS])
    logprobs = [np.zeros(TOKENS, np.float32)] * ROWS
    return arrow.build_table(schema, dict(zip(TOKEN_COLUMNS, (ids, ids, logprobs), strict=True)))


class Maker:
    """Makes a table in its own process and says how many bytes it would send."""

    def __init__(self, name):
        self.name = name

    def make(self):
        return token_table()

    def size(self, start, rows):
        return (
            ray._private.worker.global_worker.get_serialization_context()
            .serialize(token_table().slice(start, rows))
            .total_bytes
        )

    def called(self):
        return self.name, type(self).__name__


@pytest.fixture(scope="module")
def maker(local_ray):
    actor = actor_class(Maker, cpus=0, threads=1).remote("maker")
    yield actor
    ray.kill(actor)


def buffers(table):
    """(address, size) of every buffer of the table."""
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    return [(buffer.address, buffer.size) for chunk in chunks for buffer in chunk.buffers() if buffer is not None]


def test_a_table_is_read_where_it_lies(maker):
    ref = maker.make.remote()
    first, second = ray.get(ref), ray.get(ref)
    assert first.equals(token_table())
    assert buffers(first) == buffers(second)  # two reads, one memory
    rows = row_views([first], "response_ids")  # what the learner copies from
    place = first["response_ids"].chunk(0).values.buffers()[1].address
    assert [row.ctypes.data for row in rows] == [place + 4 * TOKENS * number for number in range(ROWS)]
    assert not any(row.flags.writeable for row in rows)  # they are everyone's


def test_columns_appended_to_what_ray_gave_share_its_memory(maker):
    table = ray.get(maker.make.remote())
    verdicts = arrow.verdict_table([None] * ROWS)
    both = arrow.append_columns(table, verdicts)
    assert buffers(both) == buffers(table) + buffers(verdicts)


def test_a_slice_ships_its_own_rows_alone(maker):
    whole, slice_ = ray.get([maker.size.remote(0, ROWS), maker.size.remote(40, 2)])
    payload = 12 * TOKENS  # bytes of a row: two columns of int32, one of float32
    assert ROWS * payload < whole < 1.01 * ROWS * payload + 4096
    assert 2 * payload < slice_ < 1.01 * 2 * payload + 4096


def test_an_actor_that_ships_tables_is_still_its_role(maker):
    assert ray.get(maker.called.remote()) == ("maker", "Maker")


def test_both_ways_of_sending_give_the_same_table():
    table = token_table()
    by_ray = ray.get(ray.put(table))
    ship_tables()
    assert ray.get(ray.put(table)).equals(by_ray)
    assert ray.get(ray.put(table.slice(3, 5))).equals(table.slice(3, 5))
    empty = ray.get(ray.put(table.slice(0, 0)))
    assert empty.schema == table.schema
    assert empty.num_rows == 0
