"""Groups on their way: sampled, judged and scored at the same time, while the driver waits for whatever it waits for.

Who waits for whom: `ask` hands requests to the rollout workers and returns. From then on groups move whenever the
driver waits through this object: for groups (`finish`, `until`) or for something else (`get`, `wait_any`, which stand
for those of `actors.waits`), such as the learner. Each group's reference is taken the moment its last response ends. It
is judged at once, then scored (not queued before: an actor takes calls in order, so one slow pool would stop all
scoring). When judging lags, no more groups are taken, and each rollout worker stops its engine some groups later:
nothing piles up. A group that a pool keeps for longer than it may goes to another one. What a lost rollout worker had
not brought is sampled by another, or by the same once it is back (`supervision`), from the same seeds.

The driver's thread alone calls this. What it moves are the records of `demands`.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from pgrpo_ray.actors import clock, waits
from pgrpo_ray.actors.arrivals import LOOKED_AT, check_groups
from pgrpo_ray.actors.demands import Demand, Group, Shipment, Stream
from pgrpo_ray.actors.pools import ExecutionPools
from pgrpo_ray.actors.scoring import GroupScorer
from pgrpo_ray.actors.supervision import ROLLOUT, Supervisor
from pgrpo_ray.errors import LostError, StageError
from pgrpo_ray.obs.timeline import Timeline
from pgrpo_ray.types import PromptRequest

STREAM_AHEAD = 4
"""Shipments that a rollout worker may have ready before the driver takes one. Ours: several groups can end in one
engine step, and the driver takes one in about a millisecond."""
TOGETHER = 4
"""Groups that may travel together. Ours: what a call costs then is shared by four, and what a lost pool or replica
holds up is still little. An engine lets no more lie (`rollout.engine_loop.AHEAD`)."""
REST_LOOK_S = 0.1
"""Between looks while nothing is under way but a rest before a restart."""
SAMPLING = "sampling"
"""Concurrency group of a rollout worker's `generate`: its calls run beside each other and beside new weights."""
_LOOK_AGAIN = object()
_UNDER_WAY = "only groups out of a checkpoint have no stream and no span, and those are done"


