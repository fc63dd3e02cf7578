"""The only loop: problems in, a trained policy and a record out.

    problems -> rollout (vLLM) -> execute (Docker) -> think-score (RM, passers only) -> reward, advantage
             -> learn (ZeRO-3) -> weights -> rollout
(who is think-scored is the reward rule's business: passers under the paper's)

One step, and who waits for whom:
- The backlog (`actors.backlog`) has groups asked for, `algo.max_staleness` optimizer steps before they are trained on
  (`algo.staleness` says why not earlier). They move whenever the driver waits (`actors.group_flow`); so with a
  staleness above 0, other groups are sampled, judged and scored while it waits for anything below.
- `_collect` waits until every group of the step's batch is there (`algo.late_groups: wait`), or as many as make one
  (`drop`; what is then too old for the next step is given up). With dynamic sampling it has groups without a gradient
  replaced before the batch is closed.
- The batch is rewarded (`actors.batch`): rewards and advantages from scalars, some numbers per rollout, on the driver.
- `_learn` plans the update, hands every rank its share, waits for all of them, then brings the new weights to all
  rollout workers, or to none (`actors.weight_sync`). Responses that are being sampled go on with them.
- The recorder writes the batch's rollouts meanwhile; the next step waits for that write before it asks for another.
- Every `checkpoint.every_steps` the whole state is written (`actors.checkpointing`); a driver that is given one goes on
  as the one that wrote it would have.

Invariants:
- The driver holds references and scalar columns, never token tensors or weights.
- Conservation, checked each step: issued = open + trained + any other fate (`data.ledger`), and nothing has two fates.
- Every wait has a deadline and names its role (`actors.waits`).
- What is judged, rewarded and trained on is the same row everywhere (`actors.arrivals`, `data.digests`,
  `learner.reports`).
- No rollout is older than `algo.max_staleness` (`algo.staleness`), and engine and learner agree on the logprobs of
  tokens of the current version (`learner.reports`), or the run ends.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from pgrpo_ray.actors import waits, weight_sync
from pgrpo_ray.actors.arrivals import Repeats
from pgrpo_ray.actors.backlog import EVALUATION, Backlog, tokens_and_verdicts
from pgrpo_ray.actors.batch import Batch, reward_groups
from pgrpo_ray.actors.checkpointing import Checkpointer
from pgrpo_ray.actors.demands import Shipment, in_order, places_of
from pgrpo_ray.actors.group_flow import GroupFlow
from pgrpo_ray.actors.run_metrics import RunMetrics
from pgrpo_ray.actors.spawn import Fleet
from pgrpo_ray.actors.supervision import Supervisor
from pgrpo_ray.algo.batching import UpdatePlan, plan_update
from pgrpo_ray.algo.rewarding import Arm
from pgrpo_ray.algo.rewards import RewardRule
from pgrpo_ray.algo.staleness import check_staleness
from pgrpo_ray.config import RunConfig, derive
from pgrpo_ray.data import arrow
from pgrpo_ray.data.ledger import TRAINED
from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.data.run_state import RunState, SavedEstimate, fingerprint
from pgrpo_ray.data.scalars import Columns, to_columns, to_reward_table
from pgrpo_ray.errors import LostError, MismatchError, PgrpoError, StageError
from pgrpo_ray.evaluation.heldout import Estimate, heldout_pass_at_1
from pgrpo_ray.learner.reports import check_parity, check_trained
from pgrpo_ray.learner.shares import Places, share_of
from pgrpo_ray.obs.checkpoints import Checkpoint, CheckpointStore
from pgrpo_ray.obs.disk import explain_full_disk
from pgrpo_ray.obs.display import HEADER, Display
from pgrpo_ray.obs.hacking import HackingMonitor, read_probe
from pgrpo_ray.obs.metrics import batch_metrics
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.obs.timeline import Timeline
from pgrpo_ray.types import Problem

LAST_WRITE_TIMEOUT_S = 5.0
"""For the recorder to finish the last file when a run fails or is interrupted."""
STAGES = ("sampling", "judging", "scoring", "learning", "sync")
"""Of the timeline."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    before: Estimate | None
    after: Estimate | None
    steps: int
    """Taken; fewer than asked for where `run.max_rollouts` was reached."""
    policy_version: int


