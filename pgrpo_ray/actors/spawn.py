"""Starting and stopping the roles: resources, environments, rendezvous.

Whoever spawns owns: leaving `fleet` frees containers first, then kills every actor. Roles start side by side, in room
that is there (`reservation`); the first failure ends the start with its cause (the reward server's is heard after the
others').
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pgrpo_ray.actors import roles, waits, weight_sync
from pgrpo_ray.actors.checkpointing import CHECKPOINT
from pgrpo_ray.actors.cluster import actor_class, environment, node_address, vllm_env
from pgrpo_ray.actors.group_flow import SAMPLING
from pgrpo_ray.actors.pools import CONTROL, RESOURCE, ExecutionPools, groups_per_pool, sandbox_nodes
from pgrpo_ray.actors.reservation import kept_for_reward, place, reserve
from pgrpo_ray.actors.reward_server import RewardServer
from pgrpo_ray.actors.scoring import GroupScorer
from pgrpo_ray.actors.supervision import LEARNER, POOL, RECORDER
from pgrpo_ray.algo.rewards import Scored
from pgrpo_ray.config import RewardModelSection, RunConfig, derive, placement
from pgrpo_ray.errors import EnvironmentFault, LostError
from pgrpo_ray.obs.checkpoints import Checkpoint
from pgrpo_ray.reward_model.version import folder_version
from pgrpo_ray.types import Problem

CLOSE_TIMEOUT_S = 5.0
"""For the execution pools to remove their containers; a killed pool's containers end by themselves (stdin closes)."""
_POOL_ENV = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Arrow's own allocator keeps a heap for each of a pool's thousand threads: 0.3 MiB each, measured with 26.0."""
POOL_TASK_RETRIES = 2
"""Ours: a group that ends its pool's process three times may be the reason, and goes on to another pool."""


@dataclass(frozen=True)
class Models:
    """Where the two models lie: folders or hub names, `starter` already resolved."""

    policy: str
    reward_model: str


@dataclass
class Fleet:
    """Handles of all roles; the execution pools' as one `ExecutionPools`, the reward server's as one `GroupScorer`."""

    pools: Any = None
    reward: Any = None
    """The driver's `GroupScorer`."""
    reward_server: Any = None
    """The `RewardServer` behind it."""
    recorder: Any = None
    problems: Any = None
    """Reference of all problems; it lives as long as an execution pool may restart and fetch them again."""
    rollout: list[Any] = field(default_factory=list)
    """As they were started; the driver's supervisor knows who has taken whose place."""
    respawn: Callable[[int], Any] | None = None
    """Makes the rollout worker of an index anew, not started yet; None where none can be."""
    learner: list[Any] = field(default_factory=list)
    reserved: PlacementGroup | None = None
    """Room for learner ranks and rollout workers; see `reserve`."""

    def all(self) -> list[Any]:
        """Every actor's handle that exists; the reward server's replicas belong to Ray Serve."""
        pools = self.pools.actors if self.pools else []
        return [actor for actor in (*pools, self.recorder, *self.rollout, *self.learner) if actor]

    def supervised(self) -> dict[str, tuple[str, Any]]:
        """Role and handle of whoever is watched beside the rollout workers, by the name that errors call it."""
        others = {name: (POOL, actor) for name, actor in self.pools.by_name.items()}
        others |= {f"{LEARNER} rank {rank}": (LEARNER, actor) for rank, actor in enumerate(self.learner)}
        return others | {RECORDER: (RECORDER, self.recorder)}

    def replicas(self) -> dict[str, Any]:
        """Handles of the reward server's replicas that are there just now, by the name that errors call them."""
        return self.reward_server.replica_actors() if self.reward_server else {}

    def with_tokenizer(self) -> dict[str, Any]:
        """Those that decode token ids, by the name that errors call them."""
        workers = {f"rollout worker {index}": actor for index, actor in enumerate(self.rollout)}
        return workers | {f"learner rank {rank}": actor for rank, actor in enumerate(self.learner)}


@contextlib.contextmanager
def fleet(
    config: RunConfig,
    models: Models,
    sandbox_kind: str,
    problems: list[Problem],
    scored: Scored,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Fleet]:
    """Spawn every role for the length of the block; no reward server where nobody is `scored`.

    `checkpoint`: what the learner goes on from. Raises `CheckpointError` where it is another model's.
    """
    actors, ray_ends = Fleet(), config.cluster.address == "local"
    try:
        _spawn(actors, config, models, sandbox_kind, problems, scored, checkpoint)
        yield actors
    except LostError:
        ray_ends = False  # other roles may take their places in it
        raise
    finally:
        stop(actors, cluster_ends=ray_ends)


