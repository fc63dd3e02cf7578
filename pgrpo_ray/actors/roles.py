"""The five roles and the recorder, as plain classes. `spawn` turns each into a Ray actor; nothing here imports ray.

A role joins parts that do not know each other. Its constructor only keeps arguments; `start` imports and loads, in the
actor's process alone, because an exception there reaches the driver whole, while one in a constructor does not. Tables
come in as positional arguments: Ray resolves such references to zero-copy tables.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pgrpo_ray.config import RewardModelSection, RunConfig, derive
from pgrpo_ray.errors import EnvironmentFault, ModelError, PgrpoError, WeightSyncError
from pgrpo_ray.protocols import WeightPublisher, WeightReceiver
from pgrpo_ray.types import Judgement, Problem, PromptRequest

FAILURE_HOLDS_S = 10.0
"""For which an execution pool that could not start says so again without trying: groups that wait for the same start
would each repeat it."""


class RolloutRole:
    """Samples groups. One process, one vLLM engine; `generate` runs in several threads, all else in one."""

    def __init__(self, config: RunConfig, model: str, index: int):
        self._config = config
        self._model = model
        self._index = index

    def start(self) -> None:
        """Load the engine."""
        from transformers import AutoTokenizer

        from pgrpo_ray.rollout.engine_loop import EngineLoop
        from pgrpo_ray.rollout.vllm_engine import VllmEngine
        from pgrpo_ray.rollout.worker import RolloutWorker
        from pgrpo_ray.sync.weights import BucketReceiver

        config = self._config
        make = partial(
            VllmEngine,
            self._model,
            config.policy.dtype,
            config.rollout,
            max_model_tokens=derive(config).max_sequence_tokens,
            seed=config.run.seed + self._index,
            transfer=None if config.sync.transport == "object_store" else config.sync.transport,
            shares_gpu=config.cluster.colocate,
        )
        self._worker = RolloutWorker(
            EngineLoop(make), AutoTokenizer.from_pretrained(self._model, trust_remote_code=False)
        )
        self._receiver: WeightReceiver = BucketReceiver(self._worker.parameters)

    def generate(
        self,
        requests: list[PromptRequest],
        group_size: int,
        temperature: float,
        version: int | None = None,
        name: str = "",
        together: int = 1,
    ) -> Iterator[Any]:
        """Yield ROLLOUT tables as groups finish; see `RolloutWorker.generate`. Raises `WeightSyncError`."""
        with self._named():
            yield from self._worker.generate(requests, group_size, temperature, version, name, together)

    def tokenizer(self) -> str:
        """Return the fingerprint of what decodes."""
        from pgrpo_ray.data.fingerprint import fingerprint

        return fingerprint(self._worker.tokenizer)

    def drop(self, name: str) -> int:
        """Give up what has not ended of the calls of `generate` with that name; return how many groups that are."""
        return self._worker.drop(name)

    def receive_weights(self, part: Any) -> int | None:
        """Take and check a part of a version; return the version when it is whole. The engine is not touched."""
        with self._named():
            return self._receiver.receive(part)

    def load_weights(self, version: int) -> int:
        """Serve a version that was received whole from the next token on; return it."""
        with self._named():
            self._worker.load_weights(self._receiver.load(version), version)
        return version

    def expect(self, version: int, parameters: Any) -> None:
        """Check that a version to be transferred has the engine's parameters. Raises `WeightSyncError`."""
        from pgrpo_ray.sync.weights import check_fits

        with self._named():
            check_fits(version, parameters, self._worker.parameters)

    def transfer(self, step: str, argument: Any) -> None:
        """Take a step of a transfer from GPU to GPU: a method of the engine's, `open_transfer` the first time, then
        `begin_transfer`, `receive_transfer` and `end_transfer`."""
        self._worker.order(lambda engine: getattr(engine, step)(argument))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say which worker it was that met a `WeightSyncError`."""
        try:
            yield
        except WeightSyncError as error:
            raise WeightSyncError(f"rollout worker {self._index}: {error}") from error


class ExecutionRole:
    """Judges programs and answers on one node. Holds the hidden tests: they go nowhere else. Its methods run in several
    threads.

    Ray may restart its process at any time and call `judge` again with what was lost; so `judge` starts the pool where
    that has not been done, and judging twice changes nothing.
    """

    def __init__(self, config: RunConfig, kind: str, fetch_problems: Callable[[], list[Problem]], name: str):
        """`kind`: the sandbox for programs, already resolved by the preflight. `name` is what errors call this pool."""
        self._section = config.sandbox
        self._kind = kind
        self._fetch_problems = fetch_problems
        self._name = name
        self._starting = threading.Lock()
        self._failure, self._failed_at = "", 0.0
        self._metrics: Any = None
        self._pool: Any = None

    def start(self) -> None:
        """Plan every problem and start every slot of the judges that they need. Does nothing where that is done.

        Callers wait for each other and share a failure, for `FAILURE_HOLDS_S`.
        """
        from pgrpo_ray.actors.judges import start_judges
        from pgrpo_ray.actors.pool_metrics import PoolMetrics

        with self._starting:
            if self._pool is not None:
                return
            if self._failure and time.monotonic() - self._failed_at < FAILURE_HOLDS_S:
                raise EnvironmentFault(self._failure)
            self._metrics = self._metrics or PoolMetrics()
            try:
                self._problems = {problem.id: problem for problem in self._fetch_problems()}
                problems = self._problems.values()
                self._pool = start_judges(self._kind, self._section, problems, self._metrics.observe)
            except PgrpoError as error:
                self._failure, self._failed_at = f"{self._name}: {error}", time.monotonic()
                raise EnvironmentFault(self._failure) from error
            self._metrics.follow(self._pool.stats)

    def judge(self, rollouts: Any) -> tuple[Any, Any]:
        """Return (VERDICT table, scalar table for the driver) of a ROLLOUT table, `sandbox.deadline_s` later at most.

        What has no verdict by then carries an error. Raises `EnvironmentFault` when the pool must start and cannot.
        """
        self.start()
        ids, programs = rollouts["problem_id"].to_pylist(), rollouts["program"].to_pylist()
        rows = [row for row, program in enumerate(programs) if program is not None]
        items = [(self._problems[ids[row]], programs[row]) for row in rows]
        answers = self._pool.judge_many(items, deadline_s=self._section.deadline_s)
        return _judged(rollouts, dict(zip(rows, answers, strict=True)))

    def stats(self) -> Any:
        """Return the pool's `PoolStats`, None before it has started. Runs beside the judges."""
        return None if self._pool is None else self._pool.stats()

    def close(self) -> None:
        """Free every container. Runs beside the judges, not behind them."""
        if self._pool is not None:
            self._metrics.close()
            self._pool.close()


