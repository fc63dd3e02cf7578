"""The Docker sandbox: one warm, locked container per runner. The only file that imports `docker`.

Owns the container's life and its hardening. It decides no verdict and knows no problem.

Protects against: the network (none), the host's files (read-only image, nothing mounted), privileges (three
capabilities, which only the warden and its zygote hold, to change uids and to kill; no-new-privileges; the engine's
default seccomp profile and the filter of `inside.doors`), exhaustion (memory without swap, one CPU, 64 processes,
32 MiB and 1024 files of scratch), other programs (see `inside`). Not against: a hole in the kernel, or what programs
learn from the time that things take. Pass `runtime="runsc"` (gVisor) or `"sysbox-runc"` where that matters.

Nothing that runs is left behind: the container's stdin is tied to our connection (StdinOnce). When the owner dies in
whatever way, the warden reads end of file and ends, and the engine removes the container (auto_remove).
"""

import contextlib
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound

from pgrpo_ray.errors import ExhaustedError, NotBegunError, SandboxError
from pgrpo_ray.sandbox import inside
from pgrpo_ray.sandbox.wire import Wire

_PIDS = 64
_FIRST_UID, _NUM_UIDS = 10_000, 50_000
"""Of programs, two each. Ours: above every uid that an image defines, below the 65536 that rootless engines map."""
_NO_IPC = {
    # System V and POSIX queues outlive processes: a channel between programs. With room for none, there is none.
    "fs.mqueue.queues_max": "0",
    "kernel.shmmni": "0",
    "kernel.msgmni": "0",
    "kernel.sem": "250 32000 32 0",
}


def _client(timeout_s: float = 60) -> docker.APIClient:
    """Connect as the environment says (DOCKER_HOST, contexts of TLS). Raises `DockerException`."""
    return docker.from_env(timeout=timeout_s).api  # type: ignore[arg-type]  # only its stubs want whole seconds