class Driver:
    """Runs one training. Owns the step's order; the roles own the work."""

    def __init__(
        self,
        config: RunConfig,
        rule: RewardRule,
        problems: Sequence[Problem],
        heldout: Sequence[Problem],
        prompt_ids: dict[str, tuple[int, ...]],
        fleet: Fleet,
        log: RunLog,
        display: Display,
        resumed: tuple[Checkpoint, RunState] | None = None,
    ):
        """`prompt_ids`: the encoded prompt of every problem in `problems` and `heldout`. `resumed`: what to go on from,
        which the learner has loaded and the log was rewound to."""
        self._config = config
        self._arm = Arm.of(rule, config.algo)
        self._heldout = list(heldout)
        self._fleet = fleet
        self._log = log
        self._display = display
        self._timeout_s = config.cluster.stage_timeout_s
        self._derived = derive(config)
        self._timeline = Timeline(log.folder / "trace.json" if config.run.trace else None)
        statements = {problem.id: problem.prompt for problem in problems}
        about = fleet.rollout, fleet.supervised(), config.cluster, fleet.respawn, display.note
        self._crew = Supervisor(*about, fleet.replicas)
        if fleet.reward_server is not None:
            fleet.reward_server.meanwhile = self._crew.look
        self._learning = False
        """The learner is at an update, or its weights are newer than those that the rollout workers serve."""
        roles = fleet.pools, fleet.reward
        self._flow = GroupFlow(self._crew, self._admit, *roles, statements, self._timeout_s, self._timeline)
        self._backlog = Backlog(config, problems, prompt_ids, self._flow)
        self._policy_version = 0
        self._steps = 0
        """Taken."""
        self._before: Estimate | None = None
        self._repeats = Repeats()
        self._live = RunMetrics(config.run.name)
        probe = config.monitor.probe
        self._monitor = HackingMonitor(config.monitor, read_probe(probe) if probe else None)
        self._writing: Any = None
        self._data = resumed[1].data if resumed else fingerprint(problems)  # whoever resumes has compared them
        store = CheckpointStore(config.checkpoint_root)
        self._checkpoints = Checkpointer(store, config.checkpoint, fleet.learner, display.note)
        self._resumed = resumed

    def run(self) -> RunResult:
        """Evaluate, train, evaluate, save. Raises the first error of any role; what was being written is finished.

        A `LostError` says that the same may go well with other processes, from the last checkpoint.
        """
        try:
            return self._run()
        except (Exception, KeyboardInterrupt) as error:
            with contextlib.suppress(PgrpoError):  # the first error is the one to tell
                self._finish_writing(LAST_WRITE_TIMEOUT_S, waits.wait_any)
            if isinstance(error, LostError):
                raise self._crew.blame(error) from error
            raise
        finally:
            self._timeline.close()

    def _run(self) -> RunResult:
        steps = self._config.run.steps
        if self._resumed is not None:
            self._restore(*self._resumed)
        self._publish()  # an engine serves only what the learner has published, the first policy included
        if self._resumed is None:
            self._before = self._evaluate("before")
        else:
            self._display.stage("reading rollouts of the checkpoint")
            self._backlog.ask_again(*self._resumed, self._fleet.recorder, self._timeout_s)
        self._display.phase("train", steps)
        self._display.advance(self._steps)
        self._display.note(f"[bold]{HEADER}[/bold]")
        every, waited_s = self._config.evaluation.every_steps, 0.0
        for step in range(self._steps + 1, steps + 1):
            too_old = self._backlog.give_up_too_old(step, self._policy_version)
            self._backlog.ask_ahead(step, self._policy_version)
            if not self._backlog.asked:  # the budget of rollouts is used up
                break
            metrics = {**self._train_step(step), "too_old": too_old, "checkpoint_s": waited_s}
            self._steps = step
            self._record_ledger(step)
            if every and step % every == 0 and step < steps:
                estimate = self._evaluate(f"step-{step:06d}")
                metrics["heldout_pass_at_1"] = estimate.value if estimate else float("nan")
                self._display.phase("train", steps)
                self._display.advance(step - 1)
            self._log.step(step, metrics)
            self._live.step(step, metrics, self._monitor.num_open)
            self._display.step(step, metrics)
            self._display.advance()
            waited_s = self._checkpoint(step, metrics)
        if rollouts := self._backlog.give_up_the_rest(self._steps):
            self._display.note(f"{rollouts} rollouts that were asked for ahead are not needed any more")
        self._record_ledger(None)
        after = self._evaluate("after")
        self._display.stage("saving the model")
        folder = str(self._log.folder / "model")
        self._flow.get([rank.save.remote(folder) for rank in self._fleet.learner], self._timeout_s, "learner")
        self._finish_writing()
        self._display.stage("writing the last checkpoint")
        self._checkpoints.finish(self._flow.wait_any)
        return RunResult(self._before, after, self._steps, self._policy_version)

    def _checkpoint(self, step: int, metrics: dict[str, float]) -> float:
        """Begin a checkpoint where one is due, and commit the one before once it is written; return the seconds that
        the run waited for that."""
        began = time.monotonic()
        self._checkpoints.poll()
        if self._checkpoints.due(step):
            self._display.stage("copying the learner's state")
            self._checkpoints.finish(self._flow.wait_any)  # before the state is taken, as groups move meanwhile
            keep = partial(self._backlog.keep_done, self._fleet.recorder)
            self._checkpoints.begin(self._state(), metrics, keep, self._timeout_s, self._flow.wait_any)
        return time.monotonic() - began

    def _state(self) -> RunState:
        """What the driver knows; the metrics up to here are on the disk."""
        self._log.sync()
        return RunState(
            step=self._steps,
            policy_version=self._policy_version,
            before=None if self._before is None else SavedEstimate(**self._before._asdict()),
            config=self._config.model_dump(mode="json"),
            data=self._data,
            **self._backlog.state(),
        )

    def _restore(self, checkpoint: Checkpoint, state: RunState) -> None:
        """Be where the driver was that wrote the state; what it had asked for must be asked for again."""
        self._steps, self._policy_version = state.step, state.policy_version
        self._before = None if state.before is None else Estimate(**state.before.model_dump())
        self._backlog.restore(state)
        for metrics in RecordedRun(self._log.folder).metrics:  # which the log was rewound to
            self._monitor.observe(metrics["step"], metrics)
        self._display.note(f"going on after step {state.step}, from {checkpoint.folder}")

    def _record_ledger(self, step: int | None) -> None:
        """Write what was settled since the last time: in `step`, or when the run ended."""
        self._backlog.ledger.check()
        path = self._log.ledger_path(step)
        with explain_full_disk(path.parent):
            arrow.write_ipc(path, self._backlog.ledger.take(), {})

    def _train_step(self, step: int) -> dict[str, float]:
        started = time.monotonic()
        self._fleet.pools.counts()  # what an evaluation did since the last step is not this step's
        self._timeline.take()
        batch, sampled = self._collect(step)
        collected = time.monotonic()
        metrics = batch_metrics(batch.columns, batch.group_index, self._policy_version)
        repeated = self._repeats.frac(batch.columns["row_digest"])
        self._write(self._log.rollouts_path(step), step, batch.shipments, batch.places, batch)
        learned = self._learn(batch, step)
        seconds = time.monotonic() - started
        busy, counts = self._timeline.take(), self._fleet.pools.counts()
        tokens = float(batch.columns["response_length"].sum())
        metrics = {
            **metrics,
            **{f"advantage_share_{term}": share for term, share in batch.shares.items()},
            **learned,
            "repeated_frac": repeated,
            "policy_version": self._policy_version,
            "sample_s": max(0.0, sampled - started),
            "judge_tail_s": collected - max(started, sampled),
            "step_s": seconds,
            **{f"busy_{stage}_s": busy.get(stage, 0.0) for stage in STAGES},
            "tokens_per_s": tokens / seconds,
            "cache_hit_frac": counts.cache_hit_frac,
            "runner_restarts": counts.runner_restarts,
            "judged_again": counts.judged_again,
            "worker_restarts": self._crew.take_restarts(),
        }
        return metrics | self._watch(step, metrics, batch.columns)

    def _watch(self, step: int, metrics: dict[str, float], columns: Columns) -> dict[str, float]:
        """Look for signs of reward hacking; say what has begun and what is over."""
        observed = self._monitor.observe(step, metrics, lambda: columns)
        for finding in observed.begun:
            self._display.note(f"[yellow]step {step}: a sign of reward hacking, {escape(str(finding))}[/yellow]")
        for finding in observed.over:
            self._display.note(f"step {step}: no longer so, {finding.name} of step {finding.step}")
        return observed.metrics

    def _collect(self, step: int) -> tuple[Batch, float]:
        """Return the step's rewarded batch, and when the last of its rollouts was sampled."""
        self._display.stage("sampling, judging and scoring")
        wanted = self._config.rollout.prompts_per_step
        if self._config.algo.late_groups == "wait":
            demand = self._backlog.asked.popleft()
            groups, sampled = self._flow.finish(demand), demand.sampled_at
        else:
            groups, sampled = self._backlog.first_done(wanted), time.monotonic()
        for round_left in reversed(range(self._config.algo.sampling_rounds)):
            batch = reward_groups(groups, self._arm, self._config.algo, self._policy_version)
            missing = wanted - int(batch.alive().sum())
            if not round_left or not missing:
                break
            more = self._backlog.ask_more(step, groups, missing, self._policy_version)
            if more is None:
                break
            groups, sampled = groups + self._flow.finish(more), more.sampled_at
        return batch, sampled

    def _learn(self, batch: Batch, step: int) -> dict[str, float]:
        """Train on the batch and bring the new weights to every rollout worker."""
        self._display.stage("learning")
        config, ranks, columns, group_index = self._config, self._fleet.learner, batch.columns, batch.group_index
        advantages = np.where(columns["masked"] == "", columns["advantage"], np.nan)
        plan = plan_update(
            prompt_lengths=columns["prompt_length"],
            response_lengths=columns["response_length"],
            advantages=advantages,
            group_index=group_index,
            num_ranks=len(ranks),
            num_mini_batches=config.algo.num_mini_batches,
            micro_batch_tokens=config.learner.micro_batch_tokens,
            seed=config.run.seed + step,
            every_row=config.algo.kl_weight > 0,
        )
        self._settle(batch, plan, step)
        updates = []
        for rank, actor in enumerate(ranks):
            share = share_of(
                plan,
                rank,
                advantages,
                columns["response_length"],
                batch.places,
                config.algo.aggregation,
                config.rollout.max_response_tokens,
                self._policy_version,
            )
            rollouts = [batch.shipments[index].judging.rollouts for index in share.tables]
            updates.append(actor.update.remote(share, *rollouts))
        self._learning = True
        span = self._timeline.begin("learning", f"step {step}")
        reports = self._flow.get(updates, self._timeout_s, "learner")
        self._timeline.end(span)
        for why in reports[0].pop("skipped"):
            self._display.note(f"[red]{escape(why)}[/red]")
        check_trained(plan, columns, reports)
        try:
            check_parity(reports[0], config.policy.dtype, self._derived.max_mismatch)
        except MismatchError:
            self._finish_writing()  # the rollouts that show it
            raise
        started = time.monotonic()
        if taken := int(reports[0]["optimizer_steps"]):  # a skipped step makes no version
            self._policy_version += taken
            self._publish()
        self._learning = False
        self._admit()
        return {**reports[0], "sync_s": time.monotonic() - started}

    def _publish(self) -> None:
        """Bring the weights to every rollout worker; return when all that are there serve the new version."""
        self._display.stage("publishing weights")
        span = self._timeline.begin("sync", f"version {self._policy_version}")
        while True:
            self._flow.until(lambda: bool(self._crew.started))  # one at least
            workers = self._crew.started
            if self._publish_to(workers, self._flow.wait_any):
                break
        self._crew.published(workers)
        self._timeline.end(span)

    def _admit(self) -> None:
        """Give rollout workers that have started again the weights that the others serve, if the learner is at rest."""
        if not self._learning:
            self._crew.admit(self._publish_to)

    def _publish_to(self, workers: list[Any], wait_any: waits.WaitAny | None = None) -> bool:
        """Bring the weights to some rollout workers; return whether all have them, and none was lost meanwhile."""
        version, sync, learner = self._policy_version, self._config.sync, self._fleet.learner
        try:
            wait_any = wait_any or partial(waits.wait_any, given_up=self._crew.look)
            weight_sync.publish(learner, workers, version, sync.deadline_s, wait_any, sync.transport)
        except LostError as error:
            lost = self._crew.of(error)
            if lost is None:
                raise
            self._crew.lost(lost, error)
            return False
        return True

    def _evaluate(self, name: str) -> Estimate | None:
        """Measure pass@1 on the held-out problems with the weights that the workers serve now."""
        if not self._heldout:
            return None
        section = self._config.evaluation
        self._display.phase(f"evaluate {name}", len(self._heldout))
        self._display.stage("sampling and judging")
        version = self._policy_version
        demand = self._flow.ask(
            self._backlog.requests(self._heldout, EVALUATION, version),
            section.samples_per_problem,
            section.temperature,
            version,
            score=False,
            on_group=self._display.advance,
        )
        groups = self._flow.finish(demand)
        shipments, places = places_of(groups)
        columns = to_columns(in_order([shipment.scalars for shipment in shipments], places))
        check_staleness(columns["policy_version"], version, max_staleness=0)
        self._write(self._log.evaluation_path(name), self._policy_version, shipments, places)
        estimate, lost = heldout_pass_at_1(columns, section.samples_per_problem, self._config.run.seed)
        if lost:
            self._display.note(f"[red]{lost} held-out rollouts could not be judged and are left out[/red]")
        self._display.note(
            f"held-out pass@1 {name}: [bold]{100 * estimate.value:.1f} %[/bold] "
            f"(95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}; {len(groups)} problems x "
            f"{section.samples_per_problem} samples, temperature {section.temperature:g})"
        )
        return estimate

    def _write(
        self, path: Path, step: int, shipments: list[Shipment], places: Places, batch: Batch | None = None
    ) -> None:
        """Have the recorder write rollouts; wait for its previous write first, so at most one batch is held for it."""
        self._finish_writing()
        metadata = {"step": str(step), "run": self._config.run.name}
        tables = tokens_and_verdicts(shipments)
        if batch is not None:
            tables += [batch.thinking, to_reward_table(batch.columns)]
            metadata["reward_model_version"] = self._fleet.reward.version
        self._writing = self._fleet.recorder.write.remote(str(path), metadata, places.groups(), *tables)

    def _finish_writing(self, timeout_s: float | None = None, wait_any: waits.WaitAny | None = None) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            waits.get(writing, timeout_s or self._timeout_s, "recorder", wait_any or self._flow.wait_any)

    def _settle(self, batch: Batch, plan: UpdatePlan, step: int) -> None:
        """Enter into the ledger what becomes of the batch's rollouts. Raises `StageError` where the plan has others."""
        fates = batch.fates(every_row=self._config.algo.kl_weight > 0)
        if plan.num_rows != (trained := int((fates == TRAINED).sum())):
            raise StageError(
                f"driver: {trained} rollouts of step {step} are to be trained on, {plan.num_rows} are planned.",
                stage="driver",
            )
        for group, rows in zip(batch.groups, np.split(fates, np.cumsum(batch.places.size)[:-1]), strict=True):
            self._backlog.ledger.settle(step, group.request.number, rows)