def unscored(rollouts: Any, error: str) -> tuple[Any, Any]:
    """Return what `ExecutionRole.judge` does, for a group that no pool could judge: every program has the error."""
    failed = Judgement(None, 0, 0, 0.0, "", error=error)
    programs = rollouts["program"].to_pylist()
    return _judged(rollouts, {row: failed for row, program in enumerate(programs) if program is not None})


def _judged(rollouts: Any, judgements: dict[int, Judgement]) -> tuple[Any, Any]:
    """The VERDICT table and the scalar table of a group; rows without a judgement had no program."""
    from pgrpo_ray.data.arrow import verdict_table
    from pgrpo_ray.data.scalars import scalar_table

    verdicts = verdict_table([judgements.get(row) for row in range(rollouts.num_rows)])
    return verdicts, scalar_table(rollouts, verdicts)


class RewardRole:
    """Scores reasoning for requests that came together. One process, one reward model, one call at a time."""

    def __init__(self, section: RewardModelSection, version: str):
        """`version`: what the server announced; a replica that finds other weights must not score. Empty: any."""
        self._section = section
        self._version = version

    def start(self) -> None:
        """Load the model."""
        from pgrpo_ray.reward_model.scorer import RewardScorer

        self._scorer = RewardScorer(self._section)
        found = self._scorer.served.version
        if self._version and found != self._version:
            raise ModelError(
                f"reward_model.model={self._section.model!r} is version {found} on this node, the server was started "
                f"with {self._version}: the files differ or have changed since. Make them equal and start again."
            )

    @property
    def served(self) -> Any:
        """The `ServedModel`."""
        return self._scorer.served

    def assess(self, requests: list[list[tuple[str, str]]]) -> list[Any]:
        """Return for each request its list of `Scored`, or the error that it meets.

        Requests are scored together, so one that breaks the batch would break all: after a failure each is tried alone.
        """
        try:
            scored = self._scorer.assess([item for items in requests for item in items])
        except Exception:  # such as out of memory; a library may raise anything, and each request shall be answered
            return [self._assess_alone(items) for items in requests]
        answers, start = [], 0
        for items in requests:
            answers.append(self._checked(scored[start : start + len(items)]))
            start += len(items)
        return answers

    def _assess_alone(self, items: list[tuple[str, str]]) -> Any:
        try:
            return self._checked(self._scorer.assess(items))
        except Exception as error:
            return ModelError(
                f"reward model {self._section.model!r} failed on a request of {len(items)} reasonings: "
                f"{type(error).__name__}: {error} Lower reward_model.batch_size if memory ran out."
            )

    def _checked(self, scored: list[Any]) -> Any:
        try:
            self._scorer.check(scored)
        except ModelError as error:
            return error
        return scored


