"""Which samples may stand in a pair, which candidates are judged, and how pairs are spread."""

import itertools
import random
from collections import Counter

import pytest

from pgrpo_ray.reward_model.lcb_rb.selection import (
    Candidate,
    Sample,
    Selection,
    balanced,
    candidates,
    difficulties,
    usable,
)
from pgrpo_ray.types import Problem, StdinCase, TestStyle


def sample(problem, reasoning, verdict="passed", format_ok=True):
    return Sample(problem, "0/0", format_ok, reasoning, "code", verdict, "tiny")


def selection(**changes):
    values = {
        "seed": 0,
        "max_candidates_per_problem": 100,
        "max_pairs_per_problem": 100,
        "num_pairs": None,
        "max_length_ratio": None,
        "balance_length": False,
    }
    return Selection(**values | changes)


def candidate(problem, difficulty="easy", chosen="right", rejected="wrong"):
    return Candidate(problem, difficulty, sample(problem, chosen), sample(problem, rejected, "wrong_answer"))


def texts(found):
    return sorted((one.chosen.reasoning, one.rejected.reasoning) for one in found)


def test_what_cannot_stand_in_a_pair_is_counted_by_reason():
    given = [
        sample("p", "a"),
        sample("p", "a"),  # said already, and passed already
        sample("p", "a", "wrong_answer"),  # the same words, but they failed
        sample("q", "a"),  # another problem
        sample("p", "", "passed"),
        sample("p", "b", ""),  # the machinery failed
        sample("p", "b", "passed", format_ok=False),
    ]
    kept, left_out = usable(given)
    assert kept == [given[0], given[2], given[3]]
    assert left_out == {"repeated": 1, "reasoning_empty": 1, "not_judged": 1, "format_wrong": 1}


def test_every_passing_meets_every_failing_sample_of_its_problem():
    given = [sample("p", "a"), sample("p", "b"), sample("p", "x", "wrong_answer"), sample("q", "y", "time_limit")]
    found, left_out = candidates(given, {"p": "easy"}, selection())
    assert texts(found) == [("a", "x"), ("b", "x")]
    assert {one.difficulty for one in found} == {"easy"}
    assert left_out["problems_all_failed"] == 1


def test_equal_reasoning_makes_no_candidate():
    given = [sample("p", "same"), sample("p", "same", "wrong_answer"), sample("p", "other", "wrong_answer")]
    found, left_out = candidates(given, {}, selection())
    assert texts(found) == [("same", "other")]
    assert left_out["equal_reasoning"] == 1


def test_the_first_candidates_share_no_sample():
    given = [sample("p", f"r{at}") for at in range(3)] + [sample("p", f"w{at}", "wrong_answer") for at in range(3)]
    found, left_out = candidates(given, {}, selection(max_candidates_per_problem=3))
    assert len({one.chosen.reasoning for one in found}) == 3
    assert len({one.rejected.reasoning for one in found}) == 3
    assert left_out["over_the_cap"] == 6


@pytest.mark.parametrize(("passing", "failing"), [(5, 2), (2, 5), (4, 6), (3, 3), (1, 4)])
def test_samples_of_unequal_sides_take_turns_at_every_cap(passing, failing):
    given = [sample("p", f"r{at}") for at in range(passing)]
    given += [sample("p", f"w{at}", "wrong_answer") for at in range(failing)]
    for cap in range(1, passing * failing + 1):
        found, _ = candidates(given, {}, selection(max_candidates_per_problem=cap))
        assert len(set(texts(found))) == cap
        for side, count in (("chosen", passing), ("rejected", failing)):
            uses = Counter(getattr(one, side).reasoning for one in found)
            assert max(uses.values()) - (min(uses.values()) if len(uses) == count else 0) <= 1


def test_the_seed_decides_and_other_problems_do_not():
    given = [sample("p", f"r{at}") for at in range(5)] + [sample("p", f"w{at}", "wrong_answer") for at in range(5)]
    more = [sample("a", "r"), sample("a", "w", "wrong_answer"), *given]
    capped = selection(max_candidates_per_problem=2)
    one = texts(candidates(given, {}, capped)[0])
    assert one == texts(found for found in candidates(more, {}, capped)[0] if found.problem_id == "p")
    seeds = {tuple(texts(candidates(given, {}, selection(max_candidates_per_problem=2, seed=s))[0])) for s in range(9)}
    assert len(seeds) > 1


def test_lengths_may_be_bounded():
    given = [sample("p", "x" * 10), sample("p", "y" * 20, "wrong_answer"), sample("p", "z" * 21, "wrong_answer")]
    found, left_out = candidates(given, {}, selection(max_length_ratio=2.0))
    assert texts(found) == [("x" * 10, "y" * 20)]
    assert left_out["length_ratio"] == 1


def test_no_problem_has_more_than_its_share():
    found = balanced(
        [candidate("p", rejected=f"w{at}") for at in range(5)] + [candidate("q")], selection(max_pairs_per_problem=2)
    )
    assert Counter(one.problem_id for one in found) == {"p": 2, "q": 1}


def test_buckets_are_even_as_far_as_there_is_material():
    material = [candidate(f"e{at}", "easy") for at in range(50)] + [candidate(f"m{at}", "medium") for at in range(20)]
    material += [candidate(f"h{at}", "hard") for at in range(3)]
    found = balanced(material, selection(num_pairs=23))
    assert Counter(one.difficulty for one in found) == {"easy": 10, "medium": 10, "hard": 3}
    assert [material.index(one) for one in found] == sorted(material.index(one) for one in found)


