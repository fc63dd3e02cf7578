"""ZeRO ranks that train a reward model: the role, and the group of actors that behaves as one `fitting.Trainer`.

`reward_trainer` owns Ray, where it starts it, and the ranks; leaving it kills them. Every call goes to all ranks at
once and the caller waits for all, whoever fails first being heard first; ranks wait for each other inside the call, and
the deadline `cluster.stage_timeout_s` ends a wait for one that will not come.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from pgrpo_ray.actors import waits
from pgrpo_ray.actors.cluster import actor_class, check_capacity, cluster_session, node_address
from pgrpo_ray.actors.roles import LearnerRole
from pgrpo_ray.algo.preferences import Objective, TokenTable, TrainingRows, cut_passes
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.errors import ModelError

STAGE = "reward learner"


class RewardLearnerRole:
    """One ZeRO rank. A plain class; `reward_trainer` makes an actor of it."""

    def __init__(self, config: RewardTrainingConfig, base: str, objective: Objective):
        """`base` is `config.model.base` with `starter` resolved."""
        self._config = config
        self._base = base
        self._objective = objective

    free_port = LearnerRole.free_port

    def join(self, rank: int, host: str, port: int, training: TrainingRows, heldout: TokenTable) -> None:
        """Load the model partitioned over the ranks. Collective. Raises `ModelError`."""
        from safetensors import SafetensorError

        from pgrpo_ray.learner.reward_worker import RewardLearner
        from pgrpo_ray.learner.zero3 import Rendezvous, Zero3Engine

        config = self._config
        try:
            engine = Zero3Engine(
                self._base,
                config.model.dtype,
                config.learner,
                Rendezvous(rank, config.learner.num_ranks, host, port),
                score_head_seed=config.output.seed,
            )
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            raise ModelError(f"model.base={self._base!r} cannot be loaded: {type(error).__name__}: {error}") from error
        self._learner = RewardLearner(engine, self._objective, training, heldout)

    def step(self, passes: list[np.ndarray], num_rows: int, rate_frac: float) -> dict[str, float]:
        """Train on this rank's share of a batch. Collective."""
        return self._learner.step(passes, num_rows, rate_frac)

    def scores(self, passes: list[np.ndarray]) -> list[float]:
        """Score this rank's share of held-out sequences. Collective."""
        return self._learner.scores(passes)

    def save(self, folder: str) -> None:
        """Write the model in Hugging Face format. Collective."""
        self._learner.engine.save_pretrained(Path(folder))


class RankTrainer:
    """The ranks as one trainer. Implements `reward_model.fitting.Trainer`."""

    def __init__(self, config: RewardTrainingConfig, ranks: Sequence[Any], training: TrainingRows, heldout: TokenTable):
        """`ranks` have joined already."""
        self._ranks = ranks
        self._max_tokens = config.learner.micro_batch_tokens
        self._timeout_s = config.cluster.stage_timeout_s
        self._sides, self._lengths = training.sides, training.lengths
        self._heldout_lengths = heldout.lengths

    def step(self, rows: Sequence[int], rate: float) -> dict[str, float]:
        """Take one optimizer step; see `fitting.Trainer`."""
        passes = cut_passes(rows, self._lengths, self._sides, len(self._ranks), self._max_tokens)
        refs = [rank.step.remote(own, len(rows), rate) for rank, own in zip(self._ranks, passes, strict=True)]
        return _all(refs, self._timeout_s)[0]

    def scores(self, numbers: Sequence[int]) -> list[float]:
        """Return raw scores of held-out sequences, in order."""
        passes = cut_passes(numbers, self._heldout_lengths, 1, len(self._ranks), self._max_tokens)
        refs = [rank.scores.remote(own) for rank, own in zip(self._ranks, passes, strict=True)]
        parts = _all(refs, self._timeout_s)
        found: dict[int, float] = {}
        for own, part in zip(passes, parts, strict=True):
            found.update(zip(np.concatenate(own).tolist(), part, strict=True))
        return [found[number] for number in numbers]

    def save(self, folder: Path) -> None:
        """Write the model as it is now; rank 0 writes."""
        _all([rank.save.remote(str(folder)) for rank in self._ranks], self._timeout_s)


@contextlib.contextmanager
def reward_trainer(
    config: RewardTrainingConfig, base: str, objective: Objective, training: TrainingRows, heldout: TokenTable
) -> Iterator[RankTrainer]:
    """Start Ray, or join it, and the ranks, for the length of the block.

    Raises `EnvironmentFault` when the cluster lacks what they need, `ModelError` for a base that does not load,
    `StageError` for ranks that do not answer in time.
    """
    section = config.learner
    cpus, gpus = section.num_ranks * section.threads_per_rank, section.num_ranks * section.gpus_per_rank
    with cluster_session(config.cluster, cpus, {}):
        where, fix = f"cluster.address={config.cluster.address!r}", "learner.num_ranks or what each takes"
        check_capacity("the training", cpus, gpus, where, fix)
        threads = section.threads_per_rank
        make = actor_class(RewardLearnerRole, cpus=threads, gpus=section.gpus_per_rank, threads=threads)
        ranks = [make.remote(config, base, objective) for _ in range(section.num_ranks)]
        try:
            timeout_s = config.cluster.startup_timeout_s
            meeting = [ranks[0].__ray_call__.remote(node_address), ranks[0].free_port.remote()]
            host, port = waits.get(meeting, timeout_s, STAGE)
            data = ray.put(training), ray.put(heldout)
            _all([rank.join.remote(number, host, port, *data) for number, rank in enumerate(ranks)], timeout_s)
            yield RankTrainer(config, ranks, training, heldout)
        finally:
            for rank in ranks:
                ray.kill(rank)


def _all(refs: list[Any], timeout_s: float) -> list[Any]:
    """Wait for all within `timeout_s`; raise the failure that comes first, as the others may wait for its rank."""
    waits.get_all(dict.fromkeys(refs, STAGE), timeout_s)
    return waits.get(refs, timeout_s, STAGE)
