"""Starting and stopping Ray and the roles: resources, environments, rendezvous.

Whoever spawns owns: leaving `fleet` frees containers first, then kills every actor; leaving `ray_session` ends Ray
where this process started it. Roles start side by side; the first failure ends the start with its cause (the reward
server's is heard after the others').
"""

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from pgrpo_ray.actors import roles, waits, weight_sync
from pgrpo_ray.actors.checkpointing import CHECKPOINT
from pgrpo_ray.actors.cluster import (
    actor_class,
    cluster_session,
    environment,
    node_address,
    offers,
    vllm_env,
)
from pgrpo_ray.actors.group_flow import SAMPLING
from pgrpo_ray.actors.pools import CONTROL, RESOURCE, ExecutionPools, Node, groups_per_pool, sandbox_nodes
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

NODES_PAUSE_S = 2.0
"""Between two looks for nodes that are joining."""
RELEASE_TIMEOUT_S = 10.0
"""For Ray to free the resource of a run that has just ended."""


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
    """Room for learner ranks and rollout workers; see `_reserve`."""

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
def ray_session(config: RunConfig) -> Iterator[None]:
    """Join or start Ray for the length of the block, with room for every role of a run."""
    cpus = sum(bundle.takes["CPU"] for bundle in placement.bundles(config))
    marks: dict[str, float] = {RESOURCE: 1, **dict.fromkeys(config.cluster.pinned, 1)}
    with cluster_session(config.cluster, math.ceil(cpus), marks):
        _check_free(check_room(config))
        yield


def check_room(config: RunConfig, *, fewer: bool = False) -> list[Node]:
    """Return the nodes that judge programs. Raises `EnvironmentFault` when the cluster cannot hold all roles, which
    would stay pending for ever, once `cluster.wait_for_nodes_s` have passed.

    `fewer`: room for one rollout worker and one learner rank will do.
    """
    deadline, wanted, asked = time.monotonic() + config.cluster.wait_for_nodes_s, placement.bundles(config), False
    try:
        while True:
            late, there = time.monotonic() >= deadline, offers()
            enough = placement.bundles(placement.fitted(config, there)) if fewer else wanted
            missing = placement.lacking(enough, there)
            with contextlib.nullcontext() if late else contextlib.suppress(EnvironmentFault):
                judging = sandbox_nodes(config)
                if not missing:
                    return judging
            if late:
                break
            # Each time, as a cluster keeps one such wish: another run that waits puts its own in this one's place.
            request_resources(bundles=[*(dict(bundle.takes) for bundle in wanted), {RESOURCE: 1}])
            asked = True
            time.sleep(NODES_PAUSE_S)
    finally:
        if asked:  # an autoscaler would keep such nodes for ever
            request_resources(bundles=[])
    nodes = "; ".join(f"{name}: {_told(offered)}" for name, offered in there.items())
    raise EnvironmentFault(
        f"the Ray cluster at cluster.address={config.cluster.address!r} cannot hold the run. {'. '.join(missing)}. The "
        f"nodes are {nodes}. Add nodes, wait for them with cluster.wait_for_nodes_s, or lower rollout.num_workers, "
        "learner.num_ranks, reward_model.replicas, or what each takes."
    )


def _told(offered: dict[str, float]) -> str:
    """What a node offers, without what Ray alone reads."""
    kept = {name: n for name, n in offered.items() if ":" not in name and not name.endswith("memory")}
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(kept.items())) or "nothing"


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
    with _kept_for_reward(config, scored):
        actors.reserved = _reserve(config)
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


def _reserve(config: RunConfig) -> PlacementGroup:
    """Reserve room for all learner ranks and rollout workers at once, close together: of two runs that start at the
    same time one gets all and the other waits, where each could else wait for ever for what the other holds.

    A bundle for each rank, then one for each worker; with `cluster.colocate` one for each pair.
    """
    wanted = [bundle for bundle in placement.bundles(config) if bundle.role != "reward"]
    timeout_s = config.cluster.startup_timeout_s
    group = placement_group([dict(bundle.takes) for bundle in wanted], "PACK")
    if not group.wait(timeout_s):
        remove_placement_group(group)
        kinds = Counter(f"{bundle.role} ({bundle})" for bundle in wanted)
        asked = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        free = "; ".join(f"{node[:6]}: {_told(left)}" for node, left in available_resources_per_node().items())
        raise EnvironmentFault(
            f"the nodes had no room for {asked} within cluster.startup_timeout_s={timeout_s:g} s, though empty they "
            f"would. Another run may hold it (`ray list placement-groups` shows it). Free now: {free}. Wait for its "
            "end, or ask for less."
        )
    return group


@contextlib.contextmanager
def _kept_for_reward(config: RunConfig, scored: Scored) -> Iterator[None]:
    """Keep the room of pinned reward replicas while the others' is reserved: their group knows nothing of marks and may
    take the one node where replicas can be. Serve makes these, so they are in no group of ours."""
    wanted = [dict(bundle.takes) for bundle in placement.bundles(config) if bundle.role == "reward"]
    if scored == "none" or "reward" not in config.cluster.pinned:
        yield
        return
    kept = placement_group(wanted, "PACK")
    try:
        kept.wait(config.cluster.startup_timeout_s)  # in vain: `wait_ready` tells why
        yield
    finally:
        remove_placement_group(kept)


def _place(config: RunConfig, role: str, index: int, gpus: float, group: PlacementGroup | None) -> dict[str, Any]:
    """Options of the actor of that index in its role: in its bundle of `group`, with half a GPU where it is shared."""
    colocated = config.cluster.colocate
    options: dict[str, Any] = {"gpus": gpus / 2 if colocated and group else gpus}
    if role in config.cluster.pinned:
        options["resources"] = {role: placement.PIN}
    if group is not None:
        first = 0 if role == "learner" or colocated else config.learner.num_ranks
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, first + index)
    return options


def learner_ranks(config: RunConfig, model: str, group: PlacementGroup | None = None) -> list[Any]:
    """Spawn the learner's ranks; they have not joined yet. `group`: what `_reserve` returned."""
    section = config.learner
    return [
        actor_class(
            roles.LearnerRole,
            cpus=section.threads_per_rank,
            threads=section.threads_per_rank,
            concurrency_groups={CHECKPOINT: 1},
            **_place(config, "learner", rank, section.gpus_per_rank, group),
        ).remote(config, model)
        for rank in range(section.num_ranks)
    ]


def rollout_workers(config: RunConfig, model: str, group: PlacementGroup | None = None) -> list[Any]:
    """Spawn the rollout workers; they have not started yet. `group`: what `_reserve` returned."""
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
        **_place(config, "rollout", index, section.gpus_per_worker, group),
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
