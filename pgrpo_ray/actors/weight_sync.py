"""One publication: a version goes from the learner to every rollout worker, or to none.

Who waits for whom: the learner's ranks gather parameters together, rank 0 gives out parts as they fill, and each part
goes to every worker at once, by reference, while the next is gathered; the driver waits here. Two halves, each with its
deadline:
- Every worker receives and checks the whole version and says so. No engine is touched: whatever fails here, a lost
  part, a wrong checksum, a name, a dead worker, a deadline, leaves all of them with the weights that they had.
- Only then do all load it. A worker that fails now refuses to sample until a whole version is loaded; so no rollout
  is ever made with a mixture, and the driver ends the run.

From GPU to GPU (`sync.transport` nccl or ipc) there is no half that touches no engine: every worker confirms names,
dtypes and shapes, then rank 0 drives vLLM's weight transfer by calls of its own to the workers (`TransferClient`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pgrpo_ray.actors import clock, waits
from pgrpo_ray.errors import PgrpoError, StageError, WeightSyncError


def publish(
    learner: Sequence[Any],
    rollout: Sequence[Any],
    version: int,
    deadline_s: float,
    wait_any: waits.WaitAny = waits.wait_any,
    transport: str = "object_store",
) -> None:
    """Bring the learner's weights to every rollout worker as `version`; return when all serve it.

    `wait_any`: how to wait, for a caller who has something else to do meanwhile. `transport`: as in `SyncSection`; any
    but the object store must have been opened.
    Raises `WeightSyncError` where weights were refused, were late or failed to load, and what `waits.get` raises where
    the learner fails or a worker dies; the same version may then be published again.
    """
    if transport == "object_store":
        _publish_checked(learner, rollout, version, deadline_s, wait_any)
    else:
        _transfer(learner, rollout, version, deadline_s, wait_any)


def open_transfer(learner: Sequence[Any], rollout: Sequence[Any], host: str, port: int, timeout_s: float) -> None:
    """Connect learner and rollout workers GPU to GPU; rank 0 has `port` free on `host`. Raises as `waits.get` does."""
    refs = [rank.open_transfer.remote(list(rollout), host, port) for rank in learner]
    waits.get(refs, timeout_s, "learner and rollout workers, which connect their GPUs")


def _transfer(
    learner: Sequence[Any], rollout: Sequence[Any], version: int, deadline_s: float, wait_any: waits.WaitAny
) -> None:
    deadline = _Deadline(deadline_s, version)
    parameters = waits.get(learner[0].parameters.remote(), deadline.left(), "learner", wait_any)
    expecting = [worker.expect.remote(version, parameters) for worker in rollout]
    waits.get(expecting, deadline.left(), "rollout worker", wait_any)
    for ref in deadline.as_ready([rank.transfer.remote(version) for rank in learner], "learner", wait_any):
        try:
            waits.get(ref, deadline.left(), "learner")
        except PgrpoError as error:
            if waits.is_death(error):
                raise
            raise WeightSyncError(
                f"version {version} did not reach every rollout worker's GPU; those that had begun to receive it do "
                f"not sample. {error}"
            ) from error


def _publish_checked(
    learner: Sequence[Any], rollout: Sequence[Any], version: int, deadline_s: float, wait_any: waits.WaitAny
) -> None:
    _receive(learner, rollout, version, _Deadline(deadline_s, version, ", so none has loaded any of it"), wait_any)
    deadline = _Deadline(deadline_s, version)
    loading, failures = [worker.load_weights.remote(version) for worker in rollout], []
    for ref in deadline.as_ready(loading, "rollout worker", wait_any):  # all are heard: some may serve the new version
        try:
            waits.get(ref, deadline.left(), "rollout worker")
        except PgrpoError as error:
            failures.append(error)
    died = [error for error in failures if waits.is_death(error)]
    if died and len(died) == len(failures):  # the others serve the version
        raise died[0]
    if failures:
        raise WeightSyncError(
            f"{len(failures)} of {len(loading)} rollout workers failed while they loaded version {version}; they will "
            f"not sample until a whole version is loaded. The first: {failures[0]}"
        ) from failures[0]


def _receive(
    learner: Sequence[Any], rollout: Sequence[Any], version: int, deadline: "_Deadline", wait_any: waits.WaitAny
) -> None:
    """Return when each worker has confirmed the whole version."""
    streams = [rank.publish.options(num_returns="streaming").remote(version) for rank in learner]
    answers: list[list[Any]] = [[] for _ in rollout]
    # All at once, as a rank that fails leaves the others waiting in a collective. The first gives out the parts; the
    # others only help to gather: their streams end empty, or with an error.
    going, last = list(streams), None
    while going:
        for stream in deadline.wait(going, "learner", wait_any):
            part = next(stream, None)
            if part is None:
                going.remove(stream)
                if stream is streams[0]:  # its last part is small, as it only makes the others whole, or its error
                    waits.get(last, deadline.left(), "learner")
            elif stream is streams[0]:
                for worker, refs in zip(rollout, answers, strict=True):
                    refs.append(worker.receive_weights.remote(part))
                last = part
            else:
                waits.get(part, deadline.left(), "learner")
    for ref in deadline.as_ready([refs[-1] for refs in answers], "rollout worker", wait_any):
        try:
            confirmed = waits.get(ref, deadline.left(), "rollout worker")
        except PgrpoError as error:
            if waits.is_death(error):
                raise
            cause = _first_cause(answers) or error
            raise WeightSyncError(
                f"version {version} did not reach every rollout worker, so none has loaded any of it. {cause}"
            ) from cause
        if confirmed != version:
            raise WeightSyncError(f"a rollout worker confirmed version {confirmed}, {version} was published.")


def _first_cause(answers: list[list[Any]]) -> PgrpoError | None:
    """What a worker refused first: where one part is refused, those after it are as well."""
    for refs in answers:
        for ref in refs:
            try:
                waits.get(ref, 0.0, "rollout worker")
            except WeightSyncError as first:
                return first
            except PgrpoError:
                break  # not there yet, or dead
    return None


class TransferClient:
    """What vLLM's trainer engines call (its `VLLMWeightSyncClient`), over handles of rollout workers. In rank 0."""

    def __init__(self, workers: Sequence[Any], deadline_s: float):
        self._workers = workers
        self._deadline_s = deadline_s
        self.version = 0
        """That is sent."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have every worker join; each engine is a world of its own, so that places in a common group are ours to
        give."""
        first = init_info.get("rank_offset")
        places = [{} if first is None else {"rank_offset": first + index} for index in range(len(self._workers))]
        self._all("open_transfer", [init_info | place for place in places])

    def start_weight_update(self) -> None:
        """Have every worker await the version."""
        self._all("begin_transfer", [self.version] * len(self._workers))

    def update_weights(self, update_info: Any) -> None:
        """Have every worker receive a part, while it is sent."""
        self._all("receive_transfer", [update_info] * len(self._workers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have every worker serve the version."""
        self._all("end_transfer", [self.version] * len(self._workers))

    def _all(self, step: str, arguments: Sequence[Any]) -> None:
        refs = [
            worker.transfer.remote(step, argument) for worker, argument in zip(self._workers, arguments, strict=True)
        ]
        waits.get(refs, self._deadline_s, "rollout worker")


class _Deadline:
    """When one half of a publication must be over."""

    def __init__(self, seconds: float, version: int, so: str = ""):
        """`so`: what follows from it when it is missed."""
        self._seconds = seconds
        self._so = so
        self._end = clock.now() + seconds
        self._version = version

    def wait(self, refs: list[Any], stage: str, wait_any: waits.WaitAny) -> list[Any]:
        """Return those that are ready, at least one. Raises `WeightSyncError` where time is up, and what others who are
        waited for meanwhile raise, as it is."""
        try:
            return wait_any(refs, self.left(), stage)
        except StageError as error:
            if missed := self.missed():
                raise missed from error
            raise

    def as_ready(self, refs: Sequence[Any], stage: str, wait_any: waits.WaitAny) -> Iterator[Any]:
        """Yield each once it is ready, by `wait`."""
        waiting = list(refs)
        while waiting:
            for ref in self.wait(waiting, stage, wait_any):
                waiting.remove(ref)
                yield ref

    def left(self) -> float:
        """Return the seconds that are left. Raises `WeightSyncError` where none are."""
        if missed := self.missed():
            raise missed
        return max(1e-3, self._end - clock.now())

    def missed(self) -> WeightSyncError | None:
        """Return the error that says so, where no time is left."""
        if clock.now() < self._end - 0.05:  # a wait of Ray's may end some milliseconds early
            return None
        return WeightSyncError(
            f"version {self._version} was not with every rollout worker within {self._seconds:g} s{self._so}. "
            "Raise sync.deadline_s if the model is that large; else look into the roles' logs in Ray's session folder."
        )
