"""What is asked of rollout workers, and what comes of it: records that `group_flow` fills and the driver takes.

A `Demand` is sampled in a `Stream` by each worker that has a share of it. Groups that a worker has finished before the
driver takes any travel together, as one table, one call to a pool and one to the reward server (`Shipment`): where the
driver keeps up that is one group, and nobody waits for another; where it does not, its work for each becomes less. A
`Group` is its place in its shipment. All hold references and scalar tables, no tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pgrpo_ray.actors.pools import Judging
from pgrpo_ray.actors.scoring import Scoring
from pgrpo_ray.data.digests import prompt_digest
from pgrpo_ray.learner.shares import Places
from pgrpo_ray.obs.timeline import Span
from pgrpo_ray.types import PromptRequest


@dataclass(eq=False)
class Shipment:
    """Groups of one demand that travel together. References, plus the scalars once they are in."""

    demand: "Demand"
    judging: Judging
    """References of the ROLLOUT and VERDICT tables."""
    span: Span | None = None
    """Of the stage that has it; None for groups out of a checkpoint."""
    stream: "Stream | None" = None
    """That brought it; None for groups out of a checkpoint."""
    scoring: Scoring | None = None
    """None before the verdicts, or where scores are not asked for."""
    scalars: Any = None
    """The scalar table, None until it is in."""
    problems: list[str] = field(default_factory=list)
    """Of its groups, once the scalars are in."""

    @property
    def thinking(self) -> Any:
        """The THINKING table of groups whose scores are in."""
        assert self.scoring, "groups of which no scores were asked for"
        return self.scoring.table


@dataclass(eq=False, slots=True)
class Group:
    """One problem's rollouts, which have all that they were to get."""

    shipment: Shipment
    request: PromptRequest
    """That it answers."""
    first_row: int
    """Where they begin in the tables of the shipment."""
    size: int


@dataclass(eq=False)
class Demand:
    """Groups that were asked for together."""

    name: str
    """Unique in a run."""
    requests: tuple[PromptRequest, ...]
    """Of different problems."""
    group_size: int
    temperature: float
    score: bool
    version: int
    """Policy version that the workers served when it was asked for."""
    on_group: Callable[[], None]
    """Called for each group that is done."""
    streams: int = 0
    """Rollout workers that are not through with it."""
    unsampled: int = 0
    """Groups that wait for a rollout worker to come back."""
    under_way: int = 0
    """Shipments that are judged or scored."""
    came: int = 0
    """Groups that were done."""
    arrived: set[str] = field(default_factory=set)
    """Problems whose groups were judged."""
    dropped: bool = False
    done: list[Group] = field(default_factory=list)
    """In the order in which they became so; whoever takes one takes it out."""
    sampled_at: float = 0.0
    """When the last of its streams ended, monotonic seconds."""

    def __post_init__(self) -> None:
        self.places = {request.problem_id: index for index, request in enumerate(self.requests)}
        """Of each problem among the requests."""
        self.prompts = {request.problem_id: prompt_digest(request.prompt_ids) for request in self.requests}
        """Of each problem the digest of its prompt."""

    @property
    def complete(self) -> bool:
        """Whether nothing more will come."""
        return not self.streams and not self.unsampled and not self.under_way

    @property
    def outstanding(self) -> int:
        """Groups that have not been taken out, whether done or not."""
        return len(self.places) - self.came + len(self.done)


@dataclass(eq=False)
class Stream:
    """What one rollout worker samples of a demand."""

    demand: Demand
    worker: Any
    requests: Sequence[PromptRequest]
    span: Span
    under_way: int = 0
    """Shipments that are judged or scored."""
    ended: bool = False
    """Nothing more comes of it."""
    lost: bool = False
    """Its worker, or a part of what it brought, is gone."""


def outstanding(demands: Iterable[Demand]) -> int:
    """Return how many groups of all demands nobody has taken out yet."""
    return sum(demand.outstanding for demand in demands)


def places_of(groups: list[Group]) -> tuple[list[Shipment], Places]:
    """The shipments in which groups came, each once, and where the groups lie in their tables."""
    number: dict[Shipment, int] = {}
    where = [(number.setdefault(one.shipment, len(number)), one.first_row, one.size) for one in groups]
    shipments = list(number)
    table, first_row, size = np.array(where).T
    return shipments, Places(table, first_row, size, np.array([shipment.scalars.num_rows for shipment in shipments]))


def in_order(tables: list[pa.Table], places: Places) -> pa.Table:
    """The rows of shipments' tables in the groups' order, in one piece, as pieces would be serialised one by one."""
    return pa.concat_tables(tables).combine_chunks().take(places.in_all())
