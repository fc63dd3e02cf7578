"""The five roles and the recorder, as plain classes. `spawn` turns each into a Ray actor; nothing here imports ray.

A role joins parts that do not know each other, and imports them inside its constructor, so that heavy libraries load
in the actor's process only. Tables come in as positional arguments: Ray resolves such references to zero-copy tables.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgrpo_ray.config import RunConfig, derive
from pgrpo_ray.types import Problem, PromptRequest


class RolloutRole:
    """Samples groups. One process, one vLLM engine."""

    def __init__(self, config: RunConfig, model: str, index: int):
        from transformers import AutoTokenizer

        from pgrpo_ray.rollout.vllm_engine import VllmEngine
        from pgrpo_ray.rollout.worker import RolloutWorker

        engine = VllmEngine(
            model,
            config.policy.dtype,
            config.rollout,
            max_model_tokens=derive(config).max_sequence_tokens,
            seed=config.run.seed + index,
        )
        self._worker = RolloutWorker(engine, AutoTokenizer.from_pretrained(model))

    def ready(self) -> None:
        """Answer once the engine is up."""

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
        from pgrpo_ray.sandbox.pool import ExecutionPool
        from pgrpo_ray.sandbox.runners import runner_factory

        section = config.sandbox
        self._problems = {problem.id: problem for problem in problems}
        self._pool = ExecutionPool(runner_factory(kind, section), slots=section.slots, retries=section.retries)

    def ready(self) -> None:
        """Answer once every slot has judged its canaries."""

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
        """Free every container."""
        self._pool.close()


class RewardRole:
    """Scores the reasoning of passers. The gate stands here too: a failing program's reasoning is not even read."""

    def __init__(self, config: RunConfig, model: str, statements: dict[str, str]):
        """`statements`: the prompt of each problem id, as the reward model reads it (no chat template)."""
        from pgrpo_ray.reward_model.scorer import RewardScorer

        self._statements = statements
        self._scorer = RewardScorer(config.reward_model.model_copy(update={"model": model}))

    def ready(self) -> None:
        """Answer once the model is loaded."""

    def score(self, rollouts: Any, verdicts: Any) -> Any:
        """Return the THINKING table of a judged group."""
        from pgrpo_ray.data.scalars import thinking_table
        from pgrpo_ray.types import Verdict

        passed = [verdict == Verdict.PASSED for verdict in verdicts["verdict"].to_pylist()]
        ids, reasonings = rollouts["problem_id"].to_pylist(), rollouts["thinking"].to_pylist()
        rows = [row for row, ok in enumerate(passed) if ok]
        scores = self._scorer.score([(self._statements[ids[row]], reasonings[row]) for row in rows])
        return thinking_table(len(passed), dict(zip(rows, scores, strict=True)))


class LearnerRole:
    """One ZeRO rank."""

    def __init__(self, config: RunConfig, model: str):
        self._config = config
        self._model = model

    def endpoint(self) -> tuple[str, int]:
        """Return this node's address and a free port, for rank 0 to offer as the meeting place."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            host = (
                "127.0.0.1" if self._config.cluster.address == "local" else socket.gethostbyname(socket.gethostname())
            )
            return host, probe.getsockname()[1]

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
