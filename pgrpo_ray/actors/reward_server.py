"""The reward server: a Ray Serve deployment of the reward model, used by handle and behind HTTP alike.

Owns the deployment (replicas, queues, batching across requests), its start and end, and the retry when a replica dies.
Does not own scoring (`roles.RewardRole`) nor HTTP (`reward_model.http_api`, which runs in the process that holds this
handle: Serve's own proxies listen on one address a cluster, which may be somebody else's).

Who waits for whom: requests over HTTP wait in this process for one of the few calls that may be on their way
(`gathering`); what a training run asks goes out at once. In a replica, calls wait until the batch before them is done;
it runs in a thread of its own, so the replica stays responsive. A request has one deadline for all of this. Nothing
waits in Serve's own queue, which looks for room only now and then. Scoring changes nothing, so a call whose replica
died goes to another, and waits there or for the one that Serve starts in its place.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pgrpo_ray.actors import roles, waits
from pgrpo_ray.actors.gathering import Gathering, Items, late
from pgrpo_ray.actors.scoring import RETRY_PAUSE_S
from pgrpo_ray.config import RewardModelSection
from pgrpo_ray.errors import EnvironmentFault, PgrpoError, StageError, UnavailableError

DEPLOYMENT = "reward"
"""Name of the one deployment in each application."""
HEALTH_PERIOD_S = 2.0
"""Between two looks of Serve at a replica: how long a dead one may go unnoticed while nobody asks it."""
HEALTH_TIMEOUT_S = 60.0
"""For a replica to answer Serve's look. Ours: the loop of a replica on a busy machine may be late, not dead."""
POLL_S = 0.1
"""Between two looks at a deployment that starts."""
UNKNOWN_S = 3.0
"""For which Serve may not know an application that it was given before it is given again. It knows one at once, unless
it is being shut down by another run that has ended; then it drops what it is given without a word."""
CALLS_PER_REPLICA = 2
"""Bundles of requests on their way: one that is scored and one that is next, so that no replica waits for work."""
MAX_CALLS = 4096
"""That one replica holds: more than anybody sends (the door and the driver have their own bounds), because a call for
which no replica has room waits in Serve's router, which looks again only after a pause: seen as 100 calls a second
where replicas stood idle."""


@dataclass(eq=False)
class _Asked:
    """A group's reasonings inside a replica."""

    items: Items
    size: int
    """Reasonings, as the batch counts them: no group is larger than a batch."""
    open: bool = True
    """False once nobody waits for it any more."""


class Lifeline:
    """Lives as long as the process that deployed, on its node. Serve is detached: it would outlive one that is killed,
    as `ray job stop` does after three seconds, and hold CPUs and GPUs for ever."""

    async def wait(self) -> None:
        """Never return."""
        await asyncio.Event().wait()


