"""Starting and stopping Ray and the roles: resources, environments, rendezvous.

Whoever spawns owns: leaving `fleet` frees containers first, then kills every actor; leaving `ray_session` ends Ray
where this process started it. Roles start side by side; the first failure ends the start with its cause.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pgrpo_ray.actors import roles, waits
from pgrpo_ray.actors.pools import CONTROL, RESOURCE, ExecutionPools, Node, groups_per_pool, sandbox_nodes
from pgrpo_ray.config import RunConfig
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.types import Problem

CLOSE_TIMEOUT_S = 5.0
"""For the execution pools to remove their containers; a killed pool's containers end by themselves (stdin closes)."""
POOL_TASK_RETRIES = 2
"""Ours: a group that ends its pool's process three times may be the reason, and goes on to another pool."""

RELEASE_TIMEOUT_S = 10.0
"""For Ray to free the resource of a run that has just ended."""


@dataclass(frozen=True)
class Models:
    """Where the two models lie: folders or hub names, `starter` already resolved."""

    policy: str
    reward_model: str


@dataclass
class Fleet:
    """Handles of all actors; the execution pools' as one `ExecutionPools`."""

    pools: Any = None
    reward: Any = None
    recorder: Any = None
    problems: Any = None
    """Reference of all problems; it lives as long as an execution pool may restart and fetch them again."""
    rollout: list[Any] = field(default_factory=list)
    learner: list[Any] = field(default_factory=list)

    def all(self) -> list[Any]:
        """Every handle that exists."""
        pools = self.pools.actors if self.pools else []
        return [actor for actor in (*pools, self.reward, self.recorder, *self.rollout, *self.learner) if actor]


@contextlib.contextmanager
def ray_session(config: RunConfig) -> Iterator[None]:
    """Join or start Ray for the length of the block."""
    section = config.cluster
    if section.address == "local":
        # Stages of a step take turns, so logical CPUs may exceed the real ones; too few would leave a role pending.
        cpus = max(os.cpu_count() or 1, _cpus_wanted(config))
        options = {
            "address": "local",
            "num_cpus": cpus,
            "resources": {RESOURCE: 1},
            "include_dashboard": section.dashboard,
        }
    else:
        options = {"address": section.address}
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, configure_logging=False, **options)
    except (ConnectionError, RayError, RuntimeError) as error:
        raise EnvironmentFault(
            f"Ray at cluster.address={section.address!r} cannot be reached or started: {error}"
        ) from error
    try:
        _check_resources(config)
        yield
    finally:
        ray.shutdown()


def _check_resources(config: RunConfig) -> None:
    """Raise `EnvironmentFault` when the cluster cannot hold all roles: they would stay pending for ever."""
    _check_free(sandbox_nodes(config))
    there = ray.cluster_resources()
    for name, wanted in (("CPU", _cpus_wanted(config)), ("GPU", config.gpus)):
        if wanted > there.get(name, 0):
            raise EnvironmentFault(
                f"the run wants {wanted:g} {name}s, the Ray cluster at cluster.address={config.cluster.address!r} has "
                f"{there.get(name, 0):g}. Add nodes, or lower rollout.num_workers, learner.num_ranks "
                "and what each takes."
            )


def _check_free(nodes: list[Node]) -> None:
    """Raise `EnvironmentFault` when another run holds the resource of a node: its pool would stay pending."""
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while True:
        free = available_resources_per_node()
        held = [node for node in nodes if free.get(node.id, {}).get(RESOURCE, 0) < 1]
        if not held:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    names = ", ".join(f"{node.address} ({node.id[:6]})" for node in held)
    raise EnvironmentFault(
        f"another run on the Ray cluster holds the resource `{RESOURCE}` of {names}, so no execution pool can start "
        "there. Wait for its end (`ray list actors` shows it), or start these nodes with one more of the resource for "
        "each run that shall share them."
    )


@contextlib.contextmanager
def fleet(config: RunConfig, models: Models, sandbox_kind: str, problems: list[Problem]) -> Iterator[Fleet]:
    """Spawn every role for the length of the block."""
    actors = Fleet()
    try:
        _spawn(actors, config, models, sandbox_kind, problems)
        yield actors
    finally:
        _stop(actors)


