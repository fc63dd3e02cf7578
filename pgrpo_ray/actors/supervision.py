"""Keeping the roles alive while a run goes on: who is watched, who is silent or dead, who is started again.

Rollout workers are started again here, one by one, while the others sample: a lost one's process is made anew, loads
the model, is given the weights that the others serve, and samples again. Execution pools are restarted by Ray and
reward replicas by Ray Serve; a silent one of these is only killed here, which makes it a dead one. Everything else ends
this attempt at the run as a `LostError`: learner ranks meet in collectives, so one that is gone takes all with it, and
what they hold is only whole in a checkpoint. `launch` then starts all roles again from the last.

Who waits for whom: `look` is called whenever the driver waits, and waits for nothing but, once for each death, some
seconds for its description. A rollout worker that has started waits until the learner is between two updates, which
its caller says with `admit`.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from rich.markup import escape

from pgrpo_ray.actors import clock, waits
from pgrpo_ray.actors.postmortem import Death, describe_death, on_node
from pgrpo_ray.actors.watchdog import Dead, Silent, Watchdog
from pgrpo_ray.config import ClusterSection
from pgrpo_ray.errors import LostError, StageError

ROLLOUT, POOL, LEARNER, RECORDER = "rollout worker", "execution pool", "learner", "recorder"
REPLICA = "reward replica"
PING_S = 5.0
"""For a rank to answer that it lives. Ours: Ray notices a death in one to four seconds."""
LOG_LINES = 8
"""Of a dead process's log, shown to the user. Ours; its log has the rest."""


def rest_s(restarts: int) -> float:
    """Return for how long somebody rests before the restart of that number, from 1: none at first, then ever longer."""
    return min(60.0, 2.0 ** (restarts - 1) - 1.0)


class RestartBudget:
    """How often something may be started again, and how long it rests before."""

    def __init__(self, most: int, window_s: float):
        """`most` times in any `window_s`."""
        self._most = most
        self._window_s = window_s
        self._taken: dict[str, deque[float]] = {}

    def take(self, name: str) -> float | None:
        """Return the seconds to wait before `name` is started again (`rest_s`); None: not again."""
        now, taken = clock.now(), self._taken.setdefault(name, deque())
        while taken and now - taken[0] > self._window_s:
            taken.popleft()
        if len(taken) >= self._most:
            return None
        taken.append(now)
        return rest_s(len(taken))


@dataclass(eq=False)
class _Worker:
    """A rollout worker's place."""

    index: int
    actor: Any
    """None while it rests before a restart."""
    starting: Any = None
    """Reference of its start; None once that is done."""
    due: float = 0.0
    """When it is started again, seconds of `clock`."""
    serves: bool = True
    """It has been given weights."""
    gone: bool = False
    """It is not started again."""

    @property
    def name(self) -> str:
        return f"{ROLLOUT} {self.index}"


