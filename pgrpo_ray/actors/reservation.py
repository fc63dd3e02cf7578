"""Room for the roles on a Ray cluster: waited for, checked and reserved before anything starts.

A role that no node can hold would stay pending for ever, and of two runs that start together each might wait for what
the other holds. So `ray_session` opens only where all roles fit, and `reserve` takes room for learner ranks and rollout
workers at once; the reward server's replicas are placed by Ray Serve, an execution pool by its node's resource. What a
role takes is `config.placement`'s.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ray._private.state import available_resources_per_node
from ray.autoscaler.sdk import request_resources
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pgrpo_ray.actors.cluster import cluster_session, offers
from pgrpo_ray.actors.pools import RESOURCE, Node, sandbox_nodes
from pgrpo_ray.algo.rewards import Scored
from pgrpo_ray.config import RunConfig, placement
from pgrpo_ray.errors import EnvironmentFault

NODES_PAUSE_S = 2.0
"""Between two looks for nodes that are joining."""
RELEASE_TIMEOUT_S = 10.0
"""For Ray to free the resource of a run that has just ended."""


@contextlib.contextmanager
def ray_session(config: RunConfig) -> Iterator[None]:
    """Join or start Ray for the length of the block, with room for every role of a run."""
    cpus = sum(bundle.takes["CPU"] for bundle in placement.bundles(config))
    marks: dict[str, float] = {RESOURCE: 1, **dict.fromkeys(config.cluster.pinned, 1)}
    with cluster_session(config.cluster, math.ceil(cpus), marks):
        check_free(check_room(config))
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


def check_free(nodes: list[Node]) -> None:
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


def reserve(config: RunConfig) -> PlacementGroup:
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
def kept_for_reward(config: RunConfig, scored: Scored) -> Iterator[None]:
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


def place(config: RunConfig, role: str, index: int, gpus: float, group: PlacementGroup | None) -> dict[str, Any]:
    """Options of the actor of that index in its role: in its bundle of `group`, with half a GPU where it is shared."""
    colocated = config.cluster.colocate
    options: dict[str, Any] = {"gpus": gpus / 2 if colocated and group else gpus}
    if role in config.cluster.pinned:
        options["resources"] = {role: placement.PIN}
    if group is not None:
        first = 0 if role == "learner" or colocated else config.learner.num_ranks
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, first + index)
    return options


def _told(offered: dict[str, float]) -> str:
    """What a node offers, without what Ray alone reads."""
    kept = {name: n for name, n in offered.items() if ":" not in name and not name.endswith("memory")}
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(kept.items())) or "nothing"
