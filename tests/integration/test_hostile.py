"""A collection of honest programs that judges get wrong and of hostile ones, run through the Docker pool.

The collection lies beside the repository, not in it; without it this test is skipped.
"""

import json

import pytest

from pgrpo_ray.sandbox.docker_runner import DockerRunner
from pgrpo_ray.sandbox.image import DEFAULT_TAG, ensure_image
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.types import AssertCase, CallCase, Limits, Problem, StdinCase, TestStyle

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]
RIGHT_HERE = {"assert_kill_checker": "the kill reaches nobody, and the answer is right"}
"""Programs that pass here for a good reason."""


def problem_of(row):
    style = TestStyle(row["style"])
    make = {
        TestStyle.STDIN: lambda test: StdinCase(test["input"], test["expected"]),
        TestStyle.CALL: lambda test: CallCase(test["args"], test["expected"]),
        TestStyle.ASSERT: AssertCase,
    }[style]
    limits = Limits(cpu_s=1.0, wall_s=3.0)
    return Problem(row["name"], "", style, tuple(map(make, row["tests"])), entry_point=row.get("entry"), limits=limits)


def test_hostile_collection(shared_data):
    ensure_image()
    rows = [json.loads(line) for line in (shared_data / "hostile.jsonl").read_text().splitlines()]
    pool = ExecutionPool(lambda: DockerRunner(DEFAULT_TAG, memory_mib=512), slots=2, retries=1)
    try:
        judgements = pool.judge_many([(problem_of(row), row["program"]) for row in rows])
    finally:
        pool.close()
    exact, wrong = 0, {}
    for row, judgement in zip(rows, judgements, strict=True):
        wanted = row["expected_verdict"]
        if isinstance(wanted, list):  # one a test: the first that is not `passed` is the program's
            wanted = next((verdict for verdict in wanted if verdict != "passed"), "passed")
        exact += judgement.verdict in (wanted, *row.get("also", ()))
        if judgement.verdict is None or (judgement.passed is not (wanted == "passed")):
            wrong[row["name"]] = judgement
    print(f"{exact} of {len(rows)} verdicts exactly as expected")
    assert wrong.keys() == RIGHT_HERE.keys(), wrong
    assert exact >= len(rows) - len(RIGHT_HERE) - 2  # a verdict of another failing kind, under load