def _spawn(actors: Fleet, config: RunConfig, models: Models, sandbox_kind: str, problems: list[Problem]) -> None:
    timeout_s = config.cluster.startup_timeout_s
    actors.problems = ray.put(problems)
    actors.pools = _spawn_pools(config, sandbox_kind, actors.problems)
    actors.learner = [
        _actor(
            roles.LearnerRole,
            cpus=config.learner.threads_per_rank,
            gpus=config.learner.gpus_per_rank,
            threads=config.learner.threads_per_rank,
        ).remote(config, models.policy)
        for _ in range(config.learner.num_ranks)
    ]
    actors.rollout = [
        _actor(
            roles.RolloutRole,
            cpus=config.rollout.threads_per_worker,
            gpus=config.rollout.gpus_per_worker,
            threads=config.rollout.threads_per_worker,
            env=_VLLM_ENV if config.rollout.gpus_per_worker else _VLLM_ENV | _VLLM_CPU_ENV,
        ).remote(config, models.policy, index)
        for index in range(config.rollout.num_workers)
    ]
    actors.reward = _actor(
        roles.RewardRole,
        cpus=config.reward_model.threads,
        gpus=config.reward_model.gpus,
        threads=config.reward_model.threads,
    ).remote(config, models.reward_model, {problem.id: problem.prompt for problem in problems})
    # The record is written where the run's folder is: here.
    here = _on(ray.get_runtime_context().get_node_id())
    actors.recorder = _actor(roles.RecorderRole, cpus=0, threads=1, scheduling_strategy=here).remote()

    first = actors.learner[0]
    host, port = waits.get([first.__ray_call__.remote(_node_address), first.free_port.remote()], timeout_s, "learner")
    starting = {actor.join.remote(rank, host, port): "learner" for rank, actor in enumerate(actors.learner)}
    starting |= {actor.start.remote(): "rollout worker" for actor in actors.rollout}
    starting |= {actor.start.remote(): name for name, actor in actors.pools.by_name.items()}
    starting |= {actors.reward.start.remote(): "reward server"}
    deadline = time.monotonic() + timeout_s
    while starting:  # whoever fails first is heard first
        left = max(0.1, deadline - time.monotonic())
        for ref in waits.wait_any(list(starting), left, " and ".join(sorted(set(starting.values())))):
            waits.get(ref, timeout_s, starting.pop(ref))


def _spawn_pools(config: RunConfig, sandbox_kind: str, problems: Any) -> ExecutionPools:
    """One pool a node; `problems` is a reference. It takes the node's resource `sandbox` and no CPU: what its programs
    use, Ray does not account for. Every group that it is given has a thread at once, so that its deadline begins and
    its programs are counted: as many as its queue admits, and as many again from pools that fail."""
    section, startup_s = config.sandbox, config.cluster.startup_timeout_s
    smallest = min(config.rollout.group_size, config.evaluation.samples_per_problem)
    # Not as a plain argument: Ray 2.60 warns of those beside max_restarts, as they may be gone when it restarts
    # (github.com/ray-project/ray/issues/53727). `Fleet` holds these.
    fetch, pools = partial(_fetch, problems, startup_s), {}
    for node in sandbox_nodes(config):
        name = f"execution pool on {node.address} ({node.id[:6]})"
        pools[name] = _actor(
            roles.ExecutionRole,
            cpus=0,
            threads=1,
            resources={RESOURCE: 1},
            max_concurrency=2 * groups_per_pool(section.queue_programs, smallest),
            concurrency_groups={CONTROL: 1},
            max_restarts=-1,
            max_task_retries=POOL_TASK_RETRIES,
            scheduling_strategy=_on(node.id),
        ).remote(config, sandbox_kind, fetch, name)
    return ExecutionPools(pools, section.queue_programs, section.deadline_s, startup_s)


def _fetch(problems: Any, timeout_s: float) -> list[Problem]:
    """Bring the problems to a pool's process. Raises `EnvironmentFault`."""
    try:
        return ray.get(problems, timeout=timeout_s)
    except RayError as error:
        raise EnvironmentFault(f"the problems cannot be fetched from the driver's node: {error}") from error


def _on(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _node_address(_: Any) -> str:
    return ray.util.get_node_ip_address()


_VLLM_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the actor's own process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_VLLM_CPU_ENV = {"TORCHDYNAMO_DISABLE": "1"}  # else one tiny function is compiled for 20 s; no speed is lost


def _actor(
    role: type, *, cpus: float, threads: int, gpus: float = 0, env: dict[str, str] | None = None, **options: Any
) -> Any:
    """An actor class with its resources; `options` are Ray's own. `threads` is set before any library reads it."""
    variables = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **(env or {})}
    return ray.remote(num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": variables}, **options)(role)


def _cpus_wanted(config: RunConfig) -> int:
    return (
        config.reward_model.threads
        + config.rollout.num_workers * config.rollout.threads_per_worker
        + config.learner.num_ranks * config.learner.threads_per_rank
    )


def _stop(actors: Fleet) -> None:
    """Free containers, then kill every actor; a role that is dead already is what we want."""
    if actors.pools is not None:
        with contextlib.suppress(RayError):
            actors.pools.close(CLOSE_TIMEOUT_S)
    for actor in actors.all():
        ray.kill(actor)
