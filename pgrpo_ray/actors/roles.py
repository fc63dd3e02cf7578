"""The five roles and the recorder, as plain classes. `spawn` turns each into a Ray actor; nothing here imports ray.

A role joins parts that do not know each other. Its constructor only keeps arguments; `start` imports and loads, in the
actor's process alone, because an exception there reaches the driver whole, while one in a constructor does not. Tables
come in as positional arguments: Ray resolves such references to zero-copy tables.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgrpo_ray.config import RunConfig, derive
from pgrpo_ray.errors import PgrpoError
from pgrpo_ray.types import Problem, PromptRequest


class RolloutRole:
    """Samples groups. One process, one vLLM engine."""

    def __init__(self, config: RunConfig, model: str, index: int):
        self._config = config
        self._model = model
        self._index = index

    def start(self) -> None:
        """Load the engine."""
        from transformers import AutoTokenizer

        from pgrpo_ray.rollout.vllm_engine import VllmEngine
        from pgrpo_ray.rollout.worker import RolloutWorker

        config = self._config
        engine = VllmEngine(
            self._model,
            config.policy.dtype,
            config.rollout,
            max_model_tokens=derive(config).max_sequence_tokens,
            seed=config.run.seed + self._index,
        )
        self._worker = RolloutWorker(engine, AutoTokenizer.from_pretrained(self._model))

    def generate(self, requests: list[PromptRequest], group_size: int, temperature: float) -> Iterator[Any]:
        """Yield a ROLLOUT table per group, as groups finish."""
        yield from self._worker.generate(requests, group_size, temperature)

    def load_weights(self, manifest: Any, *chunks: Any) -> int:
        """Serve the published weights from now on; return their version."""
        from pgrpo_ray.sync.weights import unpack

        self._worker.load_weights(unpack(manifest, chunks), manifest.version)
        return manifest.version


class ExecutionRole:
    """Judges programs. Holds the hidden tests: they go nowhere else. Its methods run in several threads."""

    def __init__(self, config: RunConfig, kind: str, problems: list[Problem]):
        """`kind`: `docker` or `process`, already resolved by the preflight."""
        self._section = config.sandbox
        self._kind = kind
        self._problems = {problem.id: problem for problem in problems}
        self._pool: Any = None

    def start(self) -> None:
        """Start every slot; each judges its canaries."""
        from pgrpo_ray.sandbox.pool import ExecutionPool
        from pgrpo_ray.sandbox.runners import runner_factory

        section = self._section
        self._pool = ExecutionPool(runner_factory(self._kind, section), slots=section.slots, retries=section.retries)

    def judge(self, rollouts: Any) -> tuple[Any, Any]:
        """Return (VERDICT table, scalar table for the driver) of a ROLLOUT table."""
        from pgrpo_ray.data.arrow import verdict_table
        from pgrpo_ray.data.scalars import scalar_table

        ids, programs = rollouts["problem_id"].to_pylist(), rollouts["program"].to_pylist()
        rows = [row for row, program in enumerate(programs) if program is not None]
        answers = self._pool.judge_many([(self._problems[ids[row]], programs[row]) for row in rows])
        judgements: list[Any] = [None] * len(programs)
        for row, judgement in zip(rows, answers, strict=True):
            judgements[row] = judgement
        verdicts = verdict_table(judgements)
        return verdicts, scalar_table(rollouts, verdicts)

    def close(self) -> None:
        """Free every container. Runs beside the judges, not behind them."""
        if self._pool is not None:
            self._pool.close()


class RewardRole:
    """Scores the reasoning of passers. The gate stands here too: a failing program's reasoning is not even read."""

    def __init__(self, config: RunConfig, model: str, statements: dict[str, str]):
        """`statements`: the prompt of each problem id, as the reward model reads it (no chat template)."""
        self._section = config.reward_model.model_copy(update={"model": model})
        self._statements = statements

    def start(self) -> None:
        """Load the model."""
        from pgrpo_ray.reward_model.scorer import RewardScorer

        self._scorer = RewardScorer(self._section)

    def score(self, rollouts: Any, verdicts: Any) -> Any:
        """Return the THINKING table of a judged group. A failure of the model is a column, not an exception."""
        from pgrpo_ray.data.scalars import thinking_table
        from pgrpo_ray.types import Verdict

        passed = [verdict == Verdict.PASSED for verdict in verdicts["verdict"].to_pylist()]
        ids, reasonings = rollouts["problem_id"].to_pylist(), rollouts["thinking"].to_pylist()
        rows = [row for row, ok in enumerate(passed) if ok]
        items = [(self._statements[ids[row]], reasonings[row]) for row in rows]
        try:
            scores = self._attempt(items)
        except (PgrpoError, RuntimeError) as error:  # no number for a score, or out of memory
            return thinking_table(len(passed), {}, dict.fromkeys(rows, f"{type(error).__name__}: {error}"))
        return thinking_table(len(passed), dict(zip(rows, scores, strict=True)))

    def _attempt(self, items: list[tuple[str, str]]) -> list[float]:
        """Score, and once more after a failure that may pass."""
        try:
            return self._scorer.score(items)
        except RuntimeError:
            return self._scorer.score(items)


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

    def join(self, rank: int, host: str, port: int) -> None:
        """Load the policy partitioned over the ranks. Collective."""
        from pgrpo_ray.learner.worker import LearnerWorker
        from pgrpo_ray.learner.zero3 import Rendezvous, Zero3Engine

        section = self._config.learner
        engine = Zero3Engine(
            self._model, self._config.policy.dtype, section, Rendezvous(rank, section.num_ranks, host, port)
        )
        self._worker = LearnerWorker(engine, self._config.algo, self._config.rollout.temperature)

    def update(self, share: Any, *tables: Any) -> dict[str, float]:
        """Train on this rank's share of a batch. Collective."""
        return self._worker.update(tables, share)

    def publish(self, version: int) -> Iterator[Any]:
        """Yield weight chunks, then their manifest, on rank 0; nothing on the others. Collective."""
        from pgrpo_ray.sync.weights import pack

        weights = self._worker.named_weights()
        if self._worker.engine.rank == 0:
            yield from pack(weights, version, self._config.sync.chunk_mib << 20)
        for _ in weights:  # the other ranks only take part in the gathering
            pass

    def save(self, folder: str) -> None:
        """Write the policy in Hugging Face format. Collective."""
        self._worker.engine.save_pretrained(Path(folder))


class RecorderRole:
    """Writes rollouts to the run's folder, so that token columns never pass through the driver."""

    def write(self, path: str, metadata: dict[str, str], num_groups: int, *tables: Any) -> int:
        """Write `num_groups` groups as one Arrow file; return its rows.

        `tables` lists stage after stage: all ROLLOUT tables, then all VERDICT tables, and so on.
        """
        import pyarrow as pa

        from pgrpo_ray.data import arrow
        from pgrpo_ray.obs.run_log import explain_full_disk

        stages = [pa.concat_tables(tables[i : i + num_groups]) for i in range(0, len(tables), num_groups)]
        whole = arrow.append_columns(*stages)
        with explain_full_disk(Path(path).parent):
            arrow.write_ipc(Path(path), whole, metadata)
        return whole.num_rows
