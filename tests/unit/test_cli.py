"""The door: wrong input ends with a message that helps and a status that scripts can read, before anything starts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCAL = str(REPOSITORY / "cluster" / "local.yaml")


def pgrpo(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"} | environment,
    )


def test_help_teaches_every_command():
    text = pgrpo("--help").stdout
    for command in ("train", "check", "grade", "doctor", "rollouts", "replay"):
        assert command in text
        assert len(pgrpo(command, "--help").stdout) > 300


@pytest.mark.parametrize(
    ("override", "status", "words"),
    [
        ("rollout.group_sise=4", 2, "Did you mean 'group_size'?"),
        ("run.steps=ten", 2, "run.steps"),
        ("rollout.group_size=1", 2, "gives no gradient"),
        ("policy.model=/nowhere/model", 2, "no model folder"),
        ("policy.model=cluster", 2, "no model folder"),
        ("policy.model=nobody/no-such-model", 2, "cannot be loaded as a causal model"),
        ("data.problems=/nowhere/problems.jsonl", 2, "/nowhere/problems.jsonl"),
        ("run.dir=/proc/nowhere", 1, "--set run.dir=FOLDER"),
        ("run.min_free_mib=1000000000", 1, "MiB free"),
    ],
)
def test_check_refuses_and_explains(override, status, words):
    done = pgrpo("check", LOCAL, "--set", override, "--set", "sandbox.backend=process")
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_line_of_data_is_named(tmp_path):
    file = tmp_path / "problems.jsonl"
    good = {"id": "a", "prompt": "p", "tests": {"style": "stdin", "cases": [{"input": "", "output": "1"}]}}
    file.write_text(json.dumps(good) + "\n{broken\n")
    done = pgrpo("check", LOCAL, "--set", f"data.problems={file}", "--set", "sandbox.backend=process")
    assert done.returncode == 2
    assert f"{file}:2" in done.stderr


def test_a_missing_engine_is_an_error_where_docker_is_demanded():
    done = pgrpo("check", LOCAL, "--set", "sandbox.backend=docker", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 1
    assert "sandbox.backend=docker" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_run_needs_docker_on_the_nodes_that_judge_and_never_falls_back():
    done = pgrpo("check", LOCAL, "--set", "cluster.address=auto", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 0
    assert "process" not in done.stdout


def test_a_local_run_falls_back_and_check_says_so():
    done = pgrpo("check", LOCAL, DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 0
    assert "process" in done.stdout


def test_check_prints_derived_numbers(tmp_path):
    done = pgrpo("check", LOCAL, "--set", "rollout.group_size=4", "--set", "rollout.prompts_per_step=10")
    assert done.returncode == 0, done.stderr
    assert "rollouts_per_step" in done.stdout
    assert " 40 " in done.stdout


def test_training_refuses_before_it_starts(tmp_path):
    done = pgrpo(
        "train", LOCAL, "--set", f"run.dir={tmp_path}", "--set", "policy.model=/nowhere", "--set", "data.problems=x"
    )
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_starter_is_made_ends_clean(tmp_path):
    command = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", "train", LOCAL]
    command += ["--set", f"run.dir={tmp_path / 'runs'}", "--set", "sandbox.backend=process"]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PGRPO_CACHE": str(tmp_path / "cache")},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("cache/.starter-*/policy.log")):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        output, _ = run.communicate(timeout=20)
    finally:
        run.kill()
    assert run.returncode == 130, output
    assert "interrupted; what was written is kept" in output
    assert "Traceback" not in output
    assert list((tmp_path / "cache").iterdir()) == []


def test_doctor_speaks_json():
    done = pgrpo("doctor", "--json", DOCKER_HOST="unix:///nowhere/docker.sock")
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert findings["Docker"]["level"] == "warning"
    assert findings["Docker"]["fix"]
    assert findings["ray"]["level"] == "ok"


def test_grade_judges_and_keeps_the_order(tmp_path):
    problems = tmp_path / "problems.jsonl"
    case = {"args": [2], "expected": 4}
    tests = {"style": "call", "entry_point": "double", "cases": [case, {"args": [5], "expected": 10}]}
    problems.write_text(json.dumps({"id": "double", "prompt": "Double it.", "tests": tests}) + "\n")
    sources = ["def double(x): return 2 * x", "def double(x): return x * x", "def double(x) return"]
    programs = tmp_path / "programs.jsonl"
    programs.write_text("".join(json.dumps({"problem_id": "double", "program": text}) + "\n" for text in sources))
    out = tmp_path / "deep" / "verdicts.jsonl"
    done = pgrpo("grade", "--problems", problems, "--programs", programs, "--out", out, "--backend", "process")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["program"] for line in lines] == sources
    assert [line["verdict"] for line in lines] == ["passed", "wrong_answer", "compile_error"]
    assert [line["tests_passed"] for line in lines] == [2, 1, 0]
    assert all(line["tests_total"] == 2 and line["sandbox"] == "process" for line in lines)
    assert all(line["duration_ms"] >= 0 for line in lines)


@pytest.mark.parametrize("out", ["folder", "/dev/null", "/proc/nowhere/out.jsonl"])
def test_grade_refuses_an_output_it_cannot_write_before_it_judges(tmp_path, out):
    (tmp_path / "folder").mkdir()
    problems, programs = tmp_path / "problems.jsonl", tmp_path / "programs.jsonl"
    case = {"input": "", "output": "1"}
    problems.write_text(json.dumps({"id": "a", "prompt": "p", "tests": {"style": "stdin", "cases": [case]}}) + "\n")
    programs.write_text(json.dumps({"problem_id": "a", "program": "import time; time.sleep(5)"}) + "\n")
    target = tmp_path / out
    done = pgrpo("grade", "--problems", problems, "--programs", programs, "--out", target, "--backend", "process")
    assert done.returncode == 1
    assert f"--out {target}" in done.stderr
    assert "process sandbox" not in done.stderr  # it did not come as far as a sandbox


def test_grade_refuses_unknown_problems_and_formats(tmp_path):
    problems, programs = tmp_path / "problems.jsonl", tmp_path / "programs.jsonl"
    case = {"input": "", "output": "1"}
    problems.write_text(json.dumps({"id": "a", "prompt": "p", "tests": {"style": "stdin", "cases": [case]}}) + "\n")
    programs.write_text(json.dumps({"problem_id": "b", "program": "print(1)"}) + "\n")
    common = ["--problems", problems, "--programs", programs, "--out", tmp_path / "out.jsonl"]
    done = pgrpo("grade", *common)
    assert (done.returncode, f"{programs}:1" in done.stderr) == (2, True)
    done = pgrpo("grade", *common, "--format", "humanevil")
    assert (done.returncode, "humaneval" in done.stderr) == (2, True)
    assert not (tmp_path / "out.jsonl").exists()
