"""What shortcuts tell of the sides: a planted word is found, chance is not taken for one."""

import io
import json
import random

import pytest
from rich.console import Console

from pgrpo_ray.errors import DataError
from pgrpo_ray.jobs import pairs_report
from pgrpo_ray.reward_model.od.shortcuts import examine
from pgrpo_ray.reward_model.pairs import write_pairs
from pgrpo_ray.types import PreferencePair

WORDS = [f"word{number}" for number in range(200)]


def text(rng, words=30):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def random_pairs(count, problems, seed=0):
    rng = random.Random(seed)
    return [PreferencePair("p", text(rng), text(rng), "k", f"id{n % problems}") for n in range(count)]


def test_random_pairs_raise_no_alarm():
    report = examine(random_pairs(400, 100))
    assert report.warnings == []
    assert 0.4 < report.bag_of_words.accuracy < 0.6
    assert report.bag_of_words.low < 0.5 < report.bag_of_words.high
    assert report.longer_wins.low < 0.5 < report.longer_wins.high
    assert (report.num_pairs, report.num_problems) == (400, 100)


def test_a_planted_word_is_found_and_named():
    rng = random.Random(1)
    pairs = [
        PreferencePair("p", text(rng), text(rng) + (" however" if rng.random() < 0.8 else " word1"), "k", f"id{n // 3}")
        for n in range(600)
    ]
    report = examine(pairs)
    assert report.bag_of_words.accuracy > 0.85
    assert report.bag_of_words.low <= report.bag_of_words.accuracy <= report.bag_of_words.high
    assert report.words_of_worse[0] == "however"
    assert any("a bag of words orders" in sentence for sentence in report.warnings)


def test_a_word_that_is_peculiar_to_a_problem_does_not_leak_over_folds():
    """Each problem has its own giveaway word: of no use for a problem that was not seen."""
    rng = random.Random(2)
    pairs = [
        PreferencePair("p", f"{text(rng, 5)} tell{problem}", f"{text(rng, 5)} other{problem}", "k", f"id{problem}")
        for problem in range(30)
        for _ in range(10)
    ]
    assert examine(pairs).bag_of_words.accuracy < 0.62
    mixed = [PreferencePair("p", pair.better, pair.worse, "k", f"id{n}") for n, pair in enumerate(pairs)]
    assert examine(mixed).bag_of_words.accuracy > 0.9  # had folds not kept problems apart


def test_length_is_measured_in_both_directions_and_ties_are_half():
    def pairs(better, worse, count):
        return [PreferencePair("p", better * (n + 1), worse * (n + 1), "k", f"id{n}") for n in range(count)]

    longer = examine(pairs("ab ", "a ", 50))
    assert longer.longer_wins.accuracy == 1.0
    assert longer.warnings[0].startswith("the longer side is the better one in 100.0 %")
    shorter = examine(pairs("a ", "ab ", 50))
    assert shorter.longer_wins.accuracy == 0.0
    assert shorter.warnings[0].startswith("the shorter side is the better one in 100.0 %")
    assert examine(pairs("ab ", "cd ", 50)).longer_wins.accuracy == 0.5


def test_a_handful_of_pairs_is_no_evidence():
    few = [PreferencePair("p", "aa bb", "c" * (6 if n else 2), "", f"id{n}") for n in range(3)]
    report = examine(few)  # two of three, 67 %
    assert report.longer_wins.accuracy == pytest.approx(1 / 3)
    assert not report.longer_wins.separates


def test_one_problem_can_not_be_kept_apart():
    report = examine([PreferencePair("p", "a b", "c d", "", "one"), PreferencePair("p", "a e", "c f", "", "one")])
    assert report.bag_of_words is None
    assert json.dumps(report.to_json())


def test_problems_without_an_id_are_told_by_their_prompt():
    pairs = [PreferencePair(f"prompt {n // 2}", "aa b", "c") for n in range(10)]
    assert examine(pairs).num_problems == 5
    with pytest.raises(ValueError, match="no pairs"):
        examine([])


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_any_file_of_pairs_can_be_inspected(tmp_path, name):
    rng = random.Random(3)
    pairs = [PreferencePair("p", text(rng) + " more and more", text(rng), "k", f"id{n}") for n in range(60)]
    write_pairs(tmp_path / name, pairs)
    terminal = io.StringIO()
    report = pairs_report.inspect(tmp_path / name, tmp_path / "r" / "out.json", Console(file=terminal, width=120))
    assert json.loads((tmp_path / "r" / "out.json").read_text())["num_pairs"] == report.num_pairs == 60
    assert "warning" in terminal.getvalue() and "a bag of words" in terminal.getvalue()
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "better": "a"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1"):
        pairs_report.inspect(tmp_path / "bad.jsonl", None, Console(file=io.StringIO()))
