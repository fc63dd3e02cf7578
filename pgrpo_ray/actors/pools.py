"""All execution pools, as the driver sees them: which nodes have one, who judges a group, and who when a pool fails.

Who waits for whom: `judge` and `again` never wait; they queue a group with the pool that has the fewest. The driver
waits for the answers and takes each with `answer` once it is there. A pool whose process dies is restarted by Ray and
judges again what it had (judging twice is safe). A group that comes back without any verdict, because its node is
gone or its machinery fails, is judged again by another pool while its deadline lasts; so is one whose pool is silent
for longer than a pool may take (`overdue`). When nobody could, its rollouts carry the first cause as an error. So every
group is answered, and a broken node costs time, not verdicts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
)

from pgrpo_ray.actors import clock, roles, waits
from pgrpo_ray.config import RunConfig
from pgrpo_ray.errors import EnvironmentFault, SandboxError

CONTROL = "control"
"""Concurrency group of a pool's `stats` and `close`, so that they do not queue behind judges."""
_BESIDE = {"concurrency_group": CONTROL, "max_task_retries": 0}
"""How those two are called: a pool that is gone is not waited for."""
RESOURCE = "sandbox"
"""Custom resource of Ray: a node that offers it has an execution pool, one for each run that holds 1 of it."""
MAX_POOLS_TRIED = 3
"""By one group, those that are gone for good not counted. Ours: one bad node is common, two at a time are rare, and a
group may be what breaks them."""
MAX_GROUPS = 512
"""That one pool holds. Ours: each takes a thread there."""
REST_S = 60.0
"""For which a pool that lost a group gets others only where no pool is better. Ours: a broken pool answers fast, has
always the fewest groups, and would swallow the whole run."""
STATS_TIMEOUT_S = 5.0
"""For a pool to tell its counts; one that is restarting may stay silent."""


class Node(NamedTuple):
    """A node that gets an execution pool."""

    id: str
    address: str


def sandbox_nodes(config: RunConfig) -> list[Node]:
    """Return the living nodes that `sandbox.placement` admits. Raises `EnvironmentFault` when there is none."""
    offering = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(RESOURCE, 0) >= 1]
    wants_gpus = {"with_gpus": True, "without_gpus": False}.get(config.sandbox.placement)
    nodes = [
        Node(node["NodeID"], node["NodeManagerAddress"])
        for node in offering
        if wants_gpus is None or (node["Resources"].get("GPU", 0) > 0) is wants_gpus
    ]
    if not nodes:
        raise EnvironmentFault(
            f"no node may run an execution pool: of the Ray cluster at cluster.address={config.cluster.address!r}, "
            f"{len(offering)} living nodes offer the resource `{RESOURCE}`, and none of them satisfies "
            f"sandbox.placement={config.sandbox.placement}. Start the nodes that shall judge programs (each with a "
            f"Docker engine and the runner image) with `ray start ... --resources='{{\"{RESOURCE}\": 1}}'`, or in a "
            f'KubeRay worker group with resources: {{{RESOURCE}: "1"}}.'
        )
    return nodes


@dataclass(eq=False)
class Pool:
    """One pool's actor and how it fares."""

    name: str
    """What errors call it, node included."""
    actor: Any
    outstanding: int = 0
    """Shipments that it was given and that `answer` has not taken."""
    rests_until: float = 0.0
    """Monotonic seconds; see `REST_S`. A silent pool rests as long as it was waited for."""
    gone: bool = False
    """Its actor will not come back."""
    judge: Any = None
    """Its remote method, made once: making it costs as much as a call of it."""


@dataclass(eq=False)
class Judging:
    """Groups that are being judged together. References only."""

    rollouts: Any
    """The ROLLOUT table."""
    verdicts: Any
    """The VERDICT table."""
    scalars: Any
    """The scalar table; ready when the verdicts are."""
    tried: tuple[Pool, ...]
    """Pools that have had the group; the last has it. Empty once nobody could judge it."""
    since: float
    """When the first pool got it, or the last silent one was given up, seconds of `clock`."""
    given: float
    """When the last pool got it, seconds of `clock`."""
    cause: str = ""
    """The first failure; empty while there is none."""


