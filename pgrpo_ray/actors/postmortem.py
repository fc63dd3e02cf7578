"""Why an actor died, as far as anybody can tell: what Ray noted, what its node shows, what it last wrote.

Ray's tables are read as Ray 2.60 keeps them in its GCS, which every cluster has, while its state API needs a dashboard.
They cannot tell SIGKILL from `os._exit`: Ray's raylet sees only that the connection ended. Log lines are the process's
own and may hold anything; they go to who owns the run.
"""

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray._common.utils import get_system_memory
from ray._private import worker as ray_worker
from ray._private.state import state as ray_state
from ray._private.utils import get_used_memory
from ray.core.generated import common_pb2, gcs_pb2
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pgrpo_ray.actors import evidence
from pgrpo_ray.actors.evidence import Pulse

TIMEOUT_S = 10.0
"""For a node to tell; the first task there starts a process."""
SETTLE_S = 3.0
"""For Ray's tables to have the death: a caller may hear of it first."""
GIB = 1 << 30


class Place(NamedTuple):
    """Where an actor's process is."""

    pid: int
    """0 where it has none."""
    node_id: str
    address: str
    state: str
    """What Ray calls it, such as "PENDING_CREATION"; empty where nobody asked."""


def place_of(actor: Any, pulse: Pulse | None) -> Place:
    """Where the process of an actor's last pulse is; before it has given any, where Ray has put it."""
    if pulse is not None:
        return Place(pulse.pid, pulse.node_id, pulse.address, "")
    table = _actor(actor._actor_id.hex())
    state = gcs_pb2.ActorTableData.ActorState.Name(table.state)
    return Place(table.pid, table.address.node_id.hex(), table.address.ip_address, state)


@dataclass(frozen=True)
class Death:
    """What is known of an actor's death. As text: one paragraph, without the log lines."""

    name: str
    reason: str
    """Why it died, in words that follow a colon."""
    pid: int = 0
    """0: unknown, as all below that are 0, None or empty."""
    node_id: str = ""
    address: str = ""
    node_alive: bool | None = None
    node_used_bytes: int = 0
    """Memory of its node, when it was asked, in the container's bounds if Ray runs in one."""
    node_total_bytes: int = 0
    resident_bytes: int = 0
    """The process's memory at its death where Ray's memory monitor killed it, else when it last answered a ping."""
    log_lines: tuple[str, ...] = ()
    """The last that it wrote, oldest first: of standard output, then of standard error."""
    note: str = ""
    """Why its node could not tell."""

    def __str__(self) -> str:
        where = " on ".join(part for part in (f"pid {self.pid}" if self.pid else "", self.address) if part)
        node = f", node {self.node_id[:6]}" if self.node_id else ""
        parts = [f"{self.name}{f' ({where}{node})' if where else ''} died: {self.reason}."]
        if self.resident_bytes:
            parts.append(f"It was last seen with {self.resident_bytes / GIB:.1f} GiB of memory.")
        if self.node_total_bytes:
            used, total = self.node_used_bytes / GIB, self.node_total_bytes / GIB
            parts.append(f"Its node has {used:.1f} of {total:.1f} GiB in use now.")
        if self.note:
            parts.append(self.note)
        return " ".join(parts)


def describe_death(
    actor: Any, error: RayError | None, name: str, timeout_s: float = TIMEOUT_S, pulse: Pulse | None = None
) -> Death:
    """Say what is known of the death that `error` tells of, some seconds later at most. Never raises.

    `actor`: its handle, or its id in hex. `pulse`: its last, if any; of an actor that was restarted more than once it
    tells which process is meant, else the last that died is.
    """
    deadline = time.monotonic() + timeout_s
    try:
        actor_id = actor if isinstance(actor, str) else actor._actor_id.hex()
        return _investigate(actor_id, error, name, deadline, pulse)
    except Exception as failure:  # a diagnosis must not take the place of what it is about
        return Death(name, _told(error), note=f"Nothing more is known: {type(failure).__name__}: {failure}")


class _Remains(NamedTuple):
    """What the node of a dead process tells."""

    used_bytes: int = 0
    total_bytes: int = 0
    log_lines: tuple[str, ...] = ()
    oom_kills: int | None = None
    kernel_kill: str = ""
    note: str = ""


def _investigate(actor_id: str, error: RayError | None, name: str, deadline: float, pulse: Pulse | None) -> Death:
    settled = min(deadline, time.monotonic() + SETTLE_S)
    while (process := _dead_process(actor_id, pulse)) is None and time.monotonic() < settled:
        time.sleep(0.1)
    table, process = _actor(actor_id), process or gcs_pb2.WorkerTableData()
    node_id = process.worker_address.node_id.hex() or (pulse.node_id if pulse else "")
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    remains = _Remains()
    if node and node["Alive"]:
        remains = _remains(node_id, process.worker_address.worker_id.hex(), process.pid, deadline)
    elif node:
        remains = _Remains(note="What it wrote last lies on its node, which is dead.")
    return Death(
        name,
        _reason(error, table, process, node, remains, pulse),
        pid=process.pid or (pulse.pid if pulse else 0),
        node_id=node_id,
        address=process.worker_address.ip_address or (pulse.address if pulse else ""),
        node_alive=node["Alive"] if node else None,
        node_used_bytes=remains.used_bytes,
        node_total_bytes=remains.total_bytes,
        resident_bytes=process.memory_used_bytes_at_death or (pulse.resident_bytes if pulse else 0),
        log_lines=remains.log_lines,
        note=remains.note,
    )


