"""`pgrpo data prepare`: every row ends in the problems or, with a reason, in the rejects; nothing else changes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pgrpo_ray.config import parse_tree
from pgrpo_ray.config.data_preparation import PreparationConfig, PreparationSection
from pgrpo_ray.data.capping import capped
from pgrpo_ray.data.deepcoder import NoTestsError
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.jobs.data_preparation import prepare
from pgrpo_ray.reward_model.leaks import Text, find_overlaps
from pgrpo_ray.types import CallCase, Problem, StdinCase, TestStyle

WORDS = [f"word{number}" for number in range(200)]
QUIET = Console(quiet=True)


def statement(first, count=40):
    return " ".join(WORDS[first : first + count])


def row(problem, given="1\n", right="2\n", **fields):
    return {"problem": problem, "tests": json.dumps({"inputs": [given], "outputs": [right]}), **fields}


def lcb(day=None, problem="Some contest problem."):
    metadata = {} if day is None else {"contest_date": day}
    tests = json.dumps([{"testtype": "stdin", "input": "1", "output": "2"}])
    return {"problem": problem, "tests": tests, "metadata": metadata}


@pytest.fixture
def write(tmp_path):
    def _write(name, *records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return _write


def done(files, out, exclude=(), **settings):
    """Prepare; return (problems, rejects as (file, row, reason), report)."""
    report = prepare(files, "deepcoder", out, exclude, PreparationSection(**settings), QUIET)
    rejects = [json.loads(line) for line in Path(f"{out}.rejects.jsonl").read_text().splitlines()]
    places = [(Path(reject["file"]).name, reject["row"], reject["reason"]) for reject in rejects]
    assert json.loads(Path(f"{out}.report.json").read_text()) == report
    return load_problems(out, "jsonl"), places, report


def test_every_row_is_kept_in_order_or_rejected_once_with_its_reason(write, tmp_path):
    first = write("a.jsonl", row(statement(0)), {"problem": "x", "tests": "[]"}, row("b"), row("c", right=["1", "2"]))
    second = write("b.jsonl", row("  B "), row("d", given="9" * 5000), row("e"))
    out = tmp_path / "new" / "out.jsonl"
    problems, rejects, report = done([first, second], out, max_tests_kib=4)
    assert [problem.prompt.split()[0] for problem in problems] == ["word0", "b", "e"]
    assert rejects == [
        ("a.jsonl", 2, "no_tests"),
        ("a.jsonl", 4, "malformed"),
        ("b.jsonl", 1, "duplicate"),
        ("b.jsonl", 2, "tests_too_large"),
    ]
    assert report["total"] == {"rows": 7, "kept": 3, **{reason: 1 for _, _, reason in rejects}}
    assert report["files"][str(second)] == {"rows": 3, "kept": 1, "duplicate": 1, "tests_too_large": 1}
    assert report["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "out.jsonl",
        "out.jsonl.rejects.jsonl",
        "out.jsonl.report.json",
    ]


def test_overlap_with_what_is_measured_is_left_out_also_where_it_is_spread(write, tmp_path):
    measured = write(
        "eval.jsonl", {"id": "m", "prompt": statement(0, 60), "tests": {"style": "assert", "cases": ["assert 1"]}}
    )
    # Of its 48 runs of 13 words each half holds 18: together more than half, each alone less. So one half must go.
    file = write(
        "a.jsonl", row(statement(0, 30)), row(statement(30, 30)), row(statement(100, 60)), row(statement(0, 60))
    )
    problems, rejects, _ = done([file], tmp_path / "out.jsonl", [f"{measured}:jsonl"])
    assert rejects == [("a.jsonl", 1, "overlap"), ("a.jsonl", 4, "overlap")]
    assert [problem.prompt.split()[0] for problem in problems] == ["word30", "word100"]
    left = [Text(problem.id, problem.prompt) for problem in problems]
    assert find_overlaps(left, [Text("m", statement(0, 60))]) == []
    assert len(find_overlaps([*left, Text("half", statement(0, 30))], [Text("m", statement(0, 60))])) == 1


def test_the_window_is_for_livecodebench_alone(write, tmp_path):
    days = ["2023-04-30", "2023-05-01", "2024-07-31T00:00:00", "2024-08-01", None, "soon"]
    rows = [lcb(day, f"Problem {index}.") for index, day in enumerate(days)]
    file = write("a.jsonl", row("no date"), *rows)
    problems, rejects, _ = done([file], tmp_path / "o.jsonl", from_date="2023-05-01", to_date="2024-07-31")
    assert [problem.prompt[:9] for problem in problems] == ["no date\n\n", "Problem 1", "Problem 2"]
    assert [(line, reason) for _, line, reason in rejects] == [
        (2, "outside_window"),
        (5, "outside_window"),
        (6, "no_date"),
        (7, "no_date"),
    ]


def test_prompts_longer_than_the_run_allows_are_left_out(write, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "tokenizer")
    file = write("a.jsonl", row(statement(0, 20)), row(statement(0, 21)))
    bounds = {"tokenizer": str(tmp_path / "tokenizer"), "system_prompt": "", "max_prompt_tokens": 33}
    problems, rejects, _ = done([file], tmp_path / "o.jsonl", **bounds)  # 20 words and 13 of the sentence that follows
    assert len(problems) == 1 and rejects == [("a.jsonl", 2, "prompt_too_long")]


def stdin_problem(*pairs):
    return Problem("p", "p", TestStyle.STDIN, tuple(StdinCase(*pair) for pair in pairs))


def test_the_longest_inputs_that_fit_are_kept_in_order():
    problem = stdin_problem(("1", "a"), ("333", "c"), ("22", "b"), ("4444", "d" * 100))
    assert [case.input for case in capped(problem, 2, 10**6).cases] == ["333", "4444"]
    small = capped(problem, 3, 7)
    assert [case.input for case in small.cases] == ["333", "22"]  # 3 + 1 and 2 + 1 bytes are 7: no room for more
    assert small.metadata == {"num_tests_given": 4, "num_tests_kept": 2}
    with pytest.raises(DataError, match="smallest of 4 tests has 2 bytes"):
        capped(problem, 3, 1)


def test_one_case_that_silence_fails_is_kept_whatever_the_cap():
    blank = [(f"{index:03}", " \n") for index in range(15)]
    problem = stdin_problem(*blank, ("1", "1"), ("22", "y" * 100))
    kept = capped(problem, 15, 1000).cases
    assert len(kept) == 15
    assert [case.input for case in kept if case.output.strip()] == ["22"]
    assert [case.input for case in capped(problem, 15, 20).cases] == ["000", "001", "002", "1"], "22 does not fit"
    assert [case.input for case in capped(problem, 1, 20).cases] == ["1"]
    with pytest.raises(NoTestsError, match="blank output"):
        capped(stdin_problem(*blank, ("22", "y" * 100)), 15, 50)
    either = Problem("p", "p", TestStyle.STDIN, (StdinCase("1", "no", ("",)),))
    with pytest.raises(NoTestsError):
        capped(either, 15, 50)


@pytest.mark.parametrize("format", ["deepcoder", "livecodebench"])
def test_tests_that_a_silent_program_passes_are_left_out_in_each_format(write, tmp_path, format):
    def record(number, *tests):
        cases = [{"testtype": "stdin", "input": given, "output": right} for given, right in tests]
        return {
            "problem": f"Problem {number}.",
            "question_content": f"Problem {number}.",
            "question_id": str(number),
        } | {
            "tests": json.dumps(cases),
            "public_test_cases": json.dumps(cases),
        }

    long = [("9" * 50 + str(index), "") for index in range(15)]
    file = write("a.jsonl", record(1, *long, ("1", "1")), record(2, *long), record(3, *long, ("1", "y" * 2000)))
    out = tmp_path / "o.jsonl"
    report = prepare([file], format, out, [], PreparationSection(max_tests_kib=1), QUIET)
    assert report["total"] == {"rows": 3, "kept": 1, "no_tests": 2}
    (problem,) = load_problems(out, "jsonl")
    assert "1" in [case.output for case in problem.cases]


def test_bytes_are_counted_not_characters_and_calls_as_json():
    assert len(capped(stdin_problem(("é", "b")), 1, 3).cases) == 1
    with pytest.raises(DataError):
        capped(stdin_problem(("é", "b")), 1, 2)
    call = Problem("p", "p", TestStyle.CALL, (CallCase([1, 2], 3), CallCase([1], 3)), "f")
    assert [case.args for case in capped(call, 1, 10**6).cases] == [[1, 2]]


def test_nothing_left_is_an_error_that_changes_nothing(write, tmp_path):
    out = tmp_path / "o.jsonl"
    out.write_text("before\n")
    with pytest.raises(DataError, match=r"no problem is left of 1 rows: no_tests 1, such as .*a.jsonl:1"):
        prepare([write("a.jsonl", {"problem": "x"})], "deepcoder", out, [], PreparationSection(), QUIET)
    assert out.read_text() == "before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "o.jsonl"]


def test_a_damaged_file_ends_the_job_and_changes_nothing(write, tmp_path):
    good, out = write("a.jsonl", row("a")), tmp_path / "o.jsonl"
    bad = tmp_path / "b.jsonl"
    bad.write_text('{"problem": ')
    with pytest.raises(DataError, match="not valid JSON"):
        prepare([good, bad], "deepcoder", out, [], PreparationSection(), QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"from_date": "2024-13-01"}, "prepare.from_date"),
        ({"to_date": "yesterday"}, "prepare.to_date"),
        ({"from_date": "2024-02-01", "to_date": "2024-01-01"}, "prepare.from_date"),
        ({"tokenizer": "a/b"}, "prepare.tokenizer"),
        ({"max_tests": 0}, "prepare.max_tests"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, path):
    with pytest.raises(ConfigError) as caught:
        parse_tree(PreparationConfig, {"prepare": settings}).check()
    assert caught.value.path == path


def test_the_command_explains_its_arguments(write, tmp_path):
    file, out = write("a.jsonl", row("a"), row("a")), tmp_path / "o.jsonl"

    def pgrpo(*arguments):
        code = "from pgrpo_ray.cli import main; main()"
        command = [sys.executable, "-c", code, "data", "prepare", str(file), "--out", str(out), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"NO_COLOR": "1"})

    for arguments, words in (
        (["--format", "deepcode"], "Did you mean 'deepcoder'?"),
        (["--format", "deepcoder", "--exclude", "x.jsonl"], "FILE:FORMAT"),
        (["--format", "deepcoder", "--set", "prepare.max_test=3"], "Did you mean 'max_tests'?"),
    ):
        refused = pgrpo(*arguments)
        assert refused.returncode == 2 and words in refused.stderr, refused.stderr
    fine = pgrpo("--format", "deepcoder")
    assert fine.returncode == 0 and "kept 1 of 2 rows" in fine.stdout