class Counts(NamedTuple):
    """What happened in all pools since the last time."""

    cache_hits: int
    cache_lookups: int
    runner_restarts: int
    judged_again: int
    """Shipments that went to another pool."""

    @property
    def cache_hit_frac(self) -> float:
        """Share of programs whose verdict was remembered; NaN where none was looked up."""
        return self.cache_hits / self.cache_lookups if self.cache_lookups else float("nan")


class ExecutionPools:
    """The driver's handle of every execution pool. For one thread."""

    def __init__(self, actors: Mapping[str, Any], queue_programs: int, deadline_s: float, startup_s: float = 300.0):
        """`actors`: a started pool per name. `deadline_s`: after it a group that comes without verdicts is not judged
        again. A pool that is silent for `startup_s` more, in which Ray may restart it, loses its group to another."""
        self._pools = [Pool(name, actor) for name, actor in actors.items()]
        self._queue_programs = queue_programs
        self._deadline_s = deadline_s
        self._patience_s = deadline_s + startup_s
        self._seen: dict[Pool, Any] = {}
        self._judged_again = 0
        self._why_gone = ""

    @property
    def by_name(self) -> dict[str, Any]:
        """Every pool's actor under the pool's name."""
        return {pool.name: pool.actor for pool in self._pools}

    @property
    def actors(self) -> list[Any]:
        """Every pool's actor."""
        return list(self.by_name.values())

    def max_groups(self, group_size: int) -> int:
        """How many groups may wait for verdicts: what the queues of pools that are not gone hold."""
        there = sum(not pool.gone for pool in self._pools)
        return max(1, there) * groups_per_pool(self._queue_programs, group_size)

    def judge(self, rollouts: Any) -> Judging:
        """Queue groups, given as the reference of their ROLLOUT table."""
        now, pool = clock.now(), self._best(())
        return self._submit(Judging(rollouts, None, None, (), now, now, "" if pool else self._why_gone), pool)

    def overdue(self, judgings: Iterable[Judging]) -> list[Judging]:
        """Those of `judgings` whose pool has been silent for too long; `answer` takes each as a lost one."""
        before = clock.now() - self._patience_s
        return [judging for judging in judgings if judging.tried and judging.given < before]

    def answer(self, judging: Judging, timeout_s: float) -> Any:
        """Return the scalar table of groups that are ready, or None where `again` must be called.

        What is overdue and not ready is lost; its pool rests as long as it was waited for.
        Raises the rollout worker's error where the group came broken, and `StageError` for a defect of the pool's.
        """
        pool = judging.tried[-1] if judging.tried else None
        if pool:
            pool.outstanding -= 1
            if self.overdue([judging]) and not ray.wait([judging.scalars], timeout=0, fetch_local=False)[0]:
                pool.rests_until = clock.now() + self._patience_s
                judging.cause = judging.cause or f"{pool.name}: no answer within {self._patience_s:g} s."
                judging.since = clock.now()
                return None
        try:
            scalars = ray.get(judging.scalars, timeout=timeout_s)
        except RayError as error:
            explained = waits.explain(error, pool.name if pool else "execution pool", timeout_s)
            if not _of_the_pool(error, pool):  # only then are the rollouts brought here: their own error comes first
                waits.get(judging.rollouts, timeout_s, "rollout worker")
                if isinstance(error, RayTaskError | GetTimeoutError):
                    raise explained from error
            if pool is None:
                raise explained from error
            if isinstance(error, ActorDiedError | ActorUnschedulableError):
                pool.gone, self._why_gone = True, self._why_gone or str(explained)
            pool.rests_until = clock.now() + REST_S
            judging.cause = judging.cause or str(explained)
            return None
        cause = _loss(scalars)
        if cause is None or pool is None:
            return scalars
        pool.rests_until = clock.now() + REST_S
        judging.cause = judging.cause or cause
        return scalars if self._next(judging) is None else None

    def again(self, judging: Judging) -> Judging:
        """Queue what was lost with a pool that has not had it; where there is none, have its rollouts say the cause."""
        pool = self._next(judging)
        self._judged_again += pool is not None
        return self._submit(judging, pool)

    def counts(self) -> Counts:
        """Return what happened since the last call. Waits for the pools' answers, `STATS_TIMEOUT_S` at most."""
        asked = {pool.actor.stats.options(**_BESIDE).remote(): pool for pool in self._pools}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=STATS_TIMEOUT_S)
        sums = dict.fromkeys(("cache_hits", "cache_lookups", "restarts"), 0)
        for ref in ready:
            try:
                stats = ray.get(ref)
            except RayError:
                continue  # a dead pool has nothing to tell; who loses a group by it hears of it
            before = self._seen.get(asked[ref])
            for key in sums:
                now, then = getattr(stats, key, 0), getattr(before, key, 0)
                sums[key] += now - then if now >= then else now  # a restarted pool counts from 0
            self._seen[asked[ref]] = stats
        judged_again, self._judged_again = self._judged_again, 0
        return Counts(
            cache_hits=sums["cache_hits"],
            cache_lookups=sums["cache_lookups"],
            runner_restarts=sums["restarts"],
            judged_again=judged_again,
        )

    def close(self, timeout_s: float) -> None:
        """Have every pool free its containers; wait at most `timeout_s`. A dead pool's containers end by themselves."""
        closing = [actor.close.options(**_BESIDE).remote() for actor in self.actors]
        ray.wait(closing, num_returns=len(closing), timeout=timeout_s)

    def _submit(self, judging: Judging, pool: Pool | None) -> Judging:
        if pool is None:
            verdicts, scalars = _UNSCORED.remote(judging.rollouts, judging.cause)
        else:
            pool.outstanding += 1
            pool.judge = pool.judge or pool.actor.judge.options(num_returns=2)
            verdicts, scalars = pool.judge.remote(judging.rollouts)
        tried = (*judging.tried, pool) if pool else ()
        return replace(judging, verdicts=verdicts, scalars=scalars, tried=tried, given=clock.now())

    def _best(self, tried: tuple[Pool, ...]) -> Pool | None:
        """The pool with the fewest groups among those neither `tried` nor gone, rested ones first."""
        now = clock.now()
        untried = [pool for pool in self._pools if pool not in tried and not pool.gone]
        return min(untried, key=lambda pool: (pool.rests_until > now, pool.outstanding), default=None)

    def _next(self, judging: Judging) -> Pool | None:
        """Who may judge a lost group: None when the time or the number of pools is used up."""
        late = clock.now() - judging.since > self._deadline_s
        tried = sum(not pool.gone for pool in judging.tried)
        return None if late or tried >= MAX_POOLS_TRIED else self._best(judging.tried)


