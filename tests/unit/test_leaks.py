"""The leak guard: what counts as the same problem, runs of words, a split that follows content alone."""

import pytest

from pgrpo_ray.errors import DataError
from pgrpo_ray.reward_model.leaks import (
    Overlap,
    Text,
    content_key,
    find_overlaps,
    heldout_side,
    refuse_overlap,
    words_of,
)


def test_case_white_space_and_unicode_forms_make_no_other_problem():
    assert words_of("Add  Two,\n then\u00a0STOP!") == ["add", "two", ",", "then", "stop", "!"]
    assert content_key("Add two") == content_key(" add\n\uff34wo ")  # a full-width T
    assert content_key("add two") != content_key("two add")


def test_a_problem_lies_on_one_side_whatever_its_spelling_and_the_shares_are_as_asked():
    sides = [heldout_side(f"problem number {n}", 0.2) for n in range(4000)]
    assert heldout_side("PROBLEM  number 17", 0.2) == sides[17]
    assert sides.count("validation") / 4000 == pytest.approx(0.1, abs=0.02)
    assert sides.count("test") / 4000 == pytest.approx(0.1, abs=0.02)
    assert {heldout_side(f"problem number {n}", 0.0) for n in range(100)} == {"train"}


def test_a_larger_share_moves_no_problem_back_into_training():
    small = {n for n in range(2000) if heldout_side(f"p {n}", 0.1) != "train"}
    large = {n for n in range(2000) if heldout_side(f"p {n}", 0.3) != "train"}
    assert small < large


def test_exact_and_partial_overlap_by_hand():
    # Eight words have six runs of three; the trained text holds runs 1..4 of them (words a..f).
    measured = [Text("m0", "a b c d e f g h"), Text("m1", "x y"), Text("m2", "u v w u v"), Text("m3", "X, Y z")]
    trained = [Text("t0", "a b c"), Text("t1", "q a b c d e f q"), Text("t2", "x   Y"), Text("t3", "v w x y z")]
    assert find_overlaps(trained, measured, num_words=3, min_shared_frac=0.5) == [
        Overlap("m1", "t2", 1.0, True),  # too short for a run, but the same words
        Overlap("m0", "t1", 4 / 6, False),
    ]
    assert [one.measured for one in find_overlaps(trained, measured, 3, 0.7)] == ["m1"]


def test_the_order_of_words_counts_and_repeated_runs_count_once():
    assert find_overlaps([Text("t", "c b a")], [Text("m", "a b c")], 3, 0.1) == []
    # The runs of "p q p q p q r" of length two are {p q, q p, q r}: two of three shared.
    (one,) = find_overlaps([Text("t", "p q p")], [Text("m", "p q p q p q r")], 2, 0.1)
    assert one.shared_frac == pytest.approx(2 / 3)


def test_thousands_of_problems_against_thousands_take_no_product_of_both():
    trained = [Text(f"t{n}", " ".join(f"w{(n * 7 + k) % 5000}" for k in range(60))) for n in range(3000)]
    measured = [Text("copy", trained[1234].text.upper()), Text("new", " ".join(f"z{k}" for k in range(60)))]
    assert find_overlaps(trained, measured) == [Overlap("copy", "t1234", 1.0, True)]


def test_overlap_above_the_bound_is_refused_with_the_worst_named():
    overlaps = [Overlap("m1", "t2", 1.0, True), Overlap("m0", "t1", 0.75, False)]
    refuse_overlap(overlaps, 4, 0.5, "eval.jsonl", "Remove them.")
    with pytest.raises(DataError, match=r"eval.jsonl: 2 of 4 .*1 of them word.*'m1' is 't2'; 'm0' shares 75 %"):
        refuse_overlap(overlaps, 4, 0.25, "eval.jsonl", "Remove them.")
    refuse_overlap([], 4, 0.0, "eval.jsonl", "Remove them.")