def _actor(actor_id: str) -> Any:
    """The GCS's record of an actor; an empty one where it has none."""
    data = ray_state.get_actor_info(ray.ActorID.from_hex(actor_id))
    return gcs_pb2.ActorTableData.FromString(data) if data else gcs_pb2.ActorTableData()


def _dead_process(actor_id: str, pulse: Pulse | None) -> Any:
    """The GCS's record of the process that died: the one of that pulse, else the last; None while it has none."""
    table, dead_nodes = _actor(actor_id), {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
    # While an actor restarts it has no address; the process that died is the last of the previous ones already.
    for place in (table.address, *reversed(table.previous_incarnations)):
        if not place.worker_id:
            continue
        data = ray_state._connect_and_get_accessor().get_worker_info(ray.WorkerID(place.worker_id))
        process = gcs_pb2.WorkerTableData.FromString(data) if data else None
        if process is None or (process.is_alive and place.node_id.hex() not in dead_nodes):
            continue
        if pulse is None or (process.pid, place.node_id.hex()) == (pulse.pid, pulse.node_id):
            return process
    return None


def _remains(node_id: str, worker_id: str, pid: int, deadline: float) -> _Remains:
    """Ask the node; a note where it does not tell in time."""
    left = max(1.0, deadline - time.monotonic())
    ref = on_node(_read_remains, node_id).remote(worker_id, pid)
    try:
        return ray.get(ref, timeout=left)
    except GetTimeoutError:
        ray.cancel(ref, force=True)
        return _Remains(note=f"Its node did not tell its last lines within {left:.0f} s.")
    except RayError as error:
        return _Remains(note=f"Its node cannot tell its last lines: {_first_line(str(error))}")


def on_node(task: Any, node_id: str) -> Any:
    """Return `task` bound to that node and no other."""
    return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False))


def logs_folder() -> Path:
    """Where Ray's logs are on the node of this process."""
    return Path(ray_worker._global_node.get_logs_dir_path())


@ray.remote(num_cpus=0, max_retries=1)  # with 0, Ray would not try again on a node that is still short of memory
def _read_remains(worker_id: str, pid: int) -> _Remains:
    return _Remains(
        get_used_memory(),
        get_system_memory(),
        tuple(evidence.log_lines(logs_folder(), worker_id)),
        evidence.oom_kills(),
        evidence.kernel_kill(pid),
    )


_END_OF_FILE = "connection error code 2"
"""How Ray 2.60 tells of a process that ended without taking leave."""


def _reason(
    error: RayError | None, table: Any, process: Any, node: dict | None, remains: _Remains, pulse: Pulse | None
) -> str:
    """Put what is known into words, the surest first."""
    cause = table.death_cause.actor_died_error_context
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return f"its constructor raised {_last_line(str(error))}"
    if node and not node["Alive"]:
        told = node.get("DeathReasonMessage") or "Ray does not say why"
        return f"its node {node['NodeID'][:6]} died ({told.rstrip('.')})"
    if process.exit_type == common_pb2.NODE_OUT_OF_MEMORY:
        return f"killed by Ray's memory monitor, as its node ran out of memory ({_first_line(process.exit_detail)})"
    if process.exit_type == common_pb2.INTENDED_SYSTEM_EXIT or cause.reason == cause.RAY_KILL:
        return f"ended on purpose ({_first_line(cause.error_message or process.exit_detail)})"
    if found := re.search(r"exit code (-?\d+)", process.exit_detail):
        return f"it left with exit code {found[1]} ({_first_line(process.exit_detail)})"
    if _END_OF_FILE in process.exit_detail:
        return _without_leave(remains, pulse)
    return _first_line(process.exit_detail) if process.exit_detail else _told(error)


def _without_leave(remains: _Remains, pulse: Pulse | None) -> str:
    """Why a process may have ended of which Ray knows only that."""
    if remains.kernel_kill:
        return f"killed by the kernel for want of memory ({remains.kernel_kill})"
    for line in remains.log_lines:
        if found := re.search(r"\*\*\* (SIG[A-Z]+) received", line):
            return f"it crashed with {found[1]} ({signal.strsignal(signal.Signals[found[1]])})"
    sudden = "it ended without a word to Ray, as by SIGKILL, SIGTERM, a crash or os._exit"
    if pulse is None or pulse.oom_kills is None or remains.oom_kills is None:
        return sudden
    if kills := remains.oom_kills - pulse.oom_kills:
        ended = f"for want of memory that has ended {kills} of its cgroup's processes since it last answered"
        return f"killed by the kernel, it seems: {ended}"
    return f"{sudden}; the kernel killed nothing for want of memory there"


def _told(error: RayError | None) -> str:
    """The error's own words."""
    return _first_line(str(error)) if error is not None else "Ray restarted it and told nobody why"


def _first_line(text: str) -> str:
    """What of Ray's words names a cause: the line that is not a heading, up to its general advice."""
    lines = [line for line in text.splitlines() if line and not line.startswith("\t")]
    lines = [line for line in lines if not line.startswith("The actor died unexpectedly before finishing")] or lines
    return (lines[0] if lines else text).split(" Some common causes")[0].rstrip(".")[: evidence.LINE_CHARS]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["?"])[-1].rstrip(".")[: evidence.LINE_CHARS]
