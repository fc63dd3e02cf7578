"""Files of pairs, scores, LCB-RB, and the ledger of a pairs job, torn or damaged: `DataError` or what was written."""

import io
import json
import shutil
from dataclasses import asdict

import pyarrow as pa
import pytest
from fuzzing import FOLDER, as_file, damaged, edited, fuzz, nested
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.reward_model import corpus
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.reward_model.od.ledger import Ledger
from pgrpo_ray.reward_model.pairs import PAIR_SCHEMA, read_pairs, row_of, sample_pairs
from pgrpo_ray.types import PreferencePair

PAIR = {"prompt": "p", "better": "good", "worse": "bad", "kind": "k", "problem_id": "1", "difficulty": "easy"}
SCORE = {"prompt": "p", "reasoning": "r", "score": 0.5}
LCB = dict.fromkeys(schema.FIELDS, "x") | {
    "chosen": "a", "chosen_verdict": "passed", "rejected_verdict": "wrong_answer", "decision": "accept",
    "judge_answers": ["a"],
}  # fmt: skip
LCB |= {name: 1 for name, kind in schema.ReasoningPair.__annotations__.items() if kind is int}
SIDES = {"prompt": "p", "chosen": "a", "rejected": "b", "id": 3, "subset": "s"}
RECORDS = [PAIR, SCORE, LCB, SIDES]


def parquet_of(rows, kinds=None) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, kinds), sink)
    return sink.getvalue()


TABLES = [
    parquet_of([row_of(PreferencePair(**PAIR), dimension="d", source="starter", seed=3)], PAIR_SCHEMA),
    *map(parquet_of, ([PAIR] * 2, [SCORE], [LCB], [SIDES])),
    parquet_of([PAIR | {"difficulty": None, "kind": b"\xff", "seed": 2**62}]),
]
LINES = [(json.dumps(record) + "\n").encode() for record in RECORDS]
SEEDS = [*LINES, *TABLES]


def read(data: bytes) -> None:
    """Read `data` as every kind of file there is."""
    for suffix in ("", ".parquet"):
        file = as_file(data, f"pairs{suffix}")
        for reader in (read_all_pairs, corpus.read_scores, schema.read_pairs, schema.read_scored_pairs):
            try:
                rows = reader(file)
            except DataError as error:
                assert error.file == str(file)
                continue
            assert rows
            json.dumps([asdict(row) for row in rows], ensure_ascii=False).encode("utf-8")


def read_all_pairs(file):
    pairs = read_pairs(file)
    assert sample_pairs(file, len(pairs), 0) == pairs
    assert all(pair.better.strip() != pair.worse.strip() and pair.prompt.strip() for pair in pairs)
    assert len(corpus.read_dimensions(file, len(pairs))) == len(pairs)
    corpus.read_groups(file, pairs)
    return pairs


@fuzz(150)
@given(damaged(SEEDS, [b"PAR1", b"\0\0\0\0", b"\xff" * 4, b"\\ud800", nested(2000).encode(), b"NaN"]))
def test_damaged_files(data):
    read(data)


@fuzz(150)
@given(edited(RECORDS))
def test_edited_records(record):
    read((json.dumps(record) + "\n").encode())
    try:
        data = parquet_of([record] if isinstance(record, dict) else [])
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError):
        return  # no such column
    read(data)


KINDS = st.sampled_from(
    [
        pa.timestamp("s"),
        pa.timestamp("us", "Mars/Base"),
        pa.date64(),
        pa.duration("s"),
        pa.time64("ns"),
        pa.int64(),
        pa.date32(),
    ]
)


@fuzz(100)
@given(st.sampled_from(RECORDS), st.data())
def test_columns_of_odd_types(record, data):
    """Values that Arrow holds and Python does not, such as the year 300,000."""
    name, kind = data.draw(st.sampled_from(sorted(record))), data.draw(KINDS)
    number = data.draw(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**62), 2**62))
    try:
        column = (
            pa.array([number], pa.int64()).cast(kind)
            if kind != pa.date32()
            else pa.array([number % 2**31], pa.int32()).cast(kind)
        )
        table = pa.Table.from_pylist([record]).set_column(sorted(record).index(name), name, column)
        sink = io.BytesIO()
        parquet.write_table(table, sink)
    except (pa.ArrowException, OSError):
        return
    read(sink.getvalue())


def test_a_day_that_python_has_not_is_damage():
    far, sink = pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), io.BytesIO()
    parquet.write_table(pa.table({"prompt": ["p"], "better": far, "worse": ["w"]}), sink)
    for reader in (read_pairs, corpus.read_scores, schema.read_pairs):
        with pytest.raises(DataError, match="damaged Parquet"):
            reader(as_file(sink.getvalue()))


KEPT = [{"key": f"k{number}", "text": f"line\n{number} \u2028"} for number in range(4)]
CALLS = "".join(json.dumps(record) + "\n" for record in KEPT).encode()
DECIDES = {"model": "m", "seed": 0}
CONFIG = json.dumps(DECIDES, indent=2).encode()


def keep(calls: bytes, config: bytes) -> None:
    """Open a ledger over what is left of its files; what it holds is what stands there, and it takes more."""
    folder = FOLDER / "ledger"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "calls.jsonl").write_bytes(calls)
    (folder / "config.json").write_bytes(config)
    try:
        with Ledger(folder, DECIDES) as ledger:
            held = len(ledger)
            ledger.append("new", {"text": "t"})
            assert ledger.get("new") == {"key": "new", "text": "t"} or b'"new"' in calls
    except (DataError, ConfigError) as error:
        assert len(str(error)) < 2000 + 10 * len(config)
        return
    lines = (folder / "calls.jsonl").read_bytes().splitlines(keepends=True)
    assert len({json.loads(line)["key"] for line in lines}) == held + (b'"new"' not in calls)
    whole = calls[: calls.rfind(b"\n") + 1]
    assert b"".join(lines).startswith(whole)  # nothing is lost but a torn last line
    with Ledger(folder, DECIDES) as ledger:
        assert "new" in ledger


@fuzz(200)
@given(
    damaged(
        [CALLS], [b"{}\n", b"\n", b"[]", b'{"key": []}\n', b'{"key": null}\n', b"\xff", nested(2000).encode() + b"\n"]
    ),
    st.just(CONFIG),
)
@example(CALLS + b'{"key": []}\n', CONFIG)
@example(CALLS + b'{"key": {}}\n', CONFIG)
@example(nested(2000).encode() + b"\n" + CALLS, CONFIG)
def test_ledger(calls, config):
    keep(calls, config)


@fuzz(100)
@given(
    damaged([CONFIG], [b"[]", b"null", b'[["a", 1]]', nested(2000).encode(), b"\xff"])
    | edited([DECIDES]).map(lambda v: json.dumps(v).encode())
)
@example(nested(2000).encode())
def test_ledger_config(config):
    keep(CALLS, config)
