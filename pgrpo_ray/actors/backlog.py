"""What has been asked for and is not trained on yet: which problems, when, and what becomes of each.

Owns the order of problems, the ledger and the demands; decides what may be asked for ahead and what is too old. Does
not own how groups move (`group_flow`), nor rewards. All of it can be written down after a step (`state`, `keep_done`)
and taken up again by another process (`restore`, `ask_again`), which then asks for the same groups in the same order.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pgrpo_ray.actors.demands import Demand, Group, Shipment, in_order, outstanding, places_of
from pgrpo_ray.actors.group_flow import GroupFlow
from pgrpo_ray.actors.pools import Judging
from pgrpo_ray.actors.scoring import Scoring
from pgrpo_ray.config import RunConfig, derive
from pgrpo_ray.data.ledger import NOT_NEEDED, TOO_OLD, Entry, Ledger
from pgrpo_ray.data.problems import ProblemSampler
from pgrpo_ray.data.run_state import OpenDemand, OpenRequest, RunState
from pgrpo_ray.errors import CheckpointError
from pgrpo_ray.obs.checkpoints import Checkpoint
from pgrpo_ray.types import Problem, PromptRequest

TRAINING, EVALUATION = 0, 1
"""First word of every seed, so that training and evaluation never share samples."""


class Backlog:
    """For the driver's thread."""

    def __init__(
        self,
        config: RunConfig,
        problems: Sequence[Problem],
        prompt_ids: Mapping[str, tuple[int, ...]],
        flow: GroupFlow,
    ):
        """`prompt_ids`: the encoded prompt of every problem that anybody asks for, held-out ones included."""
        self._config = config
        self._prompt_ids = prompt_ids
        self._flow = flow
        self._sampler = ProblemSampler(problems, config.rollout.prompts_per_step, config.run.seed)
        self._steps_ahead = derive(config).steps_ahead
        self._drawn = 0
        """Batches of the sampler's."""
        self._unasked: list[PromptRequest] = []
        """Of the last of these, what nobody was asked for yet."""
        self._asked_rollouts = 0
        self.asked: deque[Demand] = deque()
        """What was asked for and is not wholly taken, oldest first."""
        self.ledger = Ledger(config.rollout.group_size)

    def requests(self, problems: Sequence[Problem], phase: int, step: int, first: int = 0) -> list[PromptRequest]:
        """Return a request for each problem; its seed follows from phase, step and place, counted from `first`."""
        root = [self._config.run.seed, phase, step]
        return [
            PromptRequest(
                problem_id=problem.id,
                prompt_ids=self._prompt_ids[problem.id],
                seed=int(np.random.SeedSequence([*root, index]).generate_state(1)[0]),
            )
            for index, problem in enumerate(problems, first)
        ]

    def ask_ahead(self, step: int, version: int) -> None:
        """Ask for what may be sampled from now on: batches of this step and of those that may be ahead."""
        run, per_step = self._config.run, self._config.rollout.prompts_per_step
        last = min(run.steps, step + self._steps_ahead)
        missing = (last - step + 1) * per_step - outstanding(self.asked)
        while missing > 0 and (run.max_rollouts is None or self._asked_rollouts < run.max_rollouts):
            # Of one batch of the sampler's: two may hold the same problem, and a demand may not hold it twice.
            self._unasked = self._unasked or self._draw()
            requests, self._unasked = self._unasked[:missing], self._unasked[missing:]
            self.asked.append(self.ask(requests, version))
            missing -= len(requests)

    def ask(self, requests: list[PromptRequest], version: int) -> Demand:
        """Have groups sampled, judged and scored. `version`: of the policy that the workers serve."""
        section = self._config.rollout
        self._asked_rollouts += len(requests) * section.group_size
        return self._flow.ask(requests, section.group_size, section.temperature, version, score=True)

    def first_done(self, wanted: int) -> list[Group]:
        """Take the first groups that are done, those asked for first before others, and of one problem only one."""
        taken: dict[str, Group] = {}
        while len(taken) < wanted:
            for demand in self.asked:
                done, demand.done = demand.done, []
                for group in done:
                    if len(taken) < wanted and group.request.problem_id not in taken:
                        taken[group.request.problem_id] = group
                    else:
                        demand.done.append(group)
            if len(taken) == wanted or all(demand.complete for demand in self.asked):
                break
            seen = sum(len(demand.done) for demand in self.asked)
            self._flow.until(partial(self._more_done, seen))
        self.asked = deque(demand for demand in self.asked if demand.outstanding)
        return list(taken.values())

    def ask_more(self, step: int, groups: Sequence[Group], missing: int, version: int) -> Demand | None:
        """Ask for `missing` groups of other problems than a step has; None where there are none."""
        problems = self._sampler.more(step - 1, {group.request.problem_id for group in groups}, missing)
        if not problems:
            return None
        first = max(self._config.rollout.prompts_per_step, len(groups))  # each request of a step has a seed of its own
        return self.ask(self._issue(problems, step, first), version)

    def give_up_too_old(self, step: int, version: int) -> int:
        """Drop what was asked for too long ago to be trained on in `step`; return how many rollouts that are."""
        too_old, oldest = 0, version - self._config.algo.max_staleness
        if self._config.algo.late_groups == "drop":  # else none can be (`algo.staleness`), and one that is ends the run
            while self.asked and self.asked[0].version < oldest:
                too_old += self._give_up(self.asked.popleft(), step, TOO_OLD)
        return too_old

    def give_up_the_rest(self, step: int) -> int:
        """Drop what was asked for ahead of a step after `step` that is not taken; return how many rollouts that are."""
        rollouts = sum(self._give_up(demand, step, NOT_NEEDED) for demand in self.asked)
        self.asked.clear()
        self._settle(self._unasked, step, NOT_NEEDED)
        return rollouts

    def state(self) -> dict[str, Any]:
        """Return its part of a `RunState`."""
        return {
            "batches": self._drawn,
            "unasked": self._open_requests(self._unasked),
            "asked": [
                OpenDemand(
                    version=demand.version,
                    requests=self._open_requests(demand.requests),
                    done=[group.request.number for group in demand.done],
                    file=_pending_file(index) if demand.done else "",
                )
                for index, demand in enumerate(self.asked)
            ],
            "asked_rollouts": self._asked_rollouts,
            "issued": self.ledger.issued,
            "settled": dict(self.ledger.settled),
        }

    def keep_done(self, recorder: Any, draft: str) -> list[Any]:
        """Have the recorder put what is done into a checkpoint's draft, as `state` says; return references of that."""
        kept = []
        for index, demand in enumerate(self.asked):
            if demand.done:
                shipments, places = places_of(demand.done)
                thinking = in_order([shipment.thinking for shipment in shipments], places)
                tables = [*tokens_and_verdicts(shipments), thinking]
                kept.append(recorder.keep.remote(draft, _pending_file(index), places.groups(), *tables))
        return kept

    def restore(self, state: RunState) -> None:
        """Be where the backlog was that wrote `state`, but for the groups, which `ask_again` brings.

        Raises `StageError` where its ledger does not add up.
        """
        self._drawn, self._asked_rollouts = state.batches, state.asked_rollouts
        self.ledger = Ledger(self._config.rollout.group_size, state.issued, state.settled)
        for request in (*state.unasked, *(request for demand in state.asked for request in demand.requests)):
            self.ledger.reopen({request.number: Entry(request.problem_id, request.epoch, request.step)})
        self.ledger.check()
        self._unasked = self._requests_again(state.unasked)

    def _more_done(self, seen: int) -> bool:
        """Whether more than `seen` groups are done, or nothing is left to wait for."""
        done = sum(len(demand.done) for demand in self.asked)
        return done > seen or all(demand.complete for demand in self.asked)

    def ask_again(self, checkpoint: Checkpoint, state: RunState, recorder: Any, timeout_s: float) -> None:
        """Bring back what was done, and have the rest sampled. Raises `CheckpointError` where the two do not fit."""
        section = self._config.rollout
        for saved in state.asked:
            done = None
            if saved.file:
                bring_back = recorder.bring_back.options(num_returns=4)
                rollouts, verdicts, *held = bring_back.remote(checkpoint.folder, saved.file)
                scalars, thinking = self._flow.get(held, timeout_s, "recorder")
                scoring = Scoring(rollouts, thinking.num_rows, [], [], 0.0, None, thinking)
                judging = Judging(rollouts, verdicts, None, (), 0.0, 0.0)
                unknown: Any = None  # until `ask` names the demand that it belongs to
                done = Shipment(unknown, judging, scoring=scoring, scalars=scalars)
            requests = self._requests_again(saved.requests)
            how = section.group_size, section.temperature, saved.version
            demand = self._flow.ask(requests, *how, score=True, done=done)
            if [group.request.number for group in demand.done] != saved.done:
                raise CheckpointError(f"{checkpoint.folder}: {saved.file} holds other groups than the state says.")
            self.asked.append(demand)

    def _draw(self) -> list[PromptRequest]:
        """Issue the requests of the sampler's next batch."""
        self._drawn += 1
        return self._issue(self._sampler.batch(self._drawn - 1), self._drawn)

    def _issue(self, problems: Sequence[Problem], step: int, first: int = 0) -> list[PromptRequest]:
        """Make requests of training, and enter them into the ledger."""
        requests = self.requests(problems, TRAINING, step, first)
        epoch = (step - 1) // self._sampler.steps_per_epoch
        numbers = self.ledger.issue([request.problem_id for request in requests], epoch, step)
        return [replace(request, number=number) for request, number in zip(requests, numbers, strict=True)]

    def _give_up(self, demand: Demand, step: int, fate: int) -> int:
        self._flow.drop(demand)
        return self._settle(demand.requests, step, fate) * demand.group_size

    def _settle(self, requests: Iterable[PromptRequest], step: int, fate: int) -> int:
        """Give all rollouts of what is open of some requests the same fate; return how many requests that are."""
        still_open = [request.number for request in requests if self.ledger.is_open(request.number)]
        for number in still_open:
            self.ledger.settle(step, number, np.full(self._config.rollout.group_size, fate))
        return len(still_open)

    def _open_requests(self, requests: Iterable[PromptRequest]) -> list[OpenRequest]:
        found = []
        for request in requests:
            if self.ledger.is_open(request.number):
                entry = self.ledger.entry(request.number)
                found.append(
                    OpenRequest(
                        number=request.number,
                        problem_id=request.problem_id,
                        seed=request.seed,
                        epoch=entry.epoch,
                        step=entry.step,
                    )
                )
        return found

    def _requests_again(self, saved: Sequence[OpenRequest]) -> list[PromptRequest]:
        return [
            PromptRequest(request.problem_id, self._prompt_ids[request.problem_id], request.seed, request.number)
            for request in saved
        ]


def tokens_and_verdicts(shipments: Sequence[Shipment]) -> list[Any]:
    """References of all ROLLOUT tables, then of as many VERDICT tables, as the recorder takes them."""
    return [one.judging.rollouts for one in shipments] + [one.judging.verdicts for one in shipments]


def _pending_file(index: int) -> str:
    return f"pending-{index:03d}.arrow"