def _spawn(
    actors: Fleet,
    config: RunConfig,
    models: Models,
    sandbox_kind: str,
    problems: list[Problem],
    scored: Scored,
    checkpoint: Checkpoint | None,
) -> None:
    timeout_s = config.cluster.startup_timeout_s
    actors.problems = ray.put(problems)
    actors.pools = spawn_pools(config, sandbox_kind, actors.problems)
    with kept_for_reward(config, scored):
        actors.reserved = reserve(config)
    actors.learner = learner_ranks(config, models.policy, actors.reserved)
    actors.rollout = rollout_workers(config, models.policy, actors.reserved)
    if config.sync.transport == "object_store":  # else it would have to join the learner's communicator

        def respawn(index: int) -> Any:
            actors.rollout[index] = rollout_worker(config, models.policy, index, actors.reserved)
            return actors.rollout[index]

        actors.respawn = respawn
    # The record is written where the run's folder is: here.
    here = _on(ray.get_runtime_context().get_node_id())
    actors.recorder = actor_class(roles.RecorderRole, cpus=0, threads=1, scheduling_strategy=here).remote()

    # Last, because it takes some seconds here, in which the others already load.
    if scored == "none":
        actors.reward = GroupScorer(None, 0.0, scored)
    else:
        actors.reward_server = _reward_server(config, models.reward_model)
        actors.reward_server.deploy()
        actors.reward = GroupScorer(actors.reward_server.ask_groups, config.reward_model.deadline_s, scored)

    first = actors.learner[0]
    host, port = waits.get([first.__ray_call__.remote(node_address), first.free_port.remote()], timeout_s, "learner")
    resumed = (checkpoint.folder, checkpoint.shards()) if checkpoint else None
    starting = {actor.join.remote(rank, host, port, resumed): "learner" for rank, actor in enumerate(actors.learner)}
    starting |= {actor.start.remote(): "rollout worker" for actor in actors.rollout}
    starting |= {actor.start.remote(): name for name, actor in actors.pools.by_name.items()}
    deadline = time.monotonic() + timeout_s
    waits.get_all(starting, timeout_s)
    if config.sync.transport != "object_store":
        port = waits.get(first.free_port.remote(), timeout_s, "learner")
        weight_sync.open_transfer(actors.learner, actors.rollout, host, port, timeout_s)
    if actors.reward_server is not None:
        actors.reward.version = actors.reward_server.wait_ready(max(1.0, deadline - time.monotonic())).version


def learner_ranks(config: RunConfig, model: str, group: PlacementGroup | None = None) -> list[Any]:
    """Spawn the learner's ranks; they have not joined yet. `group`: what `reserve` returned."""
    section = config.learner
    return [
        actor_class(
            roles.LearnerRole,
            cpus=section.threads_per_rank,
            threads=section.threads_per_rank,
            concurrency_groups={CHECKPOINT: 1},
            **place(config, "learner", rank, section.gpus_per_rank, group),
        ).remote(config, model)
        for rank in range(section.num_ranks)
    ]


def rollout_workers(config: RunConfig, model: str, group: PlacementGroup | None = None) -> list[Any]:
    """Spawn the rollout workers; they have not started yet. `group`: what `reserve` returned."""
    return [rollout_worker(config, model, index, group) for index in range(config.rollout.num_workers)]


def rollout_worker(config: RunConfig, model: str, index: int, group: PlacementGroup | None = None) -> Any:
    """Spawn one; see `rollout_workers`."""
    section = config.rollout
    return actor_class(
        roles.RolloutRole,
        cpus=section.threads_per_worker,
        threads=section.threads_per_worker,
        env=vllm_env(section.gpus_per_worker),
        # Batches ahead, each in up to three demands where late groups are dropped; a replacement and an evaluation; and
        # what a lost worker leaves of each.
        concurrency_groups={SAMPLING: 6 * derive(config).steps_ahead + 6},
        **place(config, "rollout", index, section.gpus_per_worker, group),
    ).remote(config, model, index)


def _reward_server(config: RunConfig, model: str) -> RewardServer:
    """The reward server of one run, not yet deployed. The driver bounds the groups on their way; none is refused."""
    section = config.reward_model.model_copy(update={"model": model})
    name = f"pgrpo-{config.run.name}-{os.getpid()}-{time.time_ns():x}"
    version = folder_version(Path(model)) if Path(model).is_dir() else ""
    pin = {"reward": placement.PIN} if "reward" in config.cluster.pinned else {}
    return RewardServer(name, section, version, reward_env(section), drain_s=0.0, resources=pin)


def reward_env(section: RewardModelSection) -> dict[str, str]:
    """Return the environment of a reward server's replica."""
    return environment(section.threads, vllm_env(section.gpus) if section.backend == "vllm" else {})


def spawn_pools(config: RunConfig, sandbox_kind: str, problems: Any) -> ExecutionPools:
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
        pools[name] = actor_class(
            roles.ExecutionRole,
            cpus=0,
            threads=1,
            env=_POOL_ENV,
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


def stop(actors: Fleet, *, cluster_ends: bool = False) -> None:
    """Free containers, then kill every actor; a role that is dead already is what we want."""
    if actors.pools is not None:
        with contextlib.suppress(RayError):
            actors.pools.close(CLOSE_TIMEOUT_S)
    for actor in actors.all():
        ray.kill(actor)
    if actors.reserved is not None:
        remove_placement_group(actors.reserved)
    if actors.reward_server is not None:
        actors.reward_server.close(cluster_ends=cluster_ends)
