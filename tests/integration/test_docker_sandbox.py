"""The Docker sandbox on a real engine: isolation, limits, and what happens when the machinery is hit."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest

from pgrpo_ray.errors import SandboxError
from pgrpo_ray.sandbox.docker_runner import DockerRunner, remove_abandoned
from pgrpo_ray.sandbox.image import DEFAULT_TAG, ensure_image
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.types import CallCase, Limits, Problem, StdinCase, TestStyle, Verdict

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]
LABEL = "pgrpo-ray.test"
OWN_LABEL = f"{LABEL}={os.getpid()}"
LIMITS = Limits(cpu_s=1.0, wall_s=3.0, memory_mib=128, output_kib=64)
SILENT = Problem("silent", "", TestStyle.STDIN, (StdinCase("", "ok"), StdinCase("", "ok")), limits=LIMITS)
ADD = Problem("add", "", TestStyle.CALL, tuple(CallCase([i, 1], i + 1) for i in range(6)), entry_point="add")
DEF = "def add(a, b):\n    return a + b\n"


def make_runner(label=OWN_LABEL):
    key, value = label.split("=")
    return DockerRunner(DEFAULT_TAG, memory_mib=256, labels={key: value})


def containers(label):
    return docker.from_env().containers.list(all=True, filters={"label": label})


def wait_until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pool():
    ensure_image()
    made = ExecutionPool(make_runner, slots=1, retries=1)
    yield made
    made.close()
    assert containers(OWN_LABEL) == []


# Each prints `ok` only where the attack fails; both cases of SILENT run it, one after the other.
CONTAINED = {
    "no network": "import socket\ntry: socket.create_connection(('1.1.1.1', 53), 1)\nexcept OSError: print('ok')",
    "no other interface": "import socket\nprint('ok' if [n for _, n in socket.if_nameindex()] == ['lo'] else 'bad')",
    "read-only root": (
        "bad = []\nfor d in ('/', '/usr', '/etc', '/var', '/dev', '/root', '/proc/sys/kernel'):\n"
        "    try: open(d + '/x', 'w').close(); bad.append(d)\n    except OSError: pass\nprint(bad or 'ok')"
    ),
    "not root": (
        "import os\ncaps = [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapPrm'))]\n"
        "print('ok' if min(os.getresuid() + os.getresgid()) >= 10000 and set(caps) == {'0' * 16} else caps)"
    ),
    "warden out of reach": (
        "import os\nbad = []\nfor what in (lambda: os.kill(1, 0), lambda: open('/proc/1/mem'),"
        " lambda: os.listdir('/proc/1/fd'), lambda: open('/proc/1/environ').read(),"
        " lambda: os.setuid(0), lambda: os.setpriority(0, 1, 19)):\n"
        "    try: what(); bad.append(what.__code__.co_firstlineno)\n    except OSError: pass\nprint(bad or 'ok')"
    ),
    "no file of an earlier run": (
        "import os\nseen = os.listdir('/tmp')\nopen('/tmp/flag', 'w').close()\n"
        "os.makedirs('/tmp/a/b'); os.chmod('/tmp/a', 0)\nprint(seen or 'ok')"
    ),
    "no queue or shared memory": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "got = [libc.shmget(7, 4096, 0o1666), libc.msgget(7, 0o1666), libc.mq_open(b'/q', 0o102, 0o666, None)]\n"
        "print('ok' if got == [-1, -1, -1] else got)"
    ),
    "no execution from scratch": (
        "import os, subprocess\nopen('x', 'w').write('#!/usr/bin/python3\\n'); os.chmod('x', 0o755)\n"
        "try: subprocess.run(['./x'])\nexcept OSError: print('ok')"
    ),
    "children within limits": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(\"ok\")'])",
}


@pytest.mark.parametrize("name", CONTAINED)
def test_contained(pool, name):
    judgement = pool.judge(SILENT, CONTAINED[name])
    assert judgement.passed, judgement
    assert judgement.sandbox == "docker"


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "time_limit"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory_limit"),
        ("while True: print('x' * 999)", "output_limit"),
        ("while True: pass", "time_limit"),
        ("import time; time.sleep(99)", "time_limit"),
        ("import os; os._exit(0)", "wrong_answer"),
        # Each process is below its own limit; together they exceed the container's.
        (
            "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(b'x') * (90 << 20)\ntime.sleep(9)",
            ("memory_limit", "time_limit"),
        ),
    ],
)
def test_exhaustion_is_a_verdict_and_the_next_program_is_unharmed(pool, program, verdict):
    judgement = pool.judge(SILENT, program)
    assert judgement.verdict in [Verdict(name) for name in ([verdict] if isinstance(verdict, str) else verdict)], (
        judgement
    )
    assert pool.judge(ADD, DEF).passed


def test_close_removes_the_container():
    ensure_image()
    label = f"{LABEL}=close{os.getpid()}"
    runner = make_runner(label)
    assert len(containers(label)) == 1
    runner.close()
    runner.close()
    assert containers(label) == []
    with pytest.raises(SandboxError, match="closed"):
        runner.run({"id": "1"}, 1)


OWNER = """
import sys
from pgrpo_ray.sandbox.docker_runner import DockerRunner
from pgrpo_ray.sandbox.plan import make_request
from pgrpo_ray.types import Limits, Problem, StdinCase, TestStyle
key, value = sys.argv[2].split("=")
runner = DockerRunner(sys.argv[1], memory_mib=256, labels={key: value})
problem = Problem('p', '', TestStyle.STDIN, (StdinCase('', ''),), limits=Limits(wall_s=100))
print('running', flush=True)
runner.run(make_request(problem, 'import time; time.sleep(100)', '1'), 100)
"""


def test_a_killed_owner_leaves_no_container(pool):
    label = f"{LABEL}=owner{os.getpid()}"
    command = [sys.executable, "-c", OWNER, DEFAULT_TAG, label]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout.readline() == b"running\n"
            wait_until(lambda: [c for c in containers(label) if c.status == "running"])
            time.sleep(0.5)  # into the middle of the program
        finally:
            owner.kill()
    wait_until(lambda: containers(label) == [])


def test_a_container_killed_from_outside_is_an_error_then_a_retry():
    ensure_image()
    label = f"{LABEL}=killed{os.getpid()}"
    runner = make_runner(label)
    docker.from_env().containers.get(containers(label)[0].id).kill()
    with pytest.raises(SandboxError):
        runner.run({"id": "1", "cases": []}, 5)
    runner.close()
    pool = ExecutionPool(lambda: make_runner(label), slots=1, retries=1)
    try:
        containers(label)[0].kill()
        assert pool.judge(ADD, DEF).passed
    finally:
        pool.close()
    wait_until(lambda: containers(label) == [])


def test_a_container_that_never_started_is_removed_once_its_owner_is_gone():
    ensure_image()
    label = f"{LABEL}.made{os.getpid()}"
    dead = subprocess.Popen(["true"])
    dead.wait()
    make = docker.from_env().containers.create
    owners = {name: f"{socket.gethostname()}:{pid}" for name, pid in (("dead", dead.pid), ("alive", os.getpid()))}
    made = {name: make(DEFAULT_TAG, ["true"], labels={label: owner}) for name, owner in owners.items()}
    made["elsewhere"] = make(DEFAULT_TAG, ["true"], labels={label: f"another-host:{dead.pid}"})
    try:
        assert remove_abandoned(label) == 1
        left = {container.id for container in docker.from_env().containers.list(all=True, filters={"label": label})}
        assert left == {made["alive"].id, made["elsewhere"].id}
    finally:
        for container in docker.from_env().containers.list(all=True, filters={"label": label}):
            container.remove(force=True)


def test_an_image_without_python_is_an_error_not_a_verdict():
    with pytest.raises(SandboxError, match="no-such-image"):
        DockerRunner("pgrpo-no-such-image:none", memory_mib=256)
