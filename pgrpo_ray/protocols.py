"""The seams: what one part may expect of another without importing it.

Parts (rollout, sandbox, reward_model, learner, ...) never import each other; `actors` joins them through these.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pgrpo_ray.types import ChatAnswer, ChatRequest, Judgement, Problem, PromptRequest, SampledGroup

if TYPE_CHECKING:  # words stay light: no heavy import at run time
    import pyarrow as pa
    import torch


class RolloutEngine(Protocol):
    """Samples groups from the policy. Implemented by `rollout.vllm_engine`."""

    policy_version: int | None
    """Of the last weights that were loaded whole; None before: those of the folder that it was started from."""
    parameters: Mapping[str, tuple[str, tuple[int, ...]]]
    """What a whole version has: dtype (as torch names it) and shape of every parameter, tied ones once."""
    paused: bool
    """While a version arrives part by part: nothing can be sampled, and `step` is not to be called."""

    def add(self, request: PromptRequest, group_size: int, temperature: float) -> str:
        """Begin to sample a group; return the id under which it will end.

        Raises `WeightSyncError` after a `load_weights` that did not end, until one has.
        """

    def step(self) -> list[tuple[str, SampledGroup]]:
        """Sample one token of each running response; return the groups that ended with it. With none, return none."""

    def abort(self, ids: Iterable[str]) -> None:
        """Forget groups; ids that have ended are passed over."""

    def load_weights(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> None:
        """Replace every parameter and serve `version` from the next token on; only reads the tensors. May raise
        anything."""


class WeightPublisher(Protocol):
    """The learner's side of a weight transport. Implemented by `sync.weights.BucketPublisher`."""

    def publish(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> Iterator[Any]:
        """Yield the parts of a version that go to every receiver; the last one makes it whole.

        How many parts there are is the transport's business. (From GPU to GPU weights go by vLLM's own transfer, which
        has no such halves: `sync.gpu_transfer`.)
        """


class WeightReceiver(Protocol):
    """A rollout worker's side of a weight transport. Implemented by `sync.weights.BucketReceiver`.

    Touches no engine: what was received is given out by `load`, once all workers have confirmed.
    """

    def receive(self, part: Any) -> int | None:
        """Take and check the next part; return the version when it is whole, None before. Raise `WeightSyncError`."""

    def load(self, version: int) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Yield every parameter of a whole version, to be read only; at the call raise `WeightSyncError` for others."""


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
