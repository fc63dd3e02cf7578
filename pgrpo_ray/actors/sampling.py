"""Sampling and judging without training: rollout workers and execution pools alone, for benchmarks made of samples.

Who waits for whom: `judged_groups` hands each worker its requests as one stream and has every group judged as soon as
its last response ends; `judged_tables` has responses judged that are there already. The caller waits in the generator
for the next judged group. When many groups wait for verdicts it takes no more from the workers, whose engines then
pause. A group that a pool loses goes to another one. Every wait has `cluster.stage_timeout_s`. Leaving
`sampling_fleet` frees containers and kills the actors.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from pgrpo_ray.actors import spawn, waits
from pgrpo_ray.actors.group_flow import STREAM_AHEAD
from pgrpo_ray.actors.pools import Judging
from pgrpo_ray.config import RunConfig
from pgrpo_ray.data import arrow
from pgrpo_ray.types import Problem, PromptRequest


@contextlib.contextmanager
def sampling_fleet(
    config: RunConfig, model: str | None, sandbox_kind: str, problems: Sequence[Problem]
) -> Iterator[spawn.Fleet]:
    """Spawn rollout workers with `model` and a pool on every node that has one, for the length of the block.

    Without a `model` there are no workers: `judged_tables` needs none.
    """
    actors = spawn.Fleet()
    try:
        actors.problems = ray.put(list(problems))
        actors.pools = spawn.spawn_pools(config, sandbox_kind, actors.problems)
        actors.rollout = spawn.rollout_workers(config, model) if model is not None else []
        starting = {worker.start.remote(): "rollout worker" for worker in actors.rollout}
        starting |= {pool.start.remote(): name for name, pool in actors.pools.by_name.items()}
        waits.get_all(starting, config.cluster.startup_timeout_s)
        yield actors
    finally:
        spawn.stop(actors, cluster_ends=config.cluster.address == "local")


def judged_groups(
    fleet: spawn.Fleet,
    config: RunConfig,
    requests: Sequence[PromptRequest],
    revise: Callable[[pa.Table], pa.Table] | None = None,
) -> Iterator[pa.Table]:
    """Yield a table of `rollout.group_size` rows (stages `rollout` and `verdict`) per request, as they are judged.

    `revise` may change what is judged: it receives each ROLLOUT table here, in the caller's process, and its answer
    takes the table's place.
    """
    section, timeout_s, pools = config.rollout, config.cluster.stage_timeout_s, fleet.pools
    options = {"num_returns": "streaming", "_generator_backpressure_num_objects": STREAM_AHEAD}
    streams = {
        worker.generate.options(**options).remote(
            list(requests[index :: len(fleet.rollout)]), section.group_size, section.temperature
        )
        for index, worker in enumerate(fleet.rollout)
    }
    pending: dict[Any, Judging] = {}
    while streams or pending:
        most = pools.max_groups(section.group_size)
        taking = streams if len(pending) < most else set()
        owners = " and ".join(["rollout worker"] * bool(taking) + ["execution pool"] * bool(pending))
        refs = [*pending, *taking]
        for ready in waits.wait_any(refs, timeout_s, owners, partial(_late, pools, pending)):
            if ready in streams:
                if len(pending) >= most:  # several streams may be ready at once
                    continue
                try:
                    rollouts = next(ready)
                except StopIteration:
                    streams.discard(ready)
                    continue
                if revise is not None:
                    rollouts = ray.put(revise(waits.get(rollouts, timeout_s, "rollout worker")))
                judging = pools.judge(rollouts)
                pending[judging.scalars] = judging
            elif (judged := _judged(pools, pending, ready, timeout_s)) is not None:
                yield judged


def judged_tables(fleet: spawn.Fleet, config: RunConfig, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield each ROLLOUT table of one group with its verdicts beside it, as they are judged."""
    timeout_s, pools, waiting = config.cluster.stage_timeout_s, fleet.pools, iter(tables)
    pending: dict[Any, Judging] = {}
    most = pools.max_groups(config.rollout.group_size)
    while True:
        for table in itertools.islice(waiting, most - len(pending)):
            judging = pools.judge(ray.put(table))
            pending[judging.scalars] = judging
        if not pending:
            return
        late = partial(_late, pools, pending)
        for ready in waits.wait_any(list(pending), timeout_s, "execution pool", late):
            if (judged := _judged(pools, pending, ready, timeout_s)) is not None:
                yield judged


def _judged(pools: Any, pending: dict[Any, Judging], ready: Any, timeout_s: float) -> pa.Table | None:
    """Take a group whose verdicts are ready; None where its pool lost it and another has it now."""
    judging = pending.pop(ready)
    if pools.answer(judging, timeout_s) is None:
        judging = pools.again(judging)
        pending[judging.scalars] = judging
        return None
    return arrow.append_columns(*waits.get([judging.rollouts, judging.verdicts], timeout_s, "execution pool"))


def _late(pools: Any, pending: dict[Any, Judging]) -> list[Any]:
    """References of the groups that their pools should have judged long ago."""
    return [judging.scalars for judging in pools.overdue(pending.values())]