class LearnerRole:
    """One ZeRO rank."""

    def __init__(self, config: RunConfig, model: str):
        self._config = config
        self._model = model

    def free_port(self) -> int:
        """Return a free port of this node, for rank 0 to offer as the meeting place."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return probe.getsockname()[1]

    def join(self, rank: int, host: str, port: int, resumed: tuple[str, list[str]] | None = None) -> None:
        """Load the policy partitioned over the ranks. Collective.

        `resumed`: folder or URL of a checkpoint to go on from, and its shards. Raises `CheckpointError`.
        """
        from pgrpo_ray.learner.shards import Shards
        from pgrpo_ray.learner.worker import LearnerWorker
        from pgrpo_ray.learner.zero3 import Rendezvous, Zero3Engine

        section = self._config.learner
        rendezvous = Rendezvous(rank, section.num_ranks, host, port)
        dtype, algo = self._config.policy.dtype, self._config.algo
        engine = Zero3Engine(self._model, dtype, section, rendezvous)
        if resumed is not None:
            with Shards(*resumed) as shards:
                engine.restore(shards)
        reference = Zero3Engine(self._model, dtype, section, rendezvous, frozen=True) if algo.kl_weight else None
        self._worker = LearnerWorker(engine, algo, self._config.rollout.temperature, reference)

    def tokenizer(self) -> str:
        """Return the fingerprint of what decodes."""
        from pgrpo_ray.data.fingerprint import fingerprint

        return fingerprint(self._worker.engine.tokenizer)

    def update(self, share: Any, *tables: Any) -> dict[str, Any]:
        """Train on this rank's share of a batch. Collective."""
        return self._worker.update(tables, share)

    def publish(self, version: int) -> Iterator[Any]:
        """Yield the parts of a version on rank 0, nothing on the others. Collective."""
        from pgrpo_ray.sync.weights import BucketPublisher

        weights = self._worker.named_weights()
        if self._worker.engine.rank == 0:
            publisher: WeightPublisher = BucketPublisher(self._config.sync.chunk_mib << 20)
            yield from publisher.publish(weights, version)
        for _ in weights:  # the other ranks only take part in the gathering
            pass

    def parameters(self) -> Any:
        """What a version has, by name: dtype and shape."""
        return self._worker.parameters

    def open_transfer(self, workers: list[Any], host: str, port: int) -> None:
        """Connect GPU to GPU with the rollout workers. Collective, once a run."""
        from pgrpo_ray.actors.weight_sync import TransferClient
        from pgrpo_ray.sync.gpu_transfer import PolicySource, open_transfer

        sync, rank = self._config.sync, self._worker.engine.rank
        self._client = TransferClient(workers, sync.deadline_s)
        source = PolicySource(self._worker.parameters, self._worker.named_weights)
        meeting = (sync.transport, rank, host, port, len(workers))
        self._sender = open_transfer(*meeting, sync.chunk_mib << 20, self._client, source)

    def transfer(self, version: int) -> None:
        """Bring a version into every engine, GPU to GPU. Collective."""
        self._client.version = version
        self._sender.send_weights()

    def save(self, folder: str) -> None:
        """Write the policy in Hugging Face format. Collective."""
        self._worker.engine.save_pretrained(Path(folder))

    def snapshot(self) -> None:
        """Copy this rank's state to memory, for `write_snapshot`."""
        self._snapshot = self._worker.engine.snapshot()

    def write_snapshot(self, draft: str) -> tuple[str, Any]:
        """Put the last snapshot into a draft of a checkpoint, beside whatever else this rank does; return name and
        facts of the file. Raises `EnvironmentFault` for a full disk."""
        from pgrpo_ray.obs.checkpoint_files import put_file

        snapshot = self._snapshot
        del self._snapshot  # a copy of all that this rank holds
        return put_file(draft, snapshot.file_name, snapshot.write)