class DockerRunner:
    """A container with a warden in it. Requests of several threads are served one after another."""

    kind = "docker"

    def __init__(
        self, image: str, *, memory_mib: int, runtime: str | None = None, labels: Mapping[str, str] | None = None
    ):
        """Start the container. Raises `SandboxError` with the engine's reason."""
        self._id: str | None = None
        self._wire: Wire | None = None
        try:
            self._api = _client()
            host_config = self._host_config(memory_mib, runtime)
            self._id = self._api.create_container(
                image,
                ["python3", *inside.command("container", "/tmp", _FIRST_UID, _NUM_UIDS)],
                stdin_open=True,  # with detach=False: AttachStdin and StdinOnce, the tie described above
                environment=inside.environment("/tmp"),
                user="0:0",
                working_dir="/",
                network_disabled=True,
                labels=dict(labels or {}),
                host_config=host_config,
            )["Id"]
            # Attach before start, so that not one byte of the stream can be missed.
            attached = self._api.attach_socket(self._id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            self._attached = attached  # keeps docker-py's response, and with it the connection, alive
            self._wire = Wire(getattr(attached, "_sock", attached), multiplexed=True)
            self._api.start(self._id)
        except (DockerException, OSError) as error:
            self.close()
            raise SandboxError(f"cannot start a container of image {image!r}: {error}") from error

    def _host_config(self, memory_mib: int, runtime: str | None) -> dict[str, Any]:
        ulimit = docker.types.Ulimit
        return self._api.create_host_config(
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            cap_add=["SETUID", "SETGID", "KILL"],
            security_opt=["no-new-privileges"],
            pids_limit=_PIDS,
            mem_limit=memory_mib << 20,
            memswap_limit=memory_mib << 20,
            nano_cpus=10**9,
            tmpfs={"/tmp": "rw,noexec,nosuid,nodev,size=32m,nr_inodes=1024,mode=1777"},
            ipc_mode="none",
            sysctls=_NO_IPC,
            ulimits=[
                ulimit(name="nofile", soft=1024, hard=1024),
                ulimit(name="core", soft=0, hard=0),
                # Threads get the soft limit of the start, 8 MiB; the warden raises it for the main thread alone.
                ulimit(name="stack", soft=8 << 20, hard=-1),
            ],
            log_config=docker.types.LogConfig(type="none"),
            auto_remove=True,
            runtime=runtime,
        )

    def run(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request, return its answer. Raise `SandboxError` when the machinery failed."""
        wire = self._wire
        if wire is None:
            raise NotBegunError("this runner is closed")
        identity, start = self._id, time.time()
        try:
            return wire.ask(request, timeout_s)
        except NotBegunError:
            raise
        except SandboxError as error:
            if identity is not None and self._out_of_memory(identity, start):
                raise ExhaustedError(f"the container was out of memory; {error}") from error
            raise

    def _out_of_memory(self, identity: str, start: float) -> bool:
        """Tell whether the engine saw the container out of memory since `start`."""
        with contextlib.suppress(DockerException, OSError):  # no engine, no evidence
            filters = {"container": [identity], "event": ["oom"]}
            return any(self._api.events(since=int(start), until=int(time.time()) + 1, filters=filters, decode=True))
        return False

    def close(self) -> None:
        """Kill and remove the container. Idempotent; never raises."""
        wire, self._wire = self._wire, None
        identity, self._id = self._id, None
        if wire is not None:
            wire.close()
        if identity is not None:
            _remove(identity)
            self._api.close()


def _remove(identity: str) -> None:
    """Kill and remove a container, and wait until it is gone. Never raises: without an engine nobody could be told."""
    with contextlib.suppress(DockerException, OSError):
        api = _client(timeout_s=10)
        with contextlib.suppress(APIError):  # gone already, or going: the engine removes what has ended (auto_remove)
            api.remove_container(identity, force=True)
        with contextlib.suppress(APIError):  # gone
            api.wait(identity, timeout=5, condition="removed")
        api.close()


def engine_problem() -> str | None:
    """Say why no Docker engine answers and which command fixes it; None when one answers."""
    try:
        _client(timeout_s=5).ping()
        return None
    except (DockerException, OSError) as error:
        causes = " ".join(str(cause) for cause in _chain(error))
        if "PermissionError" in causes or "Permission denied" in causes:
            return (
                "Docker is running but this user may not use it. Fix: sudo usermod -aG docker $USER, then log in again."
            )
        if shutil.which("dockerd") or shutil.which("docker"):
            return (
                f"Docker is installed but does not answer ({error}). Fix: sudo systemctl start docker (or: make setup)."
            )
        return "Docker is not installed. Fix: sudo apt-get install docker.io (or: make setup)."


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def remove_abandoned(label: str) -> int:
    """Remove containers with `label` that were made but never started by an owner that is gone; return how many.

    An owner killed in that moment leaves one: with no process inside, nothing ends and removes it. The label's value is
    `host:pid` of the owner; containers of other hosts are left alone. Raises `SandboxError`.
    """
    removed = 0
    try:
        api = _client()
        for container in api.containers(all=True, filters={"label": label, "status": "created"}):
            host, _, pid = container["Labels"][label].rpartition(":")
            if host == socket.gethostname() and not Path("/proc", pid).exists():
                api.remove_container(container["Id"], force=True)
                removed += 1
    except (DockerException, OSError) as error:
        raise SandboxError(f"cannot look for abandoned containers: {error}") from error
    return removed


def image_exists(tag: str) -> bool:
    """Tell whether the engine holds `tag`. Raises `SandboxError` when no engine answers."""
    try:
        _client().inspect_image(tag)
        return True
    except ImageNotFound:
        return False
    except (DockerException, OSError) as error:
        raise SandboxError(f"cannot ask the engine for image {tag!r}: {error}") from error


def pull_image(reference: str, tag: str, timeout_s: float = 120) -> None:
    """Pull `reference` from its registry and tag it `tag`. Raises `SandboxError`."""
    try:
        api = _client(timeout_s)
        api.pull(reference)
        repository, _, version = tag.rpartition(":")
        api.tag(reference, repository, version)
    except (DockerException, OSError) as error:
        raise SandboxError(f"cannot pull {reference}: {error}") from error


def import_image(tarball: Path, tag: str, prepare: list[str]) -> None:
    """Make image `tag` from a root file system, after running the command `prepare` once inside it.

    Raises `SandboxError` when the engine refuses or `prepare` fails; nothing but the tag is left behind.
    """
    repository, _, version = tag.rpartition(":")
    staged = container = None
    try:
        api = _client(timeout_s=300)
        api.import_image_from_file(str(tarball), repository=repository, tag=f"{version}-staged")
        staged = f"{tag}-staged"
        container = api.create_container(staged, prepare, network_disabled=True)["Id"]
        api.start(container)
        status = api.wait(container)["StatusCode"]
        if status:
            raise SandboxError(f"{prepare} ended with status {status} in the new image: {api.logs(container)[-500:]!r}")
        api.commit(container, repository=repository, tag=version)
    except (DockerException, OSError) as error:
        raise SandboxError(f"cannot make image {tag!r}: {error}") from error
    finally:
        with contextlib.suppress(DockerException, OSError):  # a leftover stage is waste, not a fault
            if container is not None:
                api.remove_container(container, force=True)
            if staged is not None:
                api.remove_image(staged)
