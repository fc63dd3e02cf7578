"""Ray itself: starting or joining it, whether it can hold what is asked, actors with resources and environment.

Who reaches Ray's ports runs code as this user, so they want a token. A Ray that is started here has one unless
RAY_AUTH_MODE says otherwise: Ray 2.60 turns that on by itself, and this keeps its token from other users. A cluster
that is joined has decided before us. Its mode is not guessed: a driver with a token in a cluster without one loses its
actors, seen with 2.60.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.util

from pgrpo_ray.actors import evidence
from pgrpo_ray.config import ClusterSection
from pgrpo_ray.data.arrow import from_wire, to_wire
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.obs.disk import keep_secret

_VLLM_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the actor's own process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_VLLM_CPU_ENV = {"TORCHDYNAMO_DISABLE": "1"}  # else one tiny function is compiled for 20 s; no speed is lost

WATCH = "watch"
"""Concurrency group of every role's `ping`, so that a busy actor answers too."""

LOCAL_STARTS = 2
"""Attempts to start a Ray of our own. Ray gives its processes 30 s, which a machine that is busy for a moment can miss:
seen once in some hundred starts on two cores, and never twice running."""


@contextlib.contextmanager
def cluster_session(section: ClusterSection, cpus: int, resources: dict[str, float]) -> Iterator[None]:
    """Start or join Ray for the length of the block; one that is started here has `resources` and at least `cpus`.

    Raises `EnvironmentFault`.
    """
    start_ray(section.address, cpus, resources, dashboard=section.dashboard)
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(
    address: str,
    cpus: int,
    resources: dict[str, float] | None = None,
    *,
    dashboard: bool = False,
    key: str = "cluster.address",
) -> None:
    """Start or join Ray; the caller ends it. `key` is what set the address. Raises `EnvironmentFault`."""
    options: dict[str, Any] = {"address": address}
    if address == "local":
        keep_token_private()
        # Stages of a step take turns, so logical CPUs may exceed the real ones; too few would leave a role pending.
        cpus = max(os.cpu_count() or 1, cpus)
        options |= {"num_cpus": cpus, "resources": resources, "include_dashboard": dashboard}
    # What a lost actor had in hand is an error that somebody of ours has told of; Ray would print each with its trace.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    attempts = LOCAL_STARTS if address == "local" and not ray.is_initialized() else 1
    for left in reversed(range(attempts)):
        try:
            ray.init(logging_level="ERROR", log_to_driver=False, configure_logging=False, **options)
            ship_tables()
            return
        except Exception as error:  # Ray raises bare ones, such as for a node that is not up in time
            if not left:
                hint = "" if address == "local" else f" {_token_hint()}"
                raise EnvironmentFault(
                    f"Ray at {key}={address!r} cannot be reached or started: {str(error).strip()}{hint}"
                ) from error
            ray.shutdown()


def token_file() -> Path:
    """Where Ray keeps the token of clusters that it starts."""
    return Path.home() / ".ray" / "auth_token"


def keep_token_private() -> None:
    """Have a token that its owner alone can read before Ray makes one, which writes it for all users of the machine.

    Does nothing where RAY_AUTH_MODE turns tokens off. Raises `EnvironmentFault` when it cannot be written.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = token_file()
    try:
        if path.exists() or not _token_elsewhere():
            keep_secret(path)
    except OSError as error:
        raise EnvironmentFault(
            f"Ray's token cannot be kept in {path}: {error.strerror}. Make that file yours and writable, or name "
            "another with RAY_AUTH_TOKEN_PATH."
        ) from error


def _token_elsewhere() -> str:
    """Name the variable that gives Ray a token; empty where none does."""
    return next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)), "")


def _token_hint() -> str:
    """Say what this process offers to a cluster that it cannot join; Ray does not tell why it was refused."""
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    where = _token_elsewhere() or (str(token_file()) if token_file().exists() else "nowhere")
    return (
        f"If it runs at that address, it may want a token (RAY_AUTH_MODE is {mode} here, a token {where}): put the "
        f"cluster's own into {token_file()}, readable by you alone, and set RAY_AUTH_MODE=token before you start."
    )


def check_capacity(who: str, cpus: float, gpus: float, where: str, fix: str) -> None:
    """Raise `EnvironmentFault` when the cluster cannot hold what is wanted: it would stay pending for ever.

    `where` names the cluster as the user does, `fix` is what to lower.
    """
    there = ray.cluster_resources()
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(name, 0):
            raise EnvironmentFault(
                f"{who} wants {wanted:g} {name}s, the Ray cluster at {where} has {there.get(name, 0):g}. Add nodes, or "
                f"lower {fix}."
            )


def offers() -> dict[str, dict[str, float]]:
    """Return what each living node offers, by its address and the beginning of its id."""
    return {
        f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})": node["Resources"]
        for node in ray.nodes()
        if node["Alive"]
    }


def ship_tables() -> None:
    """Have this process send Arrow tables as IPC streams.

    Ray's own way pickles every buffer of every column: 454 us for a group's table against 10, and 82 against 11 to read
    it. Who receives needs nothing; a process that has not called this sends Ray's way, to the same effect.
    """
    ray.util.register_serializer(pa.Table, serializer=to_wire, deserializer=from_wire)


def actor_class(
    role: type, *, cpus: float, threads: int, gpus: float = 0, env: dict[str, str] | None = None, **options: Any
) -> Any:
    """An actor class with its resources; `options` are Ray's own. `threads` is set before any library reads it.

    Its methods run in a thread that is always the same, not in the main one: Ray does so with concurrency groups.
    """
    runtime_env = {"env_vars": environment(threads, env or {})}
    options["concurrency_groups"] = {WATCH: 1, **options.get("concurrency_groups", {})}
    return ray.remote(num_cpus=cpus, num_gpus=gpus, runtime_env=runtime_env, **options)(shipping(role))


def shipping(role: type) -> type:
    """Return `role` whose process calls `ship_tables` first, as often as Ray starts one, and that can be watched."""

    class Shipping(role):
        def __init__(self, *args: Any, **kwargs: Any):
            evidence.write_stacks_on_signal()
            ship_tables()
            super().__init__(*args, **kwargs)

        @ray.method(concurrency_group=WATCH)
        def ping(self) -> evidence.Pulse:
            """Say that the process lives."""
            return evidence.pulse(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())

    Shipping.__name__ = Shipping.__qualname__ = role.__name__  # Ray shows it
    return Shipping


def environment(threads: int, more: dict[str, str]) -> dict[str, str]:
    """Return the environment of an actor's process: threads, and `more`."""
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **more}


def vllm_env(gpus: float) -> dict[str, str]:
    """Return what a process with a vLLM engine needs beside."""
    return _VLLM_ENV if gpus else _VLLM_ENV | _VLLM_CPU_ENV


def node_address(_: Any) -> str:
    """Return the address of an actor's node; for `__ray_call__`."""
    return ray.util.get_node_ip_address()
