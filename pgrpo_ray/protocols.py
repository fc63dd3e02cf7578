"""The seams: what one part may expect of another without importing it.

Parts (rollout, sandbox, reward_model, learner, ...) never import each other; `actors` joins them through these.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pgrpo_ray.types import ChatAnswer, ChatRequest, Judgement, Problem, PromptRequest, SampledGroup

if TYPE_CHECKING:  # words stay light: no heavy import at run time
    import pyarrow as pa
    import torch


class RolloutEngine(Protocol):
    """Samples groups from the policy. Implemented by `rollout.vllm_engine`."""

    def generate(
        self, requests: Sequence[PromptRequest], group_size: int, temperature: float
    ) -> Iterator[SampledGroup]:
        """Yield one group per request, in the order in which groups finish."""

    def load_weights(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> None:
        """Replace every parameter; raise `WeightSyncError` when one is missing or unexpected."""


class Runner(Protocol):
    """One isolated place in which one program at a time runs. Implemented by `docker_runner`, `process_runner`.

    Several threads may ask at a time; requests are served in the order in which they came.
    """

    kind: str
    """`docker` or `process`; goes into every verdict."""

    def run(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request, return its answer. Raise `SandboxError` when the machinery failed.

        Raise `NotBegunError` where it failed before it began with this one. After an error the runner is broken: close
        it and make another.
        """

    def close(self) -> None:
        """Free the place and everything that runs in it. Idempotent; never raises."""


class Judge(Protocol):
    """Judges programs against hidden tests. Implemented by `sandbox.pool.ExecutionPool`."""

    def judge_many(self, items: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        """Judge each (problem, program); answers keep the order. Machinery failures are answers, not exceptions."""

    def close(self) -> None:
        """Free every runner. Idempotent."""


class ThinkingScorer(Protocol):
    """Scores reasoning. Implemented by `reward_model.scorer`."""

    def score(self, items: Sequence[tuple[str, str]]) -> list[float]:
        """Return R^t in [0, 1] for each (problem prompt, reasoning), in order."""


class ChatModel(Protocol):
    """Answers questions in text. Implemented by `chat.endpoint` (OpenAI-compatible) and `actors.chat` (vLLM)."""

    name: str
    """Of the model, as it goes into provenance."""

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatAnswer]:
        """Yield one answer per request, as they come, in any order. A failure of one is an answer, not an exception.

        Raises `EnvironmentFault` or `ModelError` where no request at all can be answered.
        """

    def close(self) -> None:
        """Free what it holds. Idempotent."""


class Learner(Protocol):
    """One ZeRO rank of the trainer; all ranks make the same calls. Implemented by `learner.worker`."""

    def update(self, tables: Sequence["pa.Table"], plan: Any) -> dict[str, float]:
        """Train on this rank's share of a batch; return metrics already reduced over ranks."""

    def named_weights(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Yield full parameters in a fixed order. Collective: every rank must drain it."""