def test_problems_take_turns_within_a_bucket():
    material = [candidate("a", rejected=f"w{at}") for at in range(9)] + [
        candidate("b", rejected=f"v{at}") for at in range(9)
    ]
    found = balanced(material, selection(num_pairs=6))
    assert Counter(one.problem_id for one in found) == {"a": 3, "b": 3}


def test_length_can_be_made_to_say_nothing():
    longer = [candidate(f"l{at}", chosen="long text", rejected="short") for at in range(9)]
    shorter = [candidate(f"s{at}", chosen="short", rejected="long text") for at in range(4)]
    even = [candidate(f"e{at}", chosen="abc", rejected="xyz") for at in range(2)]
    found = balanced([*longer, *shorter, *even], selection(balance_length=True))
    signs = Counter(
        (len(one.chosen.reasoning) > len(one.rejected.reasoning))
        - (len(one.chosen.reasoning) < len(one.rejected.reasoning))
        for one in found
    )
    assert signs == {1: 4, -1: 4, 0: 2}


LONGER, SHORTER = ("long text", "short"), ("short", "long text")


def both_signs(name, longer, shorter, difficulty="easy"):
    """A problem with so many candidates whose chosen side is the longer and the shorter one."""
    return [candidate(name, difficulty, *LONGER) for _ in range(longer)] + [
        candidate(name, difficulty, *SHORTER) for _ in range(shorter)
    ]


def signs_of(found):
    return Counter(1 if len(one.chosen.reasoning) > len(one.rejected.reasoning) else -1 for one in found)


@pytest.mark.parametrize(("per_problem", "num_pairs", "of_each"), [(2, None, 6), (1, None, 3), (1, 8, 3), (2, 8, 4)])
def test_problems_that_hold_both_signs_fill_all_their_places(per_problem, num_pairs, of_each):
    material = [one for at in range(6) for one in both_signs(f"p{at}", 2, 2, ("easy", "hard")[at % 2])]
    found = balanced(
        material, selection(balance_length=True, max_pairs_per_problem=per_problem, num_pairs=num_pairs, seed=3)
    )
    assert signs_of(found) == {1: of_each, -1: of_each}
    assert max(Counter(one.problem_id for one in found).values()) <= per_problem
    of_bucket = Counter(one.difficulty for one in found)
    assert of_bucket == {"easy": of_each, "hard": of_each}
    for bucket in of_bucket:  # nor does a sign say anything of difficulty
        assert abs(signs_of(one for one in found if one.difficulty == bucket)[1] - of_bucket[bucket] / 2) <= 0.5
    assert len({one.problem_id for one in found}) == min(6, 2 * of_each)


def test_a_place_is_left_to_the_sign_that_needs_it():
    # One place each: whoever took `both` for the longer side would leave no shorter one.
    material = both_signs("both", 1, 1) + both_signs("only", 1, 0)
    for seed in range(8):
        found = balanced(material, selection(balance_length=True, max_pairs_per_problem=1, seed=seed))
        assert {(one.problem_id, one.chosen.reasoning) for one in found} == {("only", "long text"), ("both", "short")}


def test_no_even_choice_is_larger():
    rng = random.Random(7)
    for seed in range(150):
        counts = [(rng.randrange(4), rng.randrange(4)) for _ in range(rng.randrange(1, 5))]
        places = rng.randrange(1, 4)
        material = [
            one for at, two in enumerate(counts) for one in both_signs(f"p{at}", *two, rng.choice(["easy", "hard"]))
        ]
        found = balanced(material, selection(balance_length=True, max_pairs_per_problem=places, seed=seed))
        choices = [
            [(a, b) for a in range(longer + 1) for b in range(shorter + 1) if a + b <= places]
            for longer, shorter in counts
        ]
        sums = ((sum(a for a, _ in each), sum(b for _, b in each)) for each in itertools.product(*choices))
        best = max(a for a, b in sums if a == b)
        assert signs_of(found) == Counter({1: best, -1: best} if best else {})
        assert max(Counter(one.problem_id for one in found).values(), default=0) <= places


def test_a_cap_keeps_both_signs_of_length():
    given = [sample("p", "x" * at) for at in (3, 30)] + [sample("p", "y" * at, "wrong_answer") for at in (10, 11, 12)]
    found, _ = candidates(given, {}, selection(max_candidates_per_problem=2, balance_length=True))
    assert {len(one.chosen.reasoning) > len(one.rejected.reasoning) for one in found} == {True, False}


def problem(name, **metadata):
    return Problem(name, "p", TestStyle.STDIN, (StdinCase("", "1"),), metadata=metadata)


def test_difficulty_is_the_sets_own_word_where_it_has_one():
    found, source = difficulties([problem("p", difficulty="hard"), problem("q")], [sample("q", "a")], "metadata")
    assert (found, source) == ({"p": "hard", "q": ""}, "metadata")


@pytest.mark.parametrize(
    ("passed", "bucket"), [(0, "hard"), (1, "hard"), (2, "medium"), (3, "medium"), (4, "easy"), (6, "easy")]
)
def test_else_it_is_the_pass_rate_in_thirds(passed, bucket):
    given = [sample("p", f"{at}", "passed" if at < passed else "wrong_answer") for at in range(5)]
    given.append(sample("p", "", "passed" if passed == 6 else "", format_ok=passed == 6))  # a wrong format failed
    given.append(sample("p", "lost", ""))  # the machinery's failure says nothing
    assert difficulties([problem("p")], given, "metadata") == ({"p": bucket}, "pass_rate")