class RewardReplica:
    """One process that holds the model. Made a Serve deployment by `RewardServer`."""

    def __init__(self, section: RewardModelSection, version: str, lifeline: Any, name: str, ends_serve: bool):
        """When `lifeline` ends, the application `name` is deleted; with `ends_serve` Serve too, if it has no other."""
        threading.Thread(target=_delete_after, args=(lifeline, name, ends_serve), daemon=True).start()
        self._gather = section.gather
        self._role = roles.RewardRole(section, version)
        self._role.start()
        self._thread = ThreadPoolExecutor(1, "score")
        self._together.set_max_batch_size(section.gather)
        self._together.set_batch_wait_timeout_s(section.gather_wait_ms / 1000)

    async def about(self) -> Any:
        """Return the `ServedModel`."""
        return self._role.served

    async def score_many(self, requests: list[Items]) -> tuple[Any, list[Any]]:
        """Return the `ServedModel`, and for each request its list of `Scored` or its own error."""
        return self._role.served, await self._in_thread(requests)

    async def score_groups(self, rollouts: Any, rows: list[int], statements: list[str], timeout_s: float) -> Any:
        """Return the THINKING table of some groups, with scores for `rows`; others are not even read.

        `statements`: of each row's problem.

        A failure is a column of its group's, not an exception.
        """
        from pgrpo_ray.data.scalars import thinking_table

        asked = rollouts.select(["problem_id", "thinking"]).take(rows)
        groups: dict[str, dict[int, tuple[str, str]]] = defaultdict(dict)
        for row, problem, *item in zip(
            rows, asked["problem_id"].to_pylist(), statements, asked["thinking"].to_pylist(), strict=True
        ):
            groups[problem][row] = tuple(item)
        asking = (self._with_others(list(items.values()), timeout_s) for items in groups.values())
        scores: dict[int, float] = {}
        errors: dict[int, str] = {}
        for items, answer in zip(groups.values(), await asyncio.gather(*asking, return_exceptions=True), strict=True):
            if isinstance(answer, PgrpoError):
                errors |= dict.fromkeys(items, f"{type(answer).__name__}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                scores |= {row: one.score for row, one in zip(items, answer, strict=True)}
        return thinking_table(rollouts.num_rows, scores, errors)

    async def _with_others(self, items: Items, timeout_s: float) -> list[Any]:
        """Score one group's items in a batch with those of groups that wait at the same time."""
        asked = _Asked(items, min(len(items), self._gather))
        try:
            # Shielded: a batch goes on for the others when one of its groups is given up.
            answer = await asyncio.wait_for(asyncio.shield(self._together(asked)), timeout_s)
        except TimeoutError as error:
            raise late(timeout_s, len(items)) from error
        finally:
            asked.open = False
        if isinstance(answer, PgrpoError):
            raise answer
        return answer

    @serve.batch(batch_size_fn=lambda requests: sum(asked.size for asked in requests))
    async def _together(self, requests: list[_Asked]) -> list[Any]:
        """Score what waits at the same time; those that nobody waits for any more are left out."""
        wanted = [asked for asked in requests if asked.open]
        answers = await self._in_thread([asked.items for asked in wanted])
        by_request = dict(zip(map(id, wanted), answers, strict=True))
        return [by_request.get(id(asked)) for asked in requests]

    async def _in_thread(self, requests: list[Items]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._role.assess, requests)


def _delete_after(lifeline: Any, name: str, ends_serve: bool) -> None:
    with contextlib.suppress(RayError):
        ray.get(lifeline.wait.remote())
    with contextlib.suppress(RayError, RayServeException, ValueError):  # another replica may have been first
        serve.delete(name, _blocking=False)
        if ends_serve and set(_applications() or {}) <= {name}:
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve").graceful_shutdown.remote(wait=False)


class RewardServer:
    """The deployment and a handle to it. `deploy`, then `wait_ready`, then ask; `close` at the end, whatever happened.

    `ask_groups` is for one thread, `score` for one event loop.
    """

    def __init__(
        self,
        name: str,
        section: RewardModelSection,
        version: str,
        env: dict[str, str],
        drain_s: float,
        resources: dict[str, float] | None = None,
    ):
        """`name`: of the Serve application, unique in the cluster. `env` is set in the replicas before they import.

        `drain_s`: for calls in replicas to finish when the server ends. `resources`: custom ones of Ray, of each.
        """
        self.name = name
        self._section = section
        self._version = version
        self._env = env
        self._drain_s = drain_s
        self._resources = resources or {}
        self._gathering = Gathering(self._send, section.gather, CALLS_PER_REPLICA * section.replicas)
        self._started_serve = False
        self._deployed = False
        self.meanwhile: Callable[[], Any] = lambda: None
        """Called every `waits.LOOK_S` while `ask_groups` waits; for who has to see why no replica takes the call."""
        self._handle: Any = None
        self._lifeline: Any = None

    def deploy(self) -> None:
        """Begin to start the replicas; return at once. Raises `EnvironmentFault` for a name that is taken."""
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        running = _applications()
        if self.name in (running or {}):
            raise EnvironmentFault(
                f"this Ray cluster has a Serve application named {self.name!r} already. Choose another name, or end "
                f"that one (`serve status` shows it)."
            )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Restarted where it alone dies, as it ends with this process in any case.
        alive = {"max_restarts": -1, "max_task_retries": -1}
        self._lifeline = ray.remote(num_cpus=0, scheduling_strategy=here, **alive)(Lifeline).remote()
        self._deployed = True
        self._give(running)

    def _give(self, running: dict[str, Any] | None) -> None:
        """Give Serve the application; start Serve where none is running. `wait_ready` looks whether it was taken."""
        self._started_serve |= running is None
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # starting it sets its own
        section = self._section
        deployment = serve.deployment(
            name=DEPLOYMENT,
            num_replicas=section.replicas,
            max_ongoing_requests=MAX_CALLS,
            ray_actor_options={
                "num_cpus": section.threads,
                "num_gpus": section.gpus,
                "resources": self._resources,
                "runtime_env": {"env_vars": self._env},
            },
            health_check_period_s=HEALTH_PERIOD_S,
            health_check_timeout_s=HEALTH_TIMEOUT_S,
            graceful_shutdown_timeout_s=self._drain_s,
            graceful_shutdown_wait_loop_s=POLL_S,
            max_constructor_retry_count=1,  # what fails there is the model, and fails again
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )(RewardReplica)
        replica = deployment.bind(section, self._version, self._lifeline, self.name, self._started_serve)
        target = serve.RunTarget(replica, name=self.name, route_prefix=None)
        waits_for = {"wait_for_ingress_deployment_creation": False, "wait_for_applications_running": False}
        with contextlib.suppress(RayActorError):  # the end of a Serve that was being shut down
            (self._handle,) = serve.run_many([target], **waits_for)

    def wait_ready(self, timeout_s: float) -> Any:
        """Return the `ServedModel` once every replica has loaded it. Raises `EnvironmentFault` with the cause."""
        known = time.monotonic()
        deadline = known + timeout_s
        while (status := self._status()) is None or status.status != "RUNNING":
            if status is not None:
                known = time.monotonic()
            elif time.monotonic() - known > UNKNOWN_S:
                self._give(_applications())
                known = time.monotonic()
            if status is not None and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise EnvironmentFault(f"reward server: its replicas cannot start: {_cause(status)}")
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"reward server: no {self._section.replicas} replicas within {timeout_s:.0f} s: "
                    f"{_cause(status) if status else 'Serve does not know of them'}. Free the CPUs or GPUs that they "
                    "wait for, lower reward_model.replicas, or raise cluster.startup_timeout_s."
                )
            time.sleep(POLL_S)
        try:
            return self._handle.about.remote().result(timeout_s=max(1.0, deadline - time.monotonic()))
        except (RayError, RayServeException, TimeoutError) as error:
            raise EnvironmentFault(f"reward server: a replica started and does not answer: {error}") from error

    def replicas(self) -> dict[str, int]:
        """Count replicas by state, such as RUNNING and STARTING."""
        status = self._status()
        deployment = status.deployments.get(DEPLOYMENT) if status else None
        return {str(state): count for state, count in deployment.replica_states.items()} if deployment else {}

    def replica_actors(self) -> dict[str, Any]:
        """Return the handles of its replicas by a name for people; for who watches them."""
        marker, found = f"SERVE_REPLICA::{self.name}#{DEPLOYMENT}#", {}
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if actor["name"].startswith(marker):
                with contextlib.suppress(ValueError):  # it has ended since
                    found[f"reward replica {actor['name'].removeprefix(marker)}"] = ray.get_actor(**actor)
        return found

    def ask_groups(self, rollouts: Any, rows: list[int], statements: list[str], timeout_s: float) -> Any:
        """Have `rows` of a table scored, which is given as a reference; return the reference of its THINKING table.

        `statements`: of each row's problem.
        Waits, and its caller with it, while no replica is there. Raises Ray's and Serve's errors, and `TimeoutError`.
        """
        response = self._handle.score_groups.remote(rollouts, rows, statements, timeout_s)
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                return response._to_object_ref_sync(_timeout_s=max(0.0, min(left, waits.LOOK_S)))
            except TimeoutError:
                if left <= 0:
                    response.cancel()  # else Serve would keep it, and the group with it, for a replica that comes later
                    raise
            self.meanwhile()

    async def score(self, items: Sequence[tuple[str, str]], timeout_s: float) -> tuple[Any, list[Any]]:
        """Return the `ServedModel` and a `Scored` for each (problem prompt, reasoning), in order.

        Raises `UnavailableError` where no replica came by the deadline, `DeadlineError`, and `ModelError` where the
        model gave no number.
        """
        return await self._gathering.score(list(items), timeout_s)

    async def _send(self, requests: list[Items], timeout_s: float) -> tuple[Any, list[Any]]:
        """One call; when its replica dies, another one."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            response = self._handle.score_many.remote(requests)
            try:
                return await asyncio.wait_for(response, left)
            except DeploymentUnavailableError as error:
                raise UnavailableError(f"no replica can be had: {error}") from error
            except TimeoutError:
                response.cancel()
            except RayTaskError as error:
                cause = error.cause
                raise StageError(f"reward server: {type(cause).__name__}: {cause}", "reward server") from error
            except RayServeException as error:
                raise UnavailableError(f"the deployment does not answer: {error}") from error
            except RayError:  # the replica died with it
                await asyncio.sleep(RETRY_PAUSE_S)
        if not (await asyncio.to_thread(self.replicas)).get("RUNNING"):
            raise UnavailableError("no replica runs.")
        raise late(timeout_s, sum(map(len, requests)))

    def close(self, *, cluster_ends: bool) -> None:
        """Let requests in replicas finish, then end them; and Serve too, where this started it and nobody else uses it.

        `cluster_ends`: this process is about to shut down its own Ray, so replicas are killed: a worker may outlive Ray
        by some seconds.
        """
        if not self._deployed or not ray.is_initialized():
            return
        gone = contextlib.suppress(RayError, RayServeException, TimeoutError, ValueError)  # gone already is the aim
        if cluster_ends:  # then nobody else's Serve is here: end all of it, first who would start replicas again
            with gone:
                for actor in sorted(ray.util.list_named_actors(all_namespaces=True), key=lambda one: one["name"]):
                    if actor["namespace"] == "serve":
                        ray.kill(ray.get_actor(**actor))
            return
        with gone:
            serve.delete(self.name)
        with gone:
            ray.kill(self._lifeline)
        with gone:
            if self._started_serve and not _applications():
                serve.shutdown()

    def _status(self) -> Any:
        return (_applications() or {}).get(self.name)


def _applications() -> dict[str, Any] | None:
    """Serve's applications by name; None where the cluster has no Serve, which `serve.status` does not tell."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return None
    with contextlib.suppress(RayActorError):  # it ends just now
        return serve.status().applications
    return None


def _cause(status: Any) -> str:
    """What Serve says about an application that does not run: the exception's own line where one is there."""
    deployment = status.deployments.get(DEPLOYMENT)
    message = (deployment.message if deployment else "") or status.message or str(status.status)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("pgrpo_ray.errors.")]
    return errors[-1].partition(": ")[2] if errors else " ".join(lines[-3:])
