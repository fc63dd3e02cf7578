"""Filters against shortcuts, on texts made for the purpose; expected values by hand."""

import time

import pytest

from pgrpo_ray.config.pairs import FiltersSection
from pgrpo_ray.reward_model.od.filters import Filters, jaccard, longest_code_run, normalise, shingles
from pgrpo_ray.reward_model.pairs import pair_id

BETTER = "The list is sorted first, because equal values then stand together, and one pass counts each run of them."
WORSE = "The list is reversed first, because equal values then stand apart, and one pass counts each run of them all."


def row(better=BETTER, worse=WORSE, prompt="p"):
    return {"prompt": prompt, "better": better, "worse": worse, "kind": "k", "dimension": "d", "pair_id": ""}


def reason(better, worse, **section):
    return Filters(FiltersSection(**section)).admit(row(better, worse))[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Idea\n\n- **Sort** the list\n- scan `a`\n", "Idea\nSort the list\nscan a"),
        ("1. First\n2) Second\n(3) Third\n* * *\nEnd", "First\nSecond\nThird\nEnd"),
        ("Cost is 2**3 times n * m, and __init__ stays.", "Cost is 2**3 times n * m, and __init__ stays."),
        ("a  b\t c\r\n\r\n\r\nd\u00a0e", "a b c\nd e"),
        ("\u201cquoted\u201d \u2014 it\u2019s", '"quoted" - it\'s'),
        ("-3 is negative\n3.5 stays", "-3 is negative\n3.5 stays"),
    ],
)
def test_both_sides_look_the_same_in_form(text, expected):
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_form_alone_makes_no_pair():
    assert reason("- **Sort** the list\n- scan it", "Sort the list\n\nscan it") == "equal"
    assert reason("- **Sort** the list\n- scan it", "Sort the list\n\nscan it", normalise_format=False) != "equal"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("We sort.\nThen we scan.\nReturn the count.", 0),
        ("def f(a):\n    x = sum(a)\n\n    return x", 3),
        ("int main() {\n  int x = 0;\n  return x;\n}", 4),
        ("import math\nprint(math.pi)\nThen it is done.\nfor x in a:", 2),
        ("Let n = 5 and m = 7.\nThen x = n + m, which is 12.", 0),
        ("For each pair we look at two things:\nthe first and the second.", 0),
        ("Work it out: 9 + 7 = 16. First x + 9, then x > 16. Return len.", 0),
        ("while low < high:\n    mid = (low + high) // 2\n    low += 1\n    break\n", 4),
    ],
)
def test_lines_of_code_are_told_from_prose(text, lines):
    assert longest_code_run(text) == lines


def test_code_in_a_reasoning_is_left_out():
    code = "\n".join(["def f(a):", "    a.sort()", "    x = a[0]", "    return x"])
    assert reason(BETTER + "\n" + code, WORSE) == "code"
    assert reason(BETTER, WORSE + "\n```\nx\n```") == "code"
    assert reason(BETTER + "\nx = a[0]", WORSE + "\nx = a[1]") == ""


def test_refusals_and_talk_about_the_task_are_left_out():
    assert (
        reason(BETTER, "I'm sorry, but I can't write flawed reasoning about this problem, as asked above.") == "refusal"
    )
    assert reason(BETTER, WORSE[:-1] + ", in the degraded version.") == "tells"
    assert reason(BETTER[:-1] + ", unlike the original reasoning.", WORSE) == "tells"
    assert reason(BETTER, WORSE[:-1] + ", an intentional mistake.") == "tells"


def test_the_longer_side_may_be_longer_by_the_bound_and_no_more():
    words = [f"w{number:03d}" for number in range(300)]  # four letters and a space each
    short, long = " ".join(words[:100]), " ".join(words[150:300])
    assert (len(short), len(long)) == (499, 749)  # ratio 1.501
    assert reason(short, long, max_length_ratio=1.51) == ""
    assert reason(short, long, max_length_ratio=1.5) == "length_ratio"
    assert reason(long, short, max_length_ratio=1.5) == "length_ratio"


def test_similarity_is_jaccard_of_five_word_shingles():
    left = "a b c d e f g"  # three shingles: abcde, bcdef, cdefg
    assert len(shingles(left)) == 3
    assert jaccard(shingles(left), shingles("a b c d e f x")) == 2 / 4
    assert jaccard(shingles("x < 3"), shingles("x > 3")) == 0.0  # signs count, short texts are one shingle
    assert reason(left, "a b c d e f x", max_side_similarity=0.5) == ""
    assert reason(left, "a b c d e f x", max_side_similarity=0.49) == "similar_sides"


def test_a_wrong_constant_in_a_long_text_is_still_a_pair():
    words = [f"word{number}" for number in range(500)]
    changed = [*words[:250], "wrong", *words[251:]]
    assert reason(" ".join(words), " ".join(changed)) == ""


def test_near_duplicates_of_earlier_pairs_are_left_out():
    filters = Filters(FiltersSection())
    long_better = " ".join(f"b{number}" for number in range(200))
    long_worse = " ".join(f"w{number}" for number in range(200))
    assert filters.admit(row(long_better, long_worse))[1] == ""
    assert filters.admit(row(long_better, long_worse, prompt="another"))[1] == "duplicate"
    assert filters.admit(row(long_better + " z", long_worse, prompt="another"))[1] == "duplicate"
    assert filters.admit(row(long_worse, long_better))[1] == ""  # the same texts the other way round are no duplicate
    other = " ".join(f"c{number}" for number in range(200))
    assert filters.admit(row(long_better, other))[1] == ""  # half alike
    assert filters.dropped == {"duplicate": 2}


def test_time_grows_with_the_pairs_and_not_with_their_square():
    filters = Filters(FiltersSection())
    started = time.process_time()
    for number in range(1500):
        better = " ".join(f"b{number}x{word}" for word in range(40))
        worse = " ".join(f"w{number}x{word}" for word in range(40))
        assert filters.admit(row(better, worse))[1] == ""
    spent = time.process_time() - started
    compared = sum(len(numbers) - 1 for numbers in filters._buckets.values())
    assert compared < 1500  # of 1.1 million
    assert spent < 10


def test_the_row_that_leaves_is_the_row_that_is_written():
    admitted, _ = Filters(FiltersSection()).admit(row("- " + BETTER, WORSE))
    assert admitted["better"] == BETTER
    assert admitted["pair_id"] == pair_id("p", "k", "d", BETTER, WORSE)
