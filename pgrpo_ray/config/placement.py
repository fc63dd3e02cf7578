"""Which nodes can hold a run's processes: arithmetic on its config and on what nodes offer. Asks no Ray.

The whole vocabulary: what each process takes (`rollout.gpus_per_worker`, `learner.threads_per_rank` and their like),
`cluster.colocate` (a learner rank and a rollout worker are one bundle and share a GPU), `cluster.pinned` (roles that go
only where Ray's resource of their name is offered) and `sandbox.placement` (which of the nodes that offer `sandbox` get
an execution pool, which takes no CPU that Ray counts). `actors.reservation` makes placement groups of the same bundles.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgrpo_ray.config.run import RunConfig

PIN = 0.001
"""Of a node's resource that each pinned process takes: a mark rather than a count, so that 1 is enough for 1,000."""


@dataclass(frozen=True)
class Bundle:
    """What one process takes of one node, or a pair that shares a GPU."""

    role: str
    takes: Mapping[str, float]
    """By Ray's name of the resource; none is zero."""

    def __str__(self) -> str:
        amounts = [f"{amount:g} {name}" for name, amount in self.takes.items() if amount != PIN]
        pins = [f"`{name}`" for name, amount in self.takes.items() if amount == PIN]
        return ", ".join([*amounts, *pins])

    def fits(self, offers: Mapping[str, float]) -> bool:
        """Whether a node with these resources can hold it; Ray counts in ten-thousandths."""
        return all(offers.get(name, 0) >= amount - 1e-5 for name, amount in self.takes.items())


def bundles(config: RunConfig) -> list[Bundle]:
    """Return what the learner's ranks, the rollout workers and the reward server's replicas take, in this order.

    Pairs of rank and worker stand in the ranks' places where they share a GPU.
    """
    learner, rollout, reward = config.learner, config.rollout, config.reward_model
    rank = _bundle(config, "learner", learner.threads_per_rank, learner.gpus_per_rank)
    worker = _bundle(config, "rollout", rollout.threads_per_worker, rollout.gpus_per_worker)
    replica = _bundle(config, "reward", reward.threads, reward.gpus)
    if config.cluster.colocate:
        cpus = rank.takes["CPU"] + worker.takes["CPU"]
        placed = [Bundle("learner + rollout", {**rank.takes, **worker.takes, "CPU": cpus})] * learner.num_ranks
    else:
        placed = [rank] * learner.num_ranks + [worker] * rollout.num_workers
    return placed + [replica] * reward.replicas


def _bundle(config: RunConfig, role: str, cpus: float, gpus: float) -> Bundle:
    pin = PIN if role in config.cluster.pinned else 0
    return Bundle(role, {name: n for name, n in (("CPU", cpus), ("GPU", gpus), (role, pin)) if n})


def place(wanted: Sequence[Bundle], nodes: Mapping[str, Mapping[str, float]]) -> list[str | None]:
    """Return a node for each bundle, None where there was no room left; largest first, first fit.

    `nodes`: what each offers, by its name. That a bundle finds no room here does not prove that no other order would
    have found some: `lacking` does.
    """
    left = {name: dict(offers) for name, offers in nodes.items()}
    found: list[str | None] = [None] * len(wanted)

    def size(index: int) -> tuple[float, int, float]:
        takes = wanted[index].takes
        return takes.get("GPU", 0), len(takes), takes.get("CPU", 0)

    for index in sorted(range(len(wanted)), key=size, reverse=True):
        bundle = wanted[index]
        # What needs no GPU leaves nodes with GPUs alone, and what is not pinned those with marks.
        fitting = [name for name, offers in left.items() if bundle.fits(offers)]
        name = min(fitting, key=lambda name: (nodes[name].get("GPU", 0), len(nodes[name])), default=None)
        if name is not None:
            for resource, amount in bundle.takes.items():
                left[name][resource] -= amount
            found[index] = name
    return found


def lacking(wanted: Sequence[Bundle], nodes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say what the nodes certainly lack, whatever the order; empty where `place` finds room or nothing is certain."""
    if None not in place(wanted, nodes):
        return []
    missing = []
    for role, count in Counter(bundle.role for bundle in wanted).items():
        each = next(bundle for bundle in wanted if bundle.role == role)
        held = sum(_times(each, offers) for offers in nodes.values())
        if held < count:
            missing.append(f"{role}: {count} times ({each}) is wanted, the nodes can hold {held}")
    for name in ("CPU", "GPU"):
        total = sum(bundle.takes.get(name, 0) for bundle in wanted)
        there = sum(offers.get(name, 0) for offers in nodes.values())
        if total > there + 1e-5:
            missing.append(f"all roles together take {total:g} {name}s, the nodes have {there:g}")
    return missing


def fitted(config: RunConfig, nodes: Mapping[str, Mapping[str, float]]) -> RunConfig:
    """Return the config with as many rollout workers and learner ranks as the nodes can hold.

    Of the roles whose loss makes room, the one with more processes gives way. One of each stays, and where some process
    fits on no node at all nothing is changed; `lacking` tells of either.
    """
    while homeless := _homeless(config, nodes):
        if not all(any(bundle.fits(offers) for offers in nodes.values()) for bundle in homeless):
            break
        smaller = _one_fewer(config)
        if not smaller:
            break
        # None does alone where a reward replica takes the room of several.
        helps = [one for one in smaller if len(_homeless(one[1], nodes)) < len(homeless)]
        _, config = max(helps or smaller, key=lambda one: one[0])
    return config


def _homeless(config: RunConfig, nodes: Mapping[str, Mapping[str, float]]) -> list[Bundle]:
    wanted = bundles(config)
    return [bundle for bundle, home in zip(wanted, place(wanted, nodes), strict=True) if home is None]


def _one_fewer(config: RunConfig) -> list[tuple[int, RunConfig]]:
    """Return, for each role that has more than one process, how many and the config with one fewer."""
    counted, fewer = {"rollout": "num_workers", "learner": "num_ranks"}, []
    for role, key in counted.items():
        if (count := getattr(getattr(config, role), key)) > 1:
            roles = counted if config.cluster.colocate else [role]  # there they are pairs
            updates = {one: getattr(config, one).model_copy(update={counted[one]: count - 1}) for one in roles}
            fewer.append((count, config.model_copy(update=updates)))
    return fewer


def _times(bundle: Bundle, offers: Mapping[str, float]) -> int:
    """How often a node holds a bundle, were it empty."""
    return int(min(offers.get(name, 0) / amount + 1e-6 for name, amount in bundle.takes.items()))
