"""What the driver knows at the end of a step: with the learner's shards, all that a run needs to go on.

JSON, checked against these models when it is read. The rest follows from it: the order of problems and every seed are
functions of the config and of how many batches were drawn (`data.problems`), prompts are encoded again, and the engines
are given the learner's weights. The tokens of rollouts that were done and not yet trained on lie beside it as Arrow.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pgrpo_ray.data.own_format import problem_to_json
from pgrpo_ray.errors import CheckpointError
from pgrpo_ray.obs.checkpoints import Checkpoint
from pgrpo_ray.types import Problem


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OpenRequest(_Record):
    """A group that was asked for and is not settled."""

    number: int = Field(ge=0)
    problem_id: str
    seed: int = Field(ge=0)
    epoch: int = Field(ge=0)
    step: int = Field(ge=1)
    """That issued it."""


class OpenDemand(_Record):
    """Groups that were asked for together."""

    version: int = Field(ge=0)
    """Policy version that the workers served then."""
    requests: list[OpenRequest]
    done: list[int]
    """Numbers of those that were done, in the order of the rows in `file`; the others are to be sampled."""
    file: str
    """In the checkpoint: ROLLOUT, VERDICT and THINKING columns. Empty where none was done."""


class SavedEstimate(_Record):
    """pass@1 with its interval."""

    value: float
    low: float
    high: float


class RunState(_Record):
    """After a step."""

    step: int = Field(ge=0)
    """Steps taken."""
    policy_version: int = Field(ge=0)
    batches: int = Field(ge=0)
    """Of the sampler's that were drawn."""
    unasked: list[OpenRequest]
    """Of the last of these, what nobody was asked for yet."""
    asked: list[OpenDemand]
    """Oldest first."""
    asked_rollouts: int = Field(ge=0)
    issued: int = Field(ge=0)
    """Groups in the ledger."""
    settled: dict[str, int]
    """Rollouts in the ledger, by fate."""
    before: SavedEstimate | None
    config: dict[str, Any]
    """Of the run that wrote it."""
    data: str
    """Fingerprint of the problems, see `fingerprint`."""


def read_state(checkpoint: Checkpoint) -> RunState:
    """Return a checkpoint's state. Raises `CheckpointError`."""
    try:
        return RunState.model_validate_json(checkpoint.state())
    except (ValidationError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{checkpoint.folder}: its state is not one of ours: {first}.") from error


def fingerprint(problems: Iterable[Problem]) -> str:
    """Return a hash of problems in their order: another set, or another order, would be another run."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(repr(problem_to_json(problem)).encode())
    return f"sha256:{digest.hexdigest()}"
