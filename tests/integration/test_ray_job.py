"""The door `ray job submit`: a real head and a second node that offer different resources, and a real run on them."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import docker
import pytest
from ray_nodes import RayNodes

from pgrpo_ray.data.ledger import audit
from pgrpo_ray.sandbox.runners import LABEL

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed, pytest.mark.docker]

REPOSITORY = Path(__file__).parents[2]
SUBMIT = str(REPOSITORY / "cluster" / "submit.sh")
HEAD = {"learner": 1, "reward": 1}
BESIDE = {"rollout": 1, "sandbox": 1}
UPLOAD_MIB = 2
PLACED = {"RolloutRole": BESIDE, "ExecutionRole": BESIDE, "LearnerRole": HEAD, "ServeReplica:": HEAD}


@pytest.fixture(scope="module")
def nodes(docker_engine, starter_cache, tiny_starter):
    folder = Path(tempfile.mkdtemp(prefix="pgrpo-ray-"))  # pytest's own is too long for Ray's sockets
    nodes = RayNodes(folder / "ray", {"PGRPO_CACHE": str(starter_cache)})
    try:
        nodes.head(4, HEAD)
        nodes.add(1, BESIDE)
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def options(tiny_section, tmp_path_factory):
    """Of `pgrpo train`: a run of two short steps, its roles where they belong."""
    runs = tmp_path_factory.mktemp("runs")

    def options(name, steps=2, **more):
        settings = {
            "run.dir": runs,
            "run.name": name,
            "run.steps": steps,
            "data.heldout_problems": 8,
            "rollout.prompts_per_step": 4,
            "cluster.pinned": "[rollout, learner, reward]",
            "starter": tiny_section.model_dump_json(),
        }
        return [part for key, value in (settings | more).items() for part in ("--set", f"{key}={value}")]

    options.runs = runs
    return options


def left_on(nodes):
    """What a run started and has not ended."""
    roles = [
        process
        for title in (
            "ray::RolloutRole",
            "ray::LearnerRole",
            "ray::ExecutionRole",
            "ray::ServeReplica",
            "ray::RecorderRole",
            "ray::ServeController",
        )
        for process in nodes.processes(title)
    ]
    return [" ".join(process.cmdline()) for process in roles] + [
        container.name for container in docker.from_env().containers.list(all=True, filters={"label": LABEL})
    ]


def steps(folder):
    """The metrics of the steps that a run has taken."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.2)


def test_a_submitted_run_is_placed_by_role_and_its_logs_and_status_come_back(nodes, options):
    planned = nodes.run(
        "pgrpo",
        "check",
        "cluster/local.yaml",
        "--on-cluster",
        "--set",
        "cluster.address=auto",
        *options("placed"),
        cwd=REPOSITORY,
    )
    nodes.env["PGRPO_JOB_ID"] = "placed"
    command = [SUBMIT, "cluster/local.yaml", "--", *options("placed", steps=12)]
    with subprocess.Popen(
        command, env=nodes.env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        wait_for(lambda: steps(options.runs / "placed") or job.poll() is not None, 240, "no step")
        listed = nodes.run(
            "ray", "list", "actors", "--limit", "500", "--filter", "state=ALIVE", "--format", "json", "--detail"
        )
        offered = nodes.run("ray", "list", "nodes", "--format", "json", "--detail")
        said = job.communicate(timeout=240)[0]
    assert job.returncode == 0, said
    assert "pass@1" in said and "succeeded" in said  # the run's own words, and Ray's
    marks = {node["node_id"]: node["resources_total"] for node in json.loads(offered.stdout)}
    where = [(actor["class_name"], marks[actor["node_id"]]) for actor in json.loads(listed.stdout)]
    for role, expected in PLACED.items():
        found = [mark for name, mark in where if name.startswith(role)]
        assert found and all(expected.items() <= mark.items() for mark in found), (role, where)
    assert json.loads((options.runs / "placed" / "summary.json").read_text())["steps"] == 12
    wait_for(lambda: not left_on(nodes), 30, lambda: left_on(nodes))
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"rollout \(x 1\).*1 CPU, `rollout`.*x 1", planned.stdout), planned.stdout


def test_what_is_uploaded_is_small(nodes):
    uploads = nodes.uploads()
    assert uploads
    for folder in uploads:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert size < UPLOAD_MIB << 20
        assert (folder / "pgrpo_ray" / "driver.py").exists() and not (folder / "tests").exists()


@pytest.mark.parametrize(
    ("overrides", "status", "words"),
    [
        ({"rollout.group_size": 1}, 2, "gives no gradient"),
        ({"run.dir": "runs"}, 2, "Name a folder that all nodes share"),
        ({"rollout.num_workers": 9}, 1, "rollout: 9 times (1 CPU, `rollout`) is wanted, the nodes can hold 1"),
    ],
)
def test_a_refused_run_gives_its_own_status(nodes, options, overrides, status, words):
    nodes.env["PGRPO_JOB_ID"] = f"refused-{status}-{len(words)}"
    done = nodes.run(SUBMIT, "cluster/local.yaml", "--", *options("refused", **overrides), cwd=REPOSITORY)
    assert words in re.sub(r"\s+", " ", done.stdout), done.stdout + done.stderr
    assert done.returncode == status


def test_a_job_without_the_token_is_refused(nodes, options):
    env = {key: value for key, value in nodes.env.items() if not key.startswith("RAY_AUTH")} | {"HOME": "/nonexistent"}
    done = subprocess.run([SUBMIT, "cluster/local.yaml"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "401" in done.stdout + done.stderr or "nauthorized" in done.stdout + done.stderr


def test_a_job_that_is_stopped_leaves_nothing(nodes, options):
    nodes.env["PGRPO_JOB_ID"] = "stopped"
    done = nodes.run(SUBMIT, "cluster/local.yaml", "--no-wait", "--", *options("stopped", steps=2000))
    assert done.returncode == 0, done.stdout + done.stderr

    def said():
        return nodes.run("ray", "job", "logs", "stopped").stdout

    wait_for(lambda: steps(options.runs / "stopped"), 240, said)
    assert left_on(nodes)
    stopped = nodes.run("ray", "job", "stop", "stopped")
    assert "was stopped" in stopped.stdout or "STOPPED" in stopped.stdout, stopped.stdout + stopped.stderr
    wait_for(lambda: not left_on(nodes), 60, lambda: left_on(nodes))


def test_a_run_goes_on_without_a_node_that_is_lost(nodes, options):
    """Two rollout workers are on two nodes of one CPU; all processes of one of these die at once."""
    third = nodes.add(1, {"rollout": 1})
    more = {"rollout.num_workers": 2, "cluster.on_failure": "go_on"}
    nodes.env["PGRPO_JOB_ID"] = "lost-node"
    done = nodes.run(SUBMIT, "cluster/local.yaml", "--no-wait", "--", *options("lost-node", steps=16, **more))
    assert done.returncode == 0, done.stdout + done.stderr

    def said():
        return nodes.run("ray", "job", "logs", "lost-node").stdout

    folder = options.runs / "lost-node"
    wait_for(lambda: steps(folder), 240, said)
    nodes.lose(third)
    wait_for((folder / "summary.json").exists, 240, said)
    assert re.search(r"rollout worker \d .*node.*(died|is dead)", said()), said()
    assert [step["step"] for step in steps(folder)] == list(range(1, 17))
    assert audit(folder / "ledger")["missing_groups"] == 0
    wait_for(lambda: not left_on(nodes), 60, lambda: left_on(nodes))
