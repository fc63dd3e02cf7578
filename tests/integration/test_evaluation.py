"""`pgrpo eval` and `pgrpo compare` with every real part: a policy sampled by vLLM on Ray, killed, resumed, compared.

And published solutions through the same pools.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import ray
from rich.console import Console

from pgrpo_ray.config import parse_tree
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.evaluation import results
from pgrpo_ray.evaluation.summary import shares_of
from pgrpo_ray.jobs import evaluation
from pgrpo_ray.jobs.comparison import compare

pytestmark = [pytest.mark.ray]

NUM_PROBLEMS, NUM_SAMPLES, PER_PART = 16, 2, 2


def quiet():
    return Console(file=io.StringIO(), width=220)


def options(starter, out, seed):
    """The command's arguments: one sequence at a time for each sample, so that there is time to kill it."""
    sets = {
        "benchmark.data": [str(starter.heldout)],
        "benchmark.name": "jsonl",
        "benchmark.limit": NUM_PROBLEMS,
        "policy.model": str(starter.policy),
        "policy.dtype": "float32",
        "rollout.group_size": NUM_SAMPLES,
        "rollout.temperature": 1.0,
        "rollout.prompts_per_step": PER_PART,
        "rollout.max_concurrent": NUM_SAMPLES,
        "rollout.max_response_tokens": 128,
        "rollout.kv_cache_mib": 64,
        "rollout.enforce_eager": True,
        "sandbox.backend": "process",
        "evaluation.seed": seed,
        "evaluation.out": str(out),
    }
    return [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def run(arguments, **more):
    code = "from pgrpo_ray.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, "eval", *arguments], start_new_session=True, **more)


def killed(arguments, out):
    """Start the command, kill it outright once it has written two parts, and return what it had written."""
    child = run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    try:
        while len(list(out.glob(f"{results.PARTS}/part-*.parquet"))) < 2:
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline, "no parts came"
            time.sleep(0.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stderr.close()
    parts = sorted(out.glob(f"{results.PARTS}/part-*.parquet"))
    return {row["problem_id"]: row for part in parts for row in results.read_table(part).to_pylist()}


@pytest.mark.vllm
def test_a_killed_evaluation_goes_on_and_two_results_are_compared(tiny_starter, tmp_path):
    out = tmp_path / "first"
    before = killed(options(tiny_starter, out, seed=0), out)
    assert 2 * PER_PART <= len(before) < NUM_PROBLEMS
    assert not (out / results.SAMPLES).exists()
    child = run(options(tiny_starter, out, seed=0), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    told, _ = child.communicate(timeout=120)
    assert child.returncode == 0, told
    assert f"{len(before)} of {NUM_PROBLEMS} problems are judged already" in " ".join(told.split())
    first = results.load_result(out)
    rows = first.table.to_pylist()
    assert len(rows) == NUM_PROBLEMS * NUM_SAMPLES
    kept = {row["problem_id"]: row for row in rows}
    assert {name: kept[name] for name in before} == before  # the last sample of each, as it was written before
    assert all(row["error"] is None for row in rows)
    assert {row["sandbox"] for row in rows if row["program"] is not None} <= {"process"}
    summary = json.loads((out / results.SUMMARY).read_text())
    assert summary["num_problems"] == NUM_PROBLEMS
    assert summary["model_version"].startswith("sha256:")

    other = tmp_path / "second"
    child = run(options(tiny_starter, other, seed=1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    told, _ = child.communicate(timeout=120)
    assert child.returncode == 0, told
    assert results.load_result(other).table["response"].to_pylist() != first.table["response"].to_pylist()
    (row,) = compare(out, other, [], None, 0, quiet())
    assert row.difference.num_problems == NUM_PROBLEMS
    shares = [shares_of(results.load_result(folder).table) for folder in (out, other)]
    means = [float((share.correct / share.judged).mean()) for share in shares]
    assert row.difference.value == pytest.approx(means[1] - means[0])


def solved(tmp_path, name, file, solutions, **sandbox):
    out = tmp_path / solutions
    values = {
        "benchmark": {"name": name, "data": [str(file)]},
        "evaluation": {"out": str(out), "solutions": solutions},
        "sandbox": {"slots": 2, **sandbox},
    }
    evaluation.evaluate(parse_tree(EvaluationConfig, values), quiet())
    assert not ray.is_initialized()
    return results.load_result(out).table.to_pylist()


@pytest.mark.docker
@pytest.mark.usefixtures("docker_engine")
@pytest.mark.parametrize(
    ("name", "file", "count"), [("humaneval", "HumanEval.jsonl.gz", 164), ("mbpp", "mbpp_1_510.jsonl", 510)]
)
def test_published_programs_pass_and_corrupted_ones_do_not(shared_data, tmp_path, name, file, count):
    path = shared_data / "datasets" / file
    right = solved(tmp_path, name, path, "reference")
    assert [row["problem_id"] for row in right if not row["passed"]] == []
    assert len(right) == count
    wrong = solved(tmp_path, name, path, "corrupted")
    assert [row["problem_id"] for row in wrong if row["passed"] is not False] == []


def test_published_answers_pass_and_corrupted_ones_do_not(shared_data, tmp_path):
    path = shared_data / "datasets" / "aime24.jsonl"
    right = solved(tmp_path, "aime24", path, "reference")
    assert [row["problem_id"] for row in right if not row["passed"]] == []
    assert {row["sandbox"] for row in right} == {"maths"}
    wrong = solved(tmp_path, "aime24", path, "corrupted")
    assert [row["problem_id"] for row in wrong if row["passed"] is not False] == []