_UNSCORED = ray.remote(num_cpus=0, num_returns=2)(roles.unscored)


def _loss(scalars: Any) -> str | None:
    """The first cause where a whole group was lost to the machinery; None where each has a verdict or no program."""
    if scalars["execution_error"].null_count == scalars.num_rows:
        return None
    rows = scalars.select(["problem_id", "verdict", "execution_error"]).to_pylist()
    judged = {row["problem_id"] for row in rows if row["verdict"] is not None}
    lost = (row["execution_error"] for row in rows if row["problem_id"] not in judged)
    return next((error for error in lost if error is not None), None)


def _of_the_pool(error: RayError, pool: Pool | None) -> bool:
    """Whether another pool may do better for sure: the process or node is gone, or the sandbox there does not start."""
    if isinstance(error, RayTaskError):
        return isinstance(error.cause, SandboxError | EnvironmentFault)
    if isinstance(error, RayActorError):  # else it is that of the rollout worker, which the group died with
        return pool is not None and error.actor_id == pool.actor._actor_id.hex()
    return isinstance(error, ActorUnschedulableError)


def groups_per_pool(queue_programs: int, group_size: int) -> int:
    """How many groups one pool may hold: what its queue holds, and never so few that it runs dry."""
    return min(MAX_GROUPS, max(2, queue_programs // group_size))
