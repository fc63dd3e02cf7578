"""LCB-RB and RewardBench files: what is read back, what is refused and where."""

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pgrpo_ray.errors import DataError
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.reward_model.lcb_rb.schema import ReasoningPair, ScoredPair

REPOSITORY = Path(__file__).parents[2]
PAIR = ReasoningPair(
    id="1",
    problem_id="p1",
    prompt="Add them.",
    difficulty="easy",
    chosen="Add \u2028 </script> both.",
    rejected="Guess.",
    chosen_program="a",
    rejected_program="b",
    chosen_verdict="passed",
    rejected_verdict="wrong_answer",
    chosen_sample="0/1",
    rejected_sample="0/2",
    policy="tiny",
    judge="none",
    decision="accept",
    judge_answers=("one", "two"),
    prompt_hash="",
    sampling_seed=3,
    selection_seed=4,
    problems_hash="abc",
)


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_pairs_come_back_as_they_were(tmp_path):
    pairs = [PAIR, replace(PAIR, id="2", chosen="Other words.")]
    schema.write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert schema.read_pairs(tmp_path / "pairs.jsonl") == pairs
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]  # no draft is left


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "pairs.jsonl"
    schema.write_pairs(file, [PAIR])

    def broken():
        yield {"a": 1}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        schema.write_lines(file, broken())
    assert schema.read_pairs(file) == [PAIR]
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": "Guess."}, "same text"),
        ({"chosen": " \n"}, "'chosen' is blank"),
        ({"prompt": ""}, "'prompt' is blank"),
        ({"chosen_verdict": "wrong_answer"}, "Turn the sides round"),
        ({"rejected_verdict": "passed"}, "Turn the sides round"),
        ({"decision": "acept"}, "Did you mean 'accept'?"),
        ({"judge_answers": [1]}, "'judge_answers' must hold strings"),
        ({"sampling_seed": "3"}, "'sampling_seed' must be an integer"),
    ],
)
def test_unusable_pairs_are_refused_with_their_line(tmp_path, change, words):
    file = write(tmp_path / "pairs.jsonl", asdict(PAIR), asdict(PAIR) | {"id": "2"} | change)
    with pytest.raises(DataError, match=words) as caught:
        schema.read_pairs(file)
    assert (caught.value.file, caught.value.line) == (str(file), 2)


def test_a_missing_field_and_a_repeated_pair_are_refused(tmp_path):
    record = asdict(PAIR)
    del record["policy"]
    with pytest.raises(DataError, match="'policy' is missing"):
        schema.read_pairs(write(tmp_path / "a.jsonl", record))
    with pytest.raises(DataError, match="stands already on line 1"):
        schema.read_pairs(write(tmp_path / "b.jsonl", asdict(PAIR), asdict(PAIR)))


def test_candidates_that_were_not_accepted_are_not_scored(tmp_path):
    file = write(tmp_path / "candidates.jsonl", asdict(PAIR) | {"decision": "reject"})
    assert schema.read_pairs(file)[0].decision == "reject"
    with pytest.raises(DataError, match="a candidate, no pair"):
        schema.read_scored_pairs(file)


def test_lcb_rb_is_scored_by_problem_and_difficulty(tmp_path):
    schema.write_pairs(tmp_path / "pairs.jsonl", [PAIR])
    expected = ScoredPair("1", "p1", "Add them.", PAIR.chosen, "Guess.", difficulty="easy")
    assert schema.read_scored_pairs(tmp_path / "pairs.jsonl") == [expected]


REWARD_BENCH = [
    {"id": 7, "prompt": "q", "chosen": "good", "rejected": "bad", "subset": "hep-python", "chosen_model": "x"},
    {"id": 7, "prompt": "q", "chosen": "fine", "rejected": "bad", "subset": "math-prm", "chosen_model": "x"},
]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "parquet"])
def test_reward_bench_is_read_in_every_container(tmp_path, kind):
    file = tmp_path / f"bench.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(REWARD_BENCH), file)
    elif kind == "json":
        file.write_text(json.dumps(REWARD_BENCH))
    else:
        text = "".join(json.dumps(record) + "\n" for record in REWARD_BENCH)
        file.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    first, second = schema.read_scored_pairs(file)
    assert (first.subset, first.prompt, first.chosen, first.rejected) == ("hep-python", "q", "good", "bad")
    assert first.id != second.id  # subsets number their pairs apart
    assert first.group == second.group  # the same prompt is the same problem


def test_an_unlabeled_pair_is_explained(tmp_path):
    file = write(tmp_path / "bench.jsonl", {"prompt": "q", "response_a": "x", "response_b": "y"})
    with pytest.raises(DataError, match="name the better text `chosen`") as caught:
        schema.read_scored_pairs(file)
    assert caught.value.line == 1


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_side_is_refused(tmp_path, value):
    file = tmp_path / "bench.parquet"
    rows = [REWARD_BENCH[0], REWARD_BENCH[1] | {"rejected": value}]
    parquet.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(DataError, match="rejected") as caught:
        schema.read_scored_pairs(file)
    assert caught.value.line == 2


def test_what_is_no_parquet_file_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_text("not parquet at all")
    for name in ("x.parquet", "absent.parquet"):
        with pytest.raises(DataError, match=r"\.parquet"):
            schema.read_scored_pairs(tmp_path / name)


def test_ids_follow_the_content():
    assert schema.pair_id("p", "ab", "c") == schema.pair_id("p", "ab", "c")
    assert schema.pair_id("p", "ab", "c") != schema.pair_id("p", "a", "bc")
    assert len(schema.pair_id("p", "ab", "c")) == 16


def test_the_documentation_holds_the_schema():
    assert schema.describe_fields() in (REPOSITORY / "docs" / "lcb-rb.md").read_text(encoding="utf-8")
