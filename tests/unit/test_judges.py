"""Programs and answers in one set of problems: each goes to its judge, and `pgrpo grade` and the role say the same."""

import json

import pytest
from rich.console import Console

from pgrpo_ray import grading
from pgrpo_ray.actors.judges import start_judges
from pgrpo_ray.actors.roles import ExecutionRole
from pgrpo_ray.config import SandboxSection, parse
from pgrpo_ray.errors import DataError
from pgrpo_ray.preflight.problems import load_problem_sets
from pgrpo_ray.preflight.sandbox import Sandbox, check_judging, choose_sandbox
from pgrpo_ray.types import AnswerCase, Problem, StdinCase, TestStyle, Verdict

SECTION = SandboxSection(slots=1, backend="process")
ANSWER = Problem("half", "What is a half?", TestStyle.ANSWER, (AnswerCase("1/2"),))
PROGRAM = Problem("echo", "Echo.", TestStyle.STDIN, (StdinCase("x\n", "x\n"),))


def test_each_problem_goes_to_its_judge_and_the_order_stays():
    judges = start_judges("process", SECTION, [ANSWER, PROGRAM])
    try:
        items = [(PROGRAM, "print(input())"), (ANSWER, "0.5"), (PROGRAM, "print(2)"), (ANSWER, "0.6")]
        judged = judges.judge_many(items, deadline_s=60)
        expected = [Verdict.PASSED, Verdict.PASSED, Verdict.WRONG_ANSWER, Verdict.WRONG_ANSWER]
        assert [judgement.verdict for judgement in judged] == expected
        assert [judgement.sandbox for judgement in judged] == ["process", "maths"] * 2
        stats = judges.stats()
        assert stats.cache_lookups == 4
        assert stats.verdicts == {Verdict.PASSED: 2, Verdict.WRONG_ANSWER: 2}
    finally:
        judges.close()


def test_a_judge_that_nobody_needs_is_not_started():
    judges = start_judges("a sandbox that does not exist", SECTION, [ANSWER])
    try:
        assert judges.judge_many([(ANSWER, "0.5")])[0].passed
    finally:
        judges.close()


def test_the_role_judges_answers_without_any_sandbox():
    role = ExecutionRole(parse({}), "a sandbox that does not exist", lambda: [ANSWER], "pool")
    try:
        assert role.stats() is None
        role.start()
        judged = role._pool.judge_many([(ANSWER, "0.5"), (ANSWER, "\\boxed{7}")])
        assert [judgement.verdict for judgement in judged] == [Verdict.PASSED, Verdict.WRONG_ANSWER]
        assert role.stats().cache_lookups == 2
    finally:
        role.close()


@pytest.fixture
def files(tmp_path):
    def write(name, *records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write


def record(id, reference, **tests):
    return {"id": id, "prompt": "?", "tests": {"style": "answer", "cases": [{"answer": reference}], **tests}}


def test_grade_judges_answers_where_no_docker_is(files, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    problems = files("problems.jsonl", record("a", "1/2"), record("b", "\\text{East}", checker="text"))
    programs = files(
        "programs.jsonl",
        {"problem_id": "a", "program": "0.5"},
        {"problem_id": "a", "program": "0.51"},
        {"problem_id": "b", "program": "east"},
    )
    out = tmp_path / "out.jsonl"
    config = parse({"sandbox": {"backend": "docker", "slots": 1}})
    assert grading.grade_file(problems, "jsonl", programs, out, config, Console(quiet=True)) == 0
    judged = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["verdict"] for line in judged] == ["passed", "wrong_answer", "passed"]
    assert {line["sandbox"] for line in judged} == {"maths"}


def test_a_reference_that_cannot_be_read_is_named_before_a_run(files):
    problems = files("problems.jsonl", *(record(f"p{n}", "1") for n in range(8)), record("bad", "np.arcsin(10/13)"))
    config = parse({"data": {"problems": str(problems), "heldout_problems": 0}, "rollout": {"prompts_per_step": 4}})
    with pytest.raises(DataError, match=r"'bad'.*cannot be read"):
        check_judging(config, Sandbox("maths"), load_problem_sets(config).train)


@pytest.mark.parametrize(
    ("values", "problems", "kind"),
    [
        ({"starter": {"family": "maths"}}, None, "maths"),
        ({"sandbox": {"backend": "docker"}}, [ANSWER], "maths"),
        ({"sandbox": {"backend": "process"}}, [ANSWER, PROGRAM], "process"),
        ({"sandbox": {"backend": "process"}}, None, "process"),
        (
            {"sandbox": {"backend": "process"}, "data": {"problems": "x"}, "starter": {"family": "maths"}},
            None,
            "process",
        ),
    ],
)
def test_no_sandbox_is_asked_for_where_nothing_runs(values, problems, kind, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert choose_sandbox(parse(values), problems).kind == kind