class GroupFlow:
    """All groups that are on their way. For one thread."""

    def __init__(
        self,
        crew: Supervisor,
        admit: Callable[[], None],
        pools: ExecutionPools,
        scorer: GroupScorer,
        statements: dict[str, str],
        timeout_s: float,
        timeline: Timeline,
    ):
        """`crew` has the rollout workers; `admit` is called when one has started again. `statements`: of each problem
        that is scored, as the reward model reads it. `timeout_s`: for anything to happen while somebody waits."""
        self._crew = crew
        self._admit = admit
        self._pools = pools
        self._scorer = scorer
        self._statements = statements
        self._timeout_s = timeout_s
        self._timeline = timeline
        self._streams: dict[Any, Stream] = {}
        self._unsampled: list[tuple[Demand, Sequence[PromptRequest]]] = []
        """What waits for a rollout worker to come back."""
        self._pending: dict[Any, Shipment] = {}
        """By the reference that each waits for."""
        self._largest = self._most = self._together = 1
        self._looked_at = 0.0
        self._asked = 0

    def ask(
        self,
        requests: Sequence[PromptRequest],
        group_size: int,
        temperature: float,
        version: int,
        *,
        score: bool,
        on_group: Callable[[], None] = lambda: None,
        done: Shipment | None = None,
    ) -> Demand:
        """Have a group sampled for each request, of different problems; return at once.

        `done`: groups that were done before a checkpoint; these are not sampled again.
        """
        self._asked += 1
        self._bound(group_size)
        name = f"demand {self._asked}"
        demand = Demand(name, tuple(requests), group_size, temperature, score, version, on_group)
        if done is not None:
            done.demand = demand
            self._look_at(done)
            self._hand_out(done)
        self._sample(demand, requests)
        return demand

    def _sample(self, demand: Demand, requests: Sequence[PromptRequest]) -> None:
        """Have the workers sample what has not arrived of some requests of a demand, or keep it until one is there."""
        requests = [request for request in requests if request.problem_id not in demand.arrived]
        workers = self._crew.serving
        if not workers:
            self._unsampled.append((demand, requests))
            demand.unsampled += len(requests)
            return
        options = {
            "num_returns": "streaming",
            "concurrency_group": SAMPLING,
            "_generator_backpressure_num_objects": STREAM_AHEAD,
        }
        for index in range(min(len(workers), len(requests))):
            share = requests[index :: len(workers)]
            # Not always the first ones: small demands are not to fill some and leave others idle.
            worker = workers[(self._asked + index) % len(workers)]
            stream = worker.generate.options(**options).remote(
                share, demand.group_size, demand.temperature, demand.version, demand.name, self._together
            )
            self._streams[stream] = Stream(demand, worker, share, self._timeline.begin("sampling", demand.name))
            demand.streams += 1

    def finish(self, demand: Demand) -> list[Group]:
        """Wait for all groups of a demand; return them in the order of its requests."""
        self.until(lambda: demand.complete)
        done, demand.done = demand.done, []
        return sorted(done, key=lambda group: demand.places[group.request.problem_id])

    def until(self, condition: Callable[[], bool]) -> None:
        """Move groups until `condition`, which some group must fulfil."""
        while not condition():
            self._turn([], self._timeout_s, "")

    def drop(self, demand: Demand) -> None:
        """Give up whatever of a demand is not done; what a pool or the reward server has of it is not waited for."""
        demand.dropped = True
        demand.done.clear()
        self._unsampled = [waiting for waiting in self._unsampled if waiting[0] is not demand]
        demand.unsampled = 0
        for worker in self._crew.serving:
            worker.drop.remote(demand.name)

    def wait_any(self, refs: Sequence[Any], timeout_s: float, stage: str) -> list[Any]:
        """As `waits.wait_any`, and groups move meanwhile."""
        deadline = clock.now() + timeout_s
        while not (found := self._turn(refs, max(0.0, deadline - clock.now()), stage)):
            if clock.now() > deadline:
                raise waits.late(refs, timeout_s, stage)
        return found

    def get(self, refs: Any, timeout_s: float, stage: str) -> Any:
        """As `waits.get`, and groups move meanwhile."""
        return waits.get(refs, timeout_s, stage, self.wait_any)

    def _turn(self, foreign: Sequence[Any], timeout_s: float, stage: str) -> list[Any]:
        """Wait until something happens, take every group a stage further that can be, and return which of `foreign` are
        ready."""
        self._crew.look()
        if self._unsampled and self._crew.serving:
            waiting, self._unsampled = self._unsampled, []
            for demand, requests in waiting:
                demand.unsampled -= len(requests)
                self._sample(demand, requests)
        # Judged groups first; and while too many wait, no more are taken.
        self._most = max(1, self._pools.max_groups(self._largest) // self._together)
        streams = self._streams if len(self._pending) < self._most else {}
        starting = self._crew.starting
        refs = [*foreign, *self._pending, *streams, *starting]
        names = [stage] * bool(foreign) + ["rollout worker"] * bool([*streams, *starting])
        names += ["execution pool or reward server"] * bool(self._pending)
        if not refs and self._crew.resting:
            time.sleep(REST_LOOK_S)
            return []
        if not refs:
            raise StageError("driver: groups are waited for, but none is under way.", stage="driver")
        ready = waits.wait_any(refs, timeout_s, " and ".join(names), self._late)
        found = []
        for ref in ready:
            if ref in self._pending:
                self._advance(self._pending.pop(ref))
            elif ref in self._streams:
                self._take(ref)
            elif ref in starting:
                self._crew.heard(ref)
                self._admit()
            elif ref is not _LOOK_AGAIN:
                found.append(ref)
        return found

    def _take(self, stream: Any) -> None:
        """Have what a rollout worker has ready judged, up to the bound of what may wait."""
        source = self._streams[stream]
        demand = source.demand
        with contextlib.suppress(StopIteration):
            while len(self._pending) < self._most:
                rollouts = next(stream)
                if not demand.dropped:
                    judging = self._pools.judge(rollouts)
                    demand.under_way += 1
                    source.under_way += 1
                    span = self._timeline.begin("judging", demand.name)
                    self._pending[judging.scalars] = Shipment(demand, judging, span, source)
                if not stream.next_ready():
                    return
            return
        del self._streams[stream]
        self._timeline.end(source.span)
        demand.sampled_at = time.monotonic()
        source.ended = True
        self._close(source)

    def _close(self, source: Stream) -> None:
        """Take the end of a stream, once whatever it brought is through; have sampled what a lost one did not bring."""
        demand = source.demand
        if source.under_way or not source.ended:
            return
        demand.streams -= 1
        if source.lost and not demand.dropped:
            self._sample(demand, source.requests)
        self._check_all_came(demand)

    def _advance(self, shipment: Shipment) -> None:
        """Take what a shipment waited for and have the next done."""
        if shipment.scalars is None:
            self._judged(shipment)
        else:
            scoring = shipment.scoring
            assert scoring, "scalars are in, and nothing is scored"
            self._scorer.answer(scoring, self._timeout_s)
            if scoring.ref is not None:  # it is asked for again
                self._pending[scoring.ref] = shipment
                return
            self._end(shipment)

    def _judged(self, shipment: Shipment) -> None:
        demand = shipment.demand
        try:
            shipment.scalars = self._pools.answer(shipment.judging, self._timeout_s)
        except LostError as error:
            if shipment.stream is None or error.stage != ROLLOUT:
                raise
            self._lose(shipment, error)
            return
        if shipment.scalars is None and not demand.dropped:  # its pool lost it
            shipment.judging = self._pools.again(shipment.judging)
            self._pending[shipment.judging.scalars] = shipment
            return
        if not demand.dropped:
            self._look_at(shipment)
        if demand.score and not demand.dropped:
            shipment.scoring = self._scorer.score(shipment.judging.rollouts, shipment.scalars, self._statements)
            if shipment.scoring.ref is not None:
                assert shipment.span, _UNDER_WAY
                self._timeline.end(shipment.span)
                shipment.span = self._timeline.begin("scoring", demand.name)
                self._pending[shipment.scoring.ref] = shipment
                return
        self._end(shipment)

    def _lose(self, shipment: Shipment, error: LostError) -> None:
        """Its rollouts are gone, mostly with their worker."""
        source = shipment.stream
        assert source and shipment.span, _UNDER_WAY
        source.lost = True
        self._timeline.end(shipment.span)
        self._crew.lost(source.worker, error)
        shipment.demand.under_way -= 1
        source.under_way -= 1
        self._close(source)

    def _end(self, shipment: Shipment) -> None:
        """The groups of a shipment have all that they were to get."""
        demand, source = shipment.demand, shipment.stream
        assert source and shipment.span, _UNDER_WAY
        self._timeline.end(shipment.span)
        demand.under_way -= 1
        source.under_way -= 1
        if not demand.dropped:
            self._hand_out(shipment)
        self._close(source)

    def _look_at(self, shipment: Shipment) -> None:
        """Raise `CorruptionError` unless its groups are what was asked for."""
        demand = shipment.demand
        asked = demand.group_size, demand.prompts, demand.version
        shipment.problems = check_groups(shipment.scalars.select(LOOKED_AT).to_pydict(), *asked, demand.arrived)

    def _hand_out(self, shipment: Shipment) -> None:
        demand = shipment.demand
        for index, problem_id in enumerate(shipment.problems):
            request = demand.requests[demand.places[problem_id]]
            demand.done.append(Group(shipment, request, index * demand.group_size, demand.group_size))
            demand.came += 1
            demand.on_group()

    def _check_all_came(self, demand: Demand) -> None:
        if demand.complete and not demand.dropped and demand.came != len(demand.places):
            raise StageError(
                f"rollout worker: {len(demand.places)} groups asked for, {demand.came} came.", stage="rollout worker"
            )

    def _bound(self, group_size: int) -> None:
        """How many groups may travel together: few enough that what the queues of all pools hold, of the largest groups
        that are asked for, makes several shipments for each."""
        self._largest = max([group_size, *(source.demand.group_size for source in self._streams.values())])
        groups = self._pools.max_groups(self._largest)
        self._together = max(1, min(TOGETHER, groups // (4 * len(self._pools.actors))))

    def _late(self) -> list[Any]:
        """References of what pools should have judged long ago; looked for now and then, as a look goes through all
        that is pending. Or a sign that somebody was started again, whose reference is to be waited for."""
        starting = self._crew.starting
        self._crew.look()
        if self._crew.starting != starting:
            return [_LOOK_AGAIN]
        now = clock.now()
        if now - self._looked_at < waits.LOOK_S / 2:
            return []
        self._looked_at = now
        unjudged = (shipment.judging for shipment in self._pending.values() if shipment.scalars is None)
        return [judging.scalars for judging in self._pools.overdue(unjudged)]
