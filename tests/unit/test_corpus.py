"""What a reward model is trained on: the split, scores from files, the mixture's rules."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.reward_model import corpus
from pgrpo_ray.reward_model.corpus import ScoredReasoning
from pgrpo_ray.reward_model.pairs import row_of, write_pairs, write_rows
from pgrpo_ray.types import PreferencePair


def pair(prompt, number=0, kind="k"):
    return PreferencePair(prompt, f"good {number}", f"bad {number}", kind)


def test_all_rows_of_a_problem_lie_on_one_side_and_pairs_and_scores_agree():
    pairs = [pair(f"Problem {n}" if row % 2 else f"problem  {n} ", row) for n in range(60) for row in range(4)]
    scores = [ScoredReasoning(f"problem {n}", "r", 0.5) for n in range(60)]
    sides, scored = corpus.split(pairs, 0.4), corpus.split(scores, 0.4)
    seen = []
    for name in ("train", "validation", "test"):
        words = {" ".join(one.prompt.lower().split()) for one in getattr(sides, name)}
        assert words == {one.prompt for one in getattr(scored, name)}
        assert len(getattr(sides, name)) == 4 * len(words) == 4 * corpus.num_problems(getattr(sides, name))
        seen += words
    assert len(seen) == len(set(seen)) == 60


def test_statements_of_one_group_are_held_out_together_also_of_scores():
    groups = {f"words {way} of task {n}": f"task {n}" for n in range(60) for way in range(3)}
    pairs, scores = [pair(prompt) for prompt in groups], [ScoredReasoning(prompt, "r", 0.5) for prompt in groups]
    sides, scored = corpus.split(pairs, 0.4, groups), corpus.split(scores, 0.4, groups)
    held = [{groups[one.prompt] for one in getattr(sides, name)} for name in ("train", "validation", "test")]
    assert sum(map(len, held)) == len(set.union(*held)) == 60
    assert [len(getattr(sides, name)) for name in ("train", "validation", "test")] == [3 * len(one) for one in held]
    assert {one.prompt for one in scored.test} == {one.prompt for one in sides.test}
    assert corpus.num_problems(pairs, groups) == 60 and corpus.num_problems(pairs) == 180
    with pytest.raises(DataError, match="1 to train on"):
        corpus.check_sides(corpus.Sides(pairs[:3], pairs[3:6], pairs[6:9]), "pairs.jsonl", groups)


def test_groups_of_a_file_are_those_of_the_starters_rows(tmp_path):
    pairs = [PreferencePair("add 2 or so", "good", "bad", "k", "add(2)"), PreferencePair("mine", "g", "b", "k", "id-1")]
    rows = [row_of(one, source=source) for one, source in zip(pairs, ("starter", "od"), strict=True)]
    write_rows(tmp_path / "pairs.parquet", rows)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert corpus.read_groups(tmp_path / "pairs.parquet", pairs) == {"add 2 or so": "add(2)"}
    assert corpus.read_groups(tmp_path / "pairs.jsonl", pairs) == {}


def test_too_few_problems_are_refused_however_many_rows_they_have():
    sides = corpus.split([pair("one problem", n) for n in range(1000)], 0.5)
    with pytest.raises(DataError, match=r"pairs.jsonl: too few problems to split: .*not more rows"):
        corpus.check_sides(sides, "pairs.jsonl")
    corpus.check_sides(corpus.split([pair(f"problem {n}") for n in range(100)], 0.3), "pairs.jsonl")


def test_scores_are_read_from_lines_and_parquet_and_bad_ones_are_named(tmp_path):
    rows = [{"prompt": "p", "reasoning": "r", "score": 0.25}, {"prompt": "p", "reasoning": "s", "score": 1}]
    expected = [ScoredReasoning("p", "r", 0.25), ScoredReasoning("p", "s", 1.0)]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert corpus.read_scores(tmp_path / "scores.jsonl") == expected
    pq.write_table(pa.Table.from_pylist([dict(row, score=float(row["score"])) for row in rows]), tmp_path / "s.parquet")
    assert corpus.read_scores(tmp_path / "s.parquet") == expected
    for bad in (7, -0.1, None, "high", True):
        (tmp_path / "bad.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps(dict(rows[0], score=bad)) + "\n")
        with pytest.raises(DataError, match="from 0 to 1") as caught:
            corpus.read_scores(tmp_path / "bad.jsonl")
        assert caught.value.line == 2
    with pytest.raises(DataError, match="cannot be read"):
        corpus.read_scores(tmp_path / "missing.jsonl")


def test_pairs_are_made_of_scores_that_differ_within_a_problem():
    rows = [ScoredReasoning("p", "low", 0.1), ScoredReasoning("p", "high", 0.9), ScoredReasoning("p", "also", 0.1)]
    rows += [ScoredReasoning("q", "alone", 0.3)]
    found = {(one.better, one.worse) for one in corpus.pairs_of_scores(rows, 0)}
    assert found == {("high", "low"), ("high", "also")}
    many = [ScoredReasoning("p", f"r{n}", n / 20) for n in range(20)]
    made = corpus.pairs_of_scores(many, 0)
    assert len(made) == len(set(made)) == corpus.SCORE_PAIRS_PER_PROBLEM
    assert all(int(one.better[1:]) > int(one.worse[1:]) for one in made)
    assert made == corpus.pairs_of_scores(many, 0)


def test_a_mixture_names_every_kind_or_is_refused_with_the_nearest():
    kinds = {"optimised_over_degraded", "original_over_degraded"}
    corpus.check_mixture({}, kinds)
    corpus.check_mixture({"optimised_over_degraded": 1.0, "original_over_degraded": 0.0}, kinds)
    with pytest.raises(ConfigError, match=r"'optimized_over_degraded'.*Did you mean 'optimised_over_degraded'"):
        corpus.check_mixture({"optimized_over_degraded": 1.0}, kinds)
    with pytest.raises(ConfigError, match="no weight to 'original_over_degraded'"):
        corpus.check_mixture({"optimised_over_degraded": 1.0}, kinds)
    with pytest.raises(ConfigError, match="leaves out every kind"):
        corpus.check_mixture({"optimised_over_degraded": 0.0, "original_over_degraded": 0.0}, kinds)


def test_dimensions_come_with_parquet_only(tmp_path):
    pairs = [pair(f"p{n}", n) for n in range(3)]
    write_rows(tmp_path / "pairs.parquet", (row_of(one, dimension=f"d{n}") for n, one in enumerate(pairs)))
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert corpus.read_dimensions(tmp_path / "pairs.parquet", 3) == ["d0", "d1", "d2"]
    assert corpus.read_dimensions(tmp_path / "pairs.jsonl", 3) == ["", "", ""]


def test_thinning_keeps_the_order_and_follows_from_the_seed():
    assert corpus.thin(list(range(10)), 20, "s") == list(range(10))
    kept = corpus.thin(list(range(1000)), 10, "s")
    assert kept == sorted(kept) == corpus.thin(list(range(1000)), 10, "s")
    assert kept != corpus.thin(list(range(1000)), 10, "t")
