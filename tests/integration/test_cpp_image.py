"""The image with C++ on a real engine: g++ works as an ordinary user in a locked container, and its output runs."""

import json

import docker
import pytest

from pgrpo_ray.sandbox.image import ensure_image
from pgrpo_ray.sandbox.languages import LANGUAGES

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]
CPP = LANGUAGES["cpp"]
PROGRAM = """
#include <bits/stdc++.h>
int main() { std::map<int, int> m; for (int x : {1, 2, 2}) m[x]++; std::cout << m.size(); }
"""
# Does what the harness does, without it: build in scratch, execute from memory.
INSIDE = """
import json, os, subprocess, sys
source, text, build, artifact = json.loads(sys.argv[1])
os.chdir("/tmp")
with open(source, "w") as file:
    file.write(text)
built = subprocess.run(build, capture_output=True, text=True)
said = {"status": built.returncode, "errors": built.stderr, "left": sorted(os.listdir())}
if built.returncode == 0:
    with open(artifact, "rb") as file:
        fd = os.memfd_create("program", os.MFD_CLOEXEC)
        os.write(fd, file.read())
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 1)
        os.execve(fd, ["program"], {})
    os.wait()
    said["output"] = os.read(read, 100).decode()
    try:
        subprocess.run([os.path.abspath(artifact)])
        said["scratch_executes"] = True
    except PermissionError:
        said["scratch_executes"] = False
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def image():
    return ensure_image(["cpp"])


def locked(image, command, memory_mib=256):
    """Run `command` as an ordinary user in a container that is locked as `DockerRunner` locks its own."""
    return docker.from_env().containers.run(
        image,
        list(command),
        remove=True,
        user="10001:10001",
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=64,
        mem_limit=memory_mib << 20,
        memswap_limit=memory_mib << 20,
        nano_cpus=10**9,
        ipc_mode="none",
        tmpfs={"/tmp": "rw,noexec,nosuid,nodev,size=32m,nr_inodes=1024,uid=10001"},
        environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp"},
    )


def build(image, text, *options, memory_mib=256):
    task = json.dumps([CPP.source, text, [*CPP.build, *options], CPP.artifact])
    return json.loads(locked(image, ["python3", "-I", "-c", INSIDE, task], memory_mib))


def test_the_probe_succeeds(image):
    locked(image, CPP.probe)


def test_a_program_is_built_in_scratch_and_runs_from_memory(image):
    said = build(image, PROGRAM)
    assert said == {
        "status": 0,
        "errors": "",
        "left": sorted([CPP.source, CPP.artifact]),
        "output": "2",
        "scratch_executes": False,
    }


def test_a_program_that_does_not_compile_says_where(image):
    said = build(image, "#include <bits/stdc++.h>\nint main() { std::vector<int> v = missing; }\n")
    assert said["status"] == 1
    assert "main.cpp:2:" in said["errors"] and "error: 'missing' was not declared" in said["errors"]
    assert said["left"] == [CPP.source]


def test_the_standard_library_is_precompiled(image):
    """A build that parsed it again would need twice the memory and three times the time; -H tells which it was."""
    assert "\n! " in "\n" + build(image, PROGRAM, "-H", memory_mib=128)["errors"]


@pytest.mark.parametrize("before", ['#pragma GCC target("avx2")', "#define _GLIBCXX_DEBUG"])
def test_what_changes_the_header_is_heeded(image, before):
    assert "\n! " not in "\n" + build(image, f"{before}\n{PROGRAM}", "-H")["errors"]


def test_python_is_whole(image):
    assert locked(image, ["python3", "-c", "import json, math, sqlite3, ssl; print('ok')"]) == b"ok\n"