class Supervisor:
    """For the driver's thread."""

    def __init__(
        self,
        rollout: Sequence[Any],
        others: Mapping[str, tuple[str, Any]],
        section: ClusterSection,
        respawn: Callable[[int], Any] | None,
        note: Callable[[str], None],
        replicas: Callable[[], Mapping[str, Any]],
    ):
        """`rollout`: its workers, started. `others`: by name, role and handle. `respawn` makes the actor of a rollout
        worker's place anew, None: it cannot be; `note` tells the user; `replicas`: handles of the reward server's
        that are there just now, by name."""
        self._workers = [_Worker(index, actor) for index, actor in enumerate(rollout)]
        self._others = others
        self._section = section
        self._respawn = respawn
        self._note = note
        self._replicas = replicas
        self._known_replicas: set[str] = set()
        self._budget = RestartBudget(section.max_restarts, section.restart_window_s)
        self._watchdog = Watchdog(section.silence_s, section.startup_timeout_s)
        self._looked = float("-inf")
        self._gone: set[Any] = set()
        """Actors of rollout workers that were let go of."""
        self._dealt_with: set[tuple[type, str]] = set()
        """Who is silent, or dead, and what was to be done about it is done."""
        for worker in self._workers:
            self._watchdog.watch(worker.name, worker.actor, ROLLOUT)
        for name, (role, actor) in others.items():
            self._watchdog.watch(name, actor, role)
        self._restarts = 0

    @property
    def serving(self) -> list[Any]:
        """Rollout workers that may be asked for groups."""
        return [worker.actor for worker in self._workers if worker.actor is not None and worker.serves]

    @property
    def started(self) -> list[Any]:
        """Rollout workers that can take weights: those that serve, and those that wait for their first."""
        return [worker.actor for worker in self._workers if worker.actor is not None and worker.starting is None]

    @property
    def starting(self) -> list[Any]:
        """References of starts that are under way; each goes to `heard` once it is ready."""
        return [worker.starting for worker in self._workers if worker.starting is not None]

    @property
    def resting(self) -> bool:
        """Whether a rollout worker will be started again in a moment."""
        return any(worker.actor is None and not worker.gone for worker in self._workers)

    def take_restarts(self) -> int:
        """Return how often rollout workers were started again since the last call."""
        restarts, self._restarts = self._restarts, 0
        return restarts

    def admit(self, publish: Callable[[list[Any]], bool]) -> None:
        """Have those that started given weights, and let them sample; the learner must be at rest.

        `publish` returns False where one was lost meanwhile; then it is called again with those that are left.
        """
        while waiting := [actor for actor in self.started if actor not in self.serving]:
            if publish(waiting):
                self.published(waiting)

    def published(self, actors: Sequence[Any]) -> None:
        """These have been given the newest weights."""
        for worker in self._workers:
            if worker.actor in actors and not worker.serves:
                worker.serves = True
                self._note(f"{worker.name} samples again")

    def heard(self, ref: Any) -> None:
        """Take the end of a start; nothing where the worker was lost, and perhaps replaced, since `ref` was ready."""
        worker = next((worker for worker in self._workers if worker.starting is ref), None)
        if worker is None:
            return
        worker.starting = None
        try:
            waits.get(ref, self._section.startup_timeout_s, worker.name)
        except LostError as error:
            self._lost(worker, error)

    def lost(self, actor: Any, error: LostError) -> None:
        """Take the loss of a rollout worker, or of something that it brought: a dead one is started again if it may be.

        Raises `LostError` where none is left and none comes back here, `StageError` where trying again is in vain.
        """
        for worker in self._workers:
            if worker.actor == actor:
                self._lost(worker, error)

    def of(self, error: LostError) -> Any:
        """Return the rollout worker whose death an error tells of; None where it is no rollout worker's."""
        if error.actor_id:
            known = (*self._gone, *(worker.actor for worker in self._workers if worker.actor is not None))
            return next((actor for actor in known if actor._actor_id.hex() == error.actor_id), None)
        return _dead_one(self.started)[0] if error.stage == ROLLOUT else None

    def blame(self, error: LostError) -> LostError:
        """Return the error with all that is known of its first cause, some seconds later at most.

        Where a rank dies its peers fail in their collective, and may be heard before it.
        """
        actors = {actor._actor_id.hex(): (name, actor) for name, (_, actor) in self._others.items()}
        name, actor = actors.get(error.actor_id, ("", None))
        cause = error.__cause__
        if actor is None and error.stage == LEARNER:
            actor, cause = _dead_one([actor for role, actor in self._others.values() if role == LEARNER])
            name = next((name for name, one in actors.values() if one == actor), "")
        if actor is None:
            return error
        death = describe_death(actor, cause if isinstance(cause, RayError) else None, name)
        return LostError(_with_log(death), error.stage, actor._actor_id.hex())

    def look(self) -> list[Any]:
        """See to whoever is silent or dead; return nothing, as `waits.wait_any` has it.

        Raises `LostError` for a loss that ends this attempt at the run.
        """
        now = clock.now()
        if now - self._looked < min(waits.LOOK_S, self._section.silence_s / 4):
            return []
        self._looked = now
        for worker in self._workers:
            if worker.actor is None and not worker.gone and worker.due <= now:
                self._start_again(worker)
        for name, actor in self._replicas().items():
            if name not in self._known_replicas:
                self._known_replicas.add(name)
                self._watchdog.watch(name, actor, REPLICA)
        seen = self._watchdog.look()
        both: tuple[Silent | Dead, ...] = (*seen.silent, *seen.dead)
        found = {(type(one), one.name): one for one in both}
        new = [one for key, one in found.items() if key not in self._dealt_with]
        self._dealt_with = set(found)
        for one in new:
            if isinstance(one, Silent):
                self._silent(one)
            else:
                self._dead(one)
        return []

    def _silent(self, silent: Silent) -> None:
        """Tell where it hangs, and end its process; what follows from that is heard as a death."""
        self._note(f"[red]{escape(str(silent))}[/red]")
        if self._section.on_failure == "stop":
            raise LostError(f"{silent} The run stops, as cluster.on_failure=stop says.", stage=silent.role)
        if silent.place.pid:
            on_node(_kill, silent.place.node_id).remote(silent.place.pid)

    def _dead(self, dead: Dead) -> None:
        error = LostError(str(dead.error), stage=dead.role, actor_id=dead.actor._actor_id.hex())
        error.__cause__ = dead.error
        if dead.role == ROLLOUT:
            self.lost(dead.actor, error)
        elif dead.role in (POOL, REPLICA):
            self._note(f"[red]{escape(_with_log(dead.describe()))}[/red]")
            if dead.role == REPLICA:  # its successor has another name
                self._watchdog.forget(dead.name)
        else:
            raise error

    def _lost(self, worker: _Worker, error: LostError) -> None:
        """Let go of a rollout worker, and have it started again if it may be."""
        cause = error.__cause__
        if isinstance(cause, waits.DEATHS):
            why = _with_log(describe_death(worker.actor, cause, worker.name))
        else:  # its engine failed, and its process may still be there
            why = f"{worker.name}: {error}"
        self._note(f"[red]{escape(why)}[/red]")
        self._gone.add(worker.actor)
        self._watchdog.forget(worker.name)
        ray.kill(worker.actor)
        worker.actor, worker.starting, worker.serves = None, None, False
        if self._respawn is None and self._section.on_failure != "stop":
            raise LostError(f"{why} It cannot be started again alone.", stage=ROLLOUT) from error
        pause_s = None
        if self._section.on_failure == "restart":
            pause_s = self._budget.take(worker.name)
            if pause_s is None and all(one.gone or one is worker for one in self._workers):
                raise StageError(
                    f"{why} It has been started again cluster.max_restarts={self._section.max_restarts} times within "
                    f"{self._section.restart_window_s:g} s, and no other rollout worker is left.",
                    stage=ROLLOUT,
                ) from error
        if pause_s is None:
            worker.gone = True
            if self._section.on_failure == "stop" or all(one.gone for one in self._workers):
                raise LostError(f"{why} No rollout worker is left.", stage=ROLLOUT) from error
            return
        worker.due = clock.now() + pause_s
        if not pause_s:
            self._start_again(worker)

    def _start_again(self, worker: _Worker) -> None:
        assert self._respawn  # asked before a restart is planned
        self._restarts += 1
        worker.actor = self._respawn(worker.index)
        worker.starting = worker.actor.start.remote()
        self._watchdog.watch(worker.name, worker.actor, ROLLOUT)


def _dead_one(actors: Sequence[Any]) -> tuple[Any, RayError | None]:
    """Return the first of some actors that is dead, and what Ray says of it; None where all live, or take too long."""
    pings = {actor.ping.remote(): actor for actor in actors}
    for ref in ray.wait(list(pings), num_returns=len(pings), timeout=PING_S)[0] if pings else []:
        try:
            ray.get(ref)
        except RayError as error:
            return pings[ref], error
    return None, None


def _with_log(death: Death) -> str:
    return str(death) + "".join(f"\n    {line}" for line in death.log_lines[-LOG_LINES:])


@ray.remote(num_cpus=0, max_retries=0)
def _kill(pid: int) -> None:
    """End a process of this node that does not answer, stopped or not."""
    os.kill(pid, signal.SIGKILL)
