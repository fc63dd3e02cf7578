"""Sampling and judging without training: rollout workers and execution pools alone, for benchmarks made of samples.

Who waits for whom: `judged_groups` hands each worker its requests as one stream and has every group judged as soon as
its last response ends; the caller waits in the generator for the next judged group. When many groups wait for verdicts
it takes no more from the workers, whose engines then pause. A group that a pool loses goes to another one. Every wait
has `cluster.stage_timeout_s`. Leaving `sampling_fleet` frees containers and kills the actors.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from pgrpo_ray.actors import spawn, waits
from pgrpo_ray.actors.pools import Judging
from pgrpo_ray.config import RunConfig
from pgrpo_ray.data import arrow
from pgrpo_ray.types import Problem, PromptRequest

STREAM_AHEAD = 4
"""Groups that a rollout worker may have finished before one is taken, as in training."""


@contextlib.contextmanager
def sampling_fleet(
    config: RunConfig, model: str, sandbox_kind: str, problems: Sequence[Problem]
) -> Iterator[spawn.Fleet]:
    """Spawn rollout workers with `model` and a pool on every node that has one, for the length of the block."""
    actors = spawn.Fleet()
    try:
        actors.problems = ray.put(list(problems))
        actors.pools = spawn.spawn_pools(config, sandbox_kind, actors.problems)
        actors.rollout = spawn.rollout_workers(config, model)
        starting = {worker.start.remote(): "rollout worker" for worker in actors.rollout}
        starting |= {pool.start.remote(): name for name, pool in actors.pools.by_name.items()}
        waits.get_all(starting, config.cluster.startup_timeout_s)
        yield actors
    finally:
        spawn.stop(actors, cluster_ends=config.cluster.address == "local")


def judged_groups(fleet: spawn.Fleet, config: RunConfig, requests: Sequence[PromptRequest]) -> Iterator[pa.Table]:
    """Yield a table of `rollout.group_size` rows (stages `rollout` and `verdict`) per request, as they are judged."""
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
        taking = streams if len(pending) < pools.max_groups(section.group_size) else set()
        owners = " and ".join(["rollout worker"] * bool(taking) + ["execution pool"] * bool(pending))
        refs = [*pending, *taking]
        for ready in waits.wait_any(refs, timeout_s, owners, partial(_late, pools, pending)):
            if ready in streams:
                try:
                    judging = pools.judge(next(ready))
                except StopIteration:
                    streams.discard(ready)
                    continue
                pending[judging.scalars] = judging
                continue
            judging = pending.pop(ready)
            if pools.answer(judging, timeout_s) is None:  # its pool lost it
                judging = pools.again(judging)
                pending[judging.scalars] = judging
                continue
            stages = waits.get([judging.rollouts, judging.verdicts], timeout_s, "execution pool")
            yield arrow.append_columns(*stages)


def _late(pools: Any, pending: dict[Any, Judging]) -> list[Any]:
    """References of the groups that their pools should have judged long ago."""
    return [judging.scalars for judging in pools.overdue(pending.values())]
