"""Splitting, drawing and writing problem sets."""

import itertools

import pytest

from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.data.own_format import problem_to_json
from pgrpo_ray.data.problems import ProblemSampler, save_problems, split_heldout
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import AssertCase, CallCase, Limits, Problem, StdinCase, TestStyle


def make(count):
    """Return `count` small problems."""
    case = StdinCase("", "1\n")
    return [Problem(id=f"p{index}", prompt="Print 1.", style=TestStyle.STDIN, cases=(case,)) for index in range(count)]


def ids(problems):
    """Return the ids, in order."""
    return [problem.id for problem in problems]


def test_the_split_is_disjoint_complete_and_seeded():
    problems = make(50)
    training, heldout = split_heldout(problems, 10, seed=1)
    assert len(heldout) == 10
    assert sorted(ids(training + heldout)) == sorted(ids(problems))
    assert split_heldout(problems, 10, seed=1) == (training, heldout)
    assert split_heldout(problems, 10, seed=2) != (training, heldout)
    assert ids(heldout) != ids(problems[:10])
    assert split_heldout(problems, 0, seed=1) == (problems, [])


@pytest.mark.parametrize("count", [5, 6, -1])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(count):
    with pytest.raises(DataError, match="held-out"):
        split_heldout(make(5), count, seed=0)


def test_an_epoch_meets_every_problem_once_and_the_next_is_shuffled_anew():
    sampler = ProblemSampler(make(12), per_step=4, seed=0)
    first = ids(itertools.chain(*(sampler.batch(step) for step in range(3))))
    second = ids(itertools.chain(*(sampler.batch(step) for step in range(3, 6))))
    assert sorted(first) == sorted(second) == sorted(ids(make(12)))
    assert first != second


def test_a_batch_never_holds_a_problem_twice_even_where_epochs_do_not_divide():
    sampler = ProblemSampler(make(7), per_step=3, seed=3)
    batches = [ids(sampler.batch(step)) for step in range(40)]
    assert all(len(set(batch)) == 3 for batch in batches)
    assert {problem for batch in batches for problem in batch} == set(ids(make(7)))


def test_a_batch_depends_on_seed_and_step_alone_so_that_a_resumed_run_meets_the_same():
    stream = list(itertools.islice(ProblemSampler(make(9), 2, seed=5), 20))
    assert ProblemSampler(make(9), 2, seed=5).batch(17) == stream[17]
    backwards = ProblemSampler(make(9), 2, seed=5)
    assert [backwards.batch(step) for step in reversed(range(20))] == stream[::-1]
    assert list(itertools.islice(ProblemSampler(make(9), 2, seed=6), 20)) != stream


def test_a_batch_larger_than_the_set_is_refused_with_the_key_to_change():
    with pytest.raises(DataError, match=r"rollout\.prompts_per_step"):
        ProblemSampler(make(3), per_step=4, seed=0)


def test_written_problems_load_back_equal(tmp_path):
    problems = [
        *make(1),
        Problem("c", "Zeile\u2028 \u00e9", TestStyle.CALL, (CallCase({"x": [1, None]}, {"a": 1.5}),), "Solution.f"),
        Problem(
            "a",
            "Write f.",
            TestStyle.ASSERT,
            (AssertCase("assert f() == 1"),),
            setup="x = 1",
            completion_prefix="def f():\n",
            limits=Limits(cpu_s=0.5, output_kib=1),
            metadata={"k": [1]},
        ),
    ]
    save_problems(tmp_path / "p.jsonl", problems)
    assert load_problems(tmp_path / "p.jsonl", "jsonl") == problems
    assert set(problem_to_json(problems[0])) == {"id", "prompt", "tests"}


def test_a_problem_that_json_cannot_hold_leaves_no_file(tmp_path):
    bad = Problem("n", "f", TestStyle.CALL, (CallCase([1], float("nan")),), "f")
    with pytest.raises(DataError, match="'n' cannot be written"):
        save_problems(tmp_path / "p.jsonl", [*make(1), bad])
    assert list(tmp_path.iterdir()) == []