class RecorderRole:
    """Writes and reads rollouts, so that token columns never pass through the driver."""

    def write(self, path: str, metadata: dict[str, str], groups: list[tuple[int, int, int]], *tables: Any) -> int:
        """Write a batch to the run's folder as one Arrow file; return its rows.

        `groups`: of each the number of its table, its first row there, and how many it has. `tables`: first all ROLLOUT
        tables, then as many VERDICT tables, then what the driver holds of the batch, in the order of `groups`.
        """
        from pgrpo_ray.data import arrow
        from pgrpo_ray.obs.disk import explain_full_disk

        whole = _joined(groups, tables)
        with explain_full_disk(Path(path).parent):
            arrow.write_ipc(Path(path), whole, metadata)
        return whole.num_rows

    def keep(self, draft: str, name: str, groups: list[tuple[int, int, int]], *tables: Any) -> tuple[str, Any]:
        """Put groups that are not trained on yet into a draft of a checkpoint; return name and facts of the file.

        `groups` and `tables` as in `write`.
        """
        from pgrpo_ray.data import arrow
        from pgrpo_ray.obs.checkpoint_files import put_file

        whole = _joined(groups, tables)
        return put_file(draft, name, lambda path: arrow.write_ipc(path, whole, {}))

    def bring_back(self, folder: str, name: str) -> tuple[Any, Any, Any, Any]:
        """Return (ROLLOUT, VERDICT, scalar, THINKING) table of what `keep` put into a checkpoint."""
        from pgrpo_ray.data import arrow
        from pgrpo_ray.data.scalars import scalar_table
        from pgrpo_ray.obs.checkpoint_files import local_copy

        with local_copy(folder, name) as path:
            whole = arrow.read_ipc(path).replace_schema_metadata(None)
        schemas = (arrow.ROLLOUT_SCHEMA, arrow.VERDICT_SCHEMA, arrow.THINKING_SCHEMA)
        rollouts, verdicts, thinking = (whole.select(schema.names) for schema in schemas)
        return rollouts, verdicts, scalar_table(rollouts, verdicts), thinking


def _joined(groups: list[tuple[int, int, int]], tables: tuple[Any, ...]) -> Any:
    """One table of groups; see `RecorderRole.write`."""
    import pyarrow as pa

    from pgrpo_ray.data import arrow

    count = 1 + max(number for number, _, _ in groups)
    stages = (tables[:count], tables[count : 2 * count])
    # Slices, as bringing the rows together would copy the texts of all of them.
    pieces = [pa.concat_tables([stage[n].slice(row, size) for n, row, size in groups]) for stage in stages]
    return arrow.append_columns(*pieces, *tables[2 * count :])
