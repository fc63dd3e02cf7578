"""Files of pairs: the documented schema, both containers, and what is refused with its place."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgrpo_ray.errors import DataError
from pgrpo_ray.reward_model.pairs import (
    COLUMNS,
    PAIR_SCHEMA,
    describe_columns,
    pair_id,
    problem_hash,
    read_pairs,
    row_of,
    sample_pairs,
    write_pairs,
    write_rows,
)
from pgrpo_ray.types import PreferencePair

PAIRS = [
    PreferencePair("prompt \u2028 1", "good", "bad", "kind", "id1", "easy"),
    PreferencePair("prompt 2", "göod\n\nlines", "bad"),
]


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl"])
def test_pairs_survive_both_containers(tmp_path, name):
    write_pairs(tmp_path / name, PAIRS)
    assert read_pairs(tmp_path / name) == PAIRS
    renamed = (tmp_path / name).rename(tmp_path / "no_suffix")
    assert read_pairs(renamed) == PAIRS  # told apart by content
    assert [path.name for path in tmp_path.iterdir()] == ["no_suffix"]


def test_the_schema_is_what_the_documentation_says(tmp_path):
    write_pairs(tmp_path / "p.parquet", PAIRS)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.schema.equals(PAIR_SCHEMA)
    page = (Path(__file__).parents[2] / "docs" / "reward-model.md").read_text(encoding="utf-8")
    assert describe_columns() in page
    assert [column.name for column in COLUMNS] == PAIR_SCHEMA.names
    first = table.to_pylist()[0]
    assert first["problem_hash"] == problem_hash("prompt 1")  # the line separator is white space
    assert first["seed"] is None and first["generator"] == ""


def test_identity_is_of_content():
    assert problem_hash("a  b\nc") == problem_hash(" a b c ") != problem_hash("a b d")
    row = row_of(PAIRS[0], dimension="d", source="starter", seed=3)
    assert row["pair_id"] == pair_id(PAIRS[0].prompt, "kind", "d", "good", "bad")
    assert len({pair_id(*parts) for parts in ["pkdbw", "pkdwb", "pkxbw", "pxdbw", "xkdbw"]}) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"worse": "good"}, "same text"),
        ({"worse": " good\n"}, "same text"),
        ({"worse": ""}, "'worse' is blank"),
        ({"better": " \n"}, "'better' is blank"),
        ({"worse": None}, "'worse' must be a string"),
        ({"prompt": ""}, "'prompt' is blank"),
    ],
)
def test_a_pair_that_teaches_nothing_is_refused_with_its_row(tmp_path, change, words):
    good = {"prompt": "p", "better": "good", "worse": "bad", "kind": "k"}
    (tmp_path / "p.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    pq.write_table(pa.Table.from_pylist([good, good | change]), tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.parquet"):
        with pytest.raises(DataError, match=words) as caught:
            read_pairs(tmp_path / name)
        assert (caught.value.line, name in str(caught.value)) == (2, True)


def test_an_unlabelled_file_is_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "p", "better": "a"}\n')
    with pytest.raises(DataError, match=r"'worse' is missing"):
        read_pairs(tmp_path / "p.jsonl")
    pq.write_table(pa.table({"prompt": ["p"], "chosen": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="has no column 'better'"):
        read_pairs(tmp_path / "p.parquet")


def test_foreign_and_damaged_files(tmp_path):
    columns = {"prompt": ["p"], "better": ["a"], "worse": ["b"], "extra": [1], "kind": pa.array([None], pa.string())}
    pq.write_table(pa.table(columns), tmp_path / "foreign.parquet")
    assert read_pairs(tmp_path / "foreign.parquet") == [PreferencePair("p", "a", "b")]
    write_pairs(tmp_path / "whole.parquet", PAIRS)
    raw = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match="damaged Parquet"):
        read_pairs(tmp_path / "half.parquet")
    write_rows(tmp_path / "empty.parquet", [])
    with pytest.raises(DataError, match="holds no pairs"):
        read_pairs(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "absent.parquet")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_pairs(tmp_path / "p.parquet", PAIRS)

    def broken():
        yield row_of(PAIRS[0])
        raise RuntimeError("generator died")

    with pytest.raises(RuntimeError):
        write_rows(tmp_path / "p.parquet", broken())
    assert read_pairs(tmp_path / "p.parquet") == PAIRS
    assert len(list(tmp_path.iterdir())) == 1


def test_a_sample_is_even_and_keeps_the_order(tmp_path):
    pairs = [PreferencePair("p", f"b{number}", "w") for number in range(3000)]
    assert write_rows(tmp_path / "p.parquet", map(row_of, pairs)) == 3000  # several row groups
    sample = sample_pairs(tmp_path / "p.parquet", 300, seed=0)
    numbers = [int(pair.better[1:]) for pair in sample]
    assert numbers == sorted(set(numbers)) and len(numbers) == 300
    assert 1300 < sum(numbers) / 300 < 1700
    assert sample_pairs(tmp_path / "p.parquet", 5000, seed=0) == pairs
