"""Published reference solutions through `pgrpo grade`: a judge that fails right programs is useless for training."""

import gzip
import itertools
import json

import pytest
from rich.console import Console

from pgrpo_ray.config import RunConfig
from pgrpo_ray.grading import grade_file

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]


def grade(folder, problems, format, programs):
    """Judge (problem id, program) pairs; return the verdicts in order."""
    file, out = folder / "programs.jsonl", folder / "verdicts.jsonl"
    file.write_text("".join(json.dumps({"problem_id": id, "program": text}) + "\n" for id, text in programs))
    assert grade_file(problems, format, file, out, RunConfig(), Console(quiet=True)) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["problem_id"], line["program"]) for line in lines] == programs
    return [line["verdict"] for line in lines]


@pytest.mark.parametrize("whole", [True, False], ids=["whole program", "indented body"])
def test_all_humaneval_reference_solutions_pass(shared_data, tmp_path, whole):
    path = shared_data / "datasets" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt") as file:
        records = [json.loads(line) for line in file]
    programs = [(r["task_id"], (r["prompt"] if whole else "") + r["canonical_solution"]) for r in records]
    assert grade(tmp_path, path, "humaneval", programs) == ["passed"] * 164


def test_all_mbpp_reference_solutions_pass(shared_data, tmp_path):
    path = shared_data / "datasets" / "mbpp_1_510.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    programs = [(record["task_id"], record["code"]) for record in records]
    assert grade(tmp_path, path, "mbpp", programs) == ["passed"] * 510


def test_wrong_solutions_do_not_pass(shared_data, tmp_path):
    path = shared_data / "datasets" / "mbpp_1_510.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()][:50]
    shifted = [(record["task_id"], other["code"]) for record, other in itertools.pairwise(records)]
    assert "passed" not in grade(tmp_path, path, "mbpp", shifted)
