"""One rank of the learner: Arrow rows in, optimizer steps out.

Owns: tensors of a micro-batch, the order of forward, backward and step, the step's statistics. Does not own: which
rows (the driver's plan), the formula (`algo.losses`), the partitioning (`zero3`).

Invariants:
- All ranks run the same number of forward and backward passes per mini-batch; a rank without rows left runs an empty
  one, because ZeRO-3 gathers parameters collectively in each.
- The loss of a mini-batch is a weighted sum over its sampled tokens, with weights that know the whole mini-batch: how
  rows are cut into micro-batches and ranks changes nothing.
- A mini-batch whose gradient is refused (`gradient_guard`) changes nothing on any rank, and is in no mean.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pgrpo_ray.algo.losses import MAX_LOG_RATIO, policy_loss, truncated_importance
from pgrpo_ray.config import AlgoSection
from pgrpo_ray.data.digests import digest_of
from pgrpo_ray.data.padding import TokenRows
from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.learner.shares import RankShare
from pgrpo_ray.learner.views import check_texts, row_name
from pgrpo_ray.learner.zero3 import Zero3Engine

NAMED = 8
"""Rollouts with logprobs that are no numbers whom one message names; how many there are it says as well."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows as tensors: prompt, then response, then padding. Column t of the [B, T-1] ones is about token t + 1.

    Prompt P0 P1, response A0 A1: input_ids P0 P1 A0 A1, and for the targets P1 A0 A1 a loss_mask of 0 1 1.
    """

    input_ids: torch.Tensor
    """[B, T] int64."""
    attention_mask: torch.Tensor
    """[B, T] int64, 0 on padding."""
    loss_mask: torch.Tensor
    """[B, T-1] bool: the target was sampled by the policy."""
    current_mask: torch.Tensor
    """[B, T-1] bool: sampled with the version that the learner held as the update began; part of the loss mask."""
    rollout_logprobs: torch.Tensor
    """[B, T-1] float32, nats; 0 outside the mask."""
    advantages: torch.Tensor
    """[B] float32."""
    token_weights: torch.Tensor
    """[B] float32: what one token of the row weighs in the loss."""


class LearnerWorker:
    """Trains one rank's share of each batch. Implements `protocols.Learner` together with its engine."""

    def __init__(
        self, engine: Zero3Engine, algo: AlgoSection, temperature: float, reference: Zero3Engine | None = None
    ):
        """`temperature` is the sampling temperature: the learner's logits are divided by it as the engine's were.

        `reference`: the frozen first policy, where `algo.kl_weight` is above 0.
        """
        self.engine = engine
        self._reference = reference
        self._algo = algo
        self._temperature = temperature

    def update(self, tables: Sequence[pa.Table], share: RankShare) -> dict[str, Any]:
        """Run one optimizer step per mini-batch of `share`; return statistics reduced over ranks.

        `tables` are the ROLLOUT tables of `share.tables`, in that order. Collective. Returned keys: see `_report`.
        Raises `CorruptionError` for texts that are not those of the token ids, and `GradientError` after too many
        skipped steps in a row.
        """
        started = time.monotonic()
        rows = TokenRows(tables)
        row_ids = [row for part in share.steps for micro in part.micro_batches for row in micro.tolist()]
        check_texts(tables, row_ids, self.engine.tokenizer)
        stats = _Stats()
        old = self._recompute_old(rows, share) if self._recomputes(share) else None
        norms: list[float] = []
        rate, skipped = 0.0, []
        for number, part in enumerate(share.steps):
            now, broken = _Stats(), []
            for index, micro in enumerate(part.passes()):
                batch = self._tensors(rows, share.policy_version, *micro)
                reference = self._reference_logprobs(batch)
                if batch is None:
                    self._empty_pass(self.engine)
                    continue
                logprobs, entropy = self._logprobs(batch)
                loss, sums = self._loss(batch, logprobs, old[number, index] if old is not None else None, reference)
                bad = ~logprobs.detach().isfinite().all(dim=1)
                if bad.any():  # infinite ones are clamped in the loss, and would give a gradient that looks sound
                    loss = loss + math.nan * logprobs.sum()
                    broken += micro[0][bad.cpu().numpy()].tolist()
                self.engine.backward(loss)
                now.add(batch, logprobs.detach(), entropy, sums, first=not norms)
            step = self.engine.step()
            stats.merge(now, taken=step.taken)
            if step.taken:
                norms.append(step.grad_norm)
                rate = step.learning_rate
            else:
                skipped.append(self._skipped(tables, broken))
        # This rank's own, for the driver's books.
        books = {"rank_tokens": stats.seen, "rank_digest": digest_of(map(rows.digest, row_ids)), "skipped": skipped}
        return books | self._report(stats, norms, rate, len(skipped), time.monotonic() - started)

    @property
    def parameters(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What `named_weights` yields, by name: dtype and shape."""
        return self.engine.parameters

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield full parameters in a fixed order. Collective.

        Raises `WeightSyncError` at one that is not finite throughout: nobody shall sample with it.
        """
        for name, weight in self.engine.named_weights():
            if not all(bound.isfinite() for bound in weight.aminmax()):  # a NaN is both bounds
                raise WeightSyncError(
                    f"learner: {name} holds values that are no finite numbers, so it is not published. Lower "
                    "learner.learning_rate, or set policy.dtype=float32, and start from the last good model."
                )
            yield name, weight

    def _recomputes(self, share: RankShare) -> bool:
        return self._algo.old_logprobs == "learner" and len(share.steps) > 1

    def _recompute_old(self, rows: TokenRows, share: RankShare) -> dict[tuple[int, int], torch.Tensor]:
        """Logprobs of every micro-batch before the first optimizer step, [B, T-1] each."""
        old = {}
        with torch.no_grad():
            for number, part in enumerate(share.steps):
                for index, micro in enumerate(part.passes()):
                    batch = self._tensors(rows, share.policy_version, *micro)
                    if batch is None:
                        self._empty_pass(self.engine)
                        continue
                    old[number, index] = self._logprobs(batch)[0]
        return old

    def _loss(
        self, batch: MicroBatch, logprobs: torch.Tensor, old: torch.Tensor | None, reference: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of one pass; `old`: logprobs recomputed before the first step, where there are several."""
        algo, importance = self._algo, None
        if algo.old_logprobs == "rollout":
            old = batch.rollout_logprobs
        else:
            if old is None:  # a single mini-batch: the policy has not moved since sampling, so the ratio is exactly 1
                old = logprobs.detach()
            if algo.importance_cap is not None:
                importance = truncated_importance(old, batch.rollout_logprobs, algo.importance_cap)
        return policy_loss(
            logprobs,
            old,
            batch.advantages,
            batch.loss_mask,
            batch.token_weights,
            clip_low=algo.clip_low,
            clip_high=algo.clip_high,
            surrogate=algo.surrogate,
            importance=importance,
            reference_logprobs=reference,
            kl_weight=algo.kl_weight,
            kl_estimator=algo.kl_estimator,
        )

    def _reference_logprobs(self, batch: MicroBatch | None) -> torch.Tensor | None:
        """The first policy's logprobs [B, T-1]; None where nothing asks for them or there are no rows. Collective."""
        if self._reference is None:
            return None
        with torch.no_grad():
            if batch is None:
                self._empty_pass(self._reference)
                return None
            return self._logprobs(batch, self._reference)[0]

    def _logprobs(self, batch: MicroBatch, engine: Zero3Engine | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logprobs and entropy, each [B, T-1], nats, 0 outside the mask; of the policy unless told else."""
        engine = engine or self.engine
        return engine.logprobs(batch.input_ids, batch.attention_mask, batch.loss_mask, self._temperature)

    def _empty_pass(self, engine: Zero3Engine) -> None:
        """Take part in the collectives of a pass that this rank has no rows for; its gradient is zero."""
        ids = torch.zeros((1, 2), dtype=torch.int64, device=engine.device)
        sampled = torch.ones((1, 1), dtype=torch.bool, device=engine.device)
        logprobs, _ = engine.logprobs(ids, torch.ones_like(ids), sampled, self._temperature)
        if torch.is_grad_enabled():
            engine.backward(logprobs.sum() * 0.0)

    def _tensors(
        self,
        rows: TokenRows,
        version: int,
        row_ids: np.ndarray,
        advantages: np.ndarray,
        token_weights: np.ndarray,
    ) -> MicroBatch | None:
        """Return the rows of one pass; None where it has none. `version`: that the learner held as the update began."""
        if len(row_ids) == 0:
            return None
        padded = rows.pad(row_ids, version)
        device = self.engine.device
        return MicroBatch(
            input_ids=torch.from_numpy(padded.input_ids).to(device),
            attention_mask=torch.from_numpy(padded.is_token).to(device, torch.int64),
            loss_mask=torch.from_numpy(padded.is_response[:, 1:]).to(device),
            current_mask=torch.from_numpy(padded.is_current[:, 1:]).to(device),
            rollout_logprobs=torch.from_numpy(padded.rollout_logprobs[:, 1:]).to(device).contiguous(),
            advantages=torch.from_numpy(advantages).to(device),
            token_weights=torch.from_numpy(token_weights).to(device),
        )

    def _skipped(self, tables: Sequence[pa.Table], broken: list[int]) -> str:
        """Say why a step was skipped, naming the rollouts of all ranks whose logprobs are no numbers. Collective."""
        rows: list[dict] = []
        if broken:
            named = pa.concat_tables(tables).select(["problem_id", "sample_index"])
            rows = named.take(pa.array(broken)).to_pylist()
        names = self.engine.gather([row_name(row) for row in rows])
        told = "; ".join(names[:NAMED])
        rollouts = f"The learner's logprobs of {len(names)} rollouts are no numbers: {told}. " if names else ""
        self.engine.guard.check(rollouts)
        return f"an optimizer step was skipped: {self.engine.guard.why}. {rollouts}".strip()

    def _report(
        self, stats: "_Stats", norms: list[float], rate: float, num_skipped: int, seconds: float
    ) -> dict[str, float]:
        """Reduce over ranks. Means are over tokens of rows with gradient whose step was taken; `mismatch` over those of
        the first step that the version sampled which the learner held as it began, NaN where there are none."""
        sums, maxima = self.engine.reduce(torch.cat([stats.trained, stats.compared]), stats.maxima)
        tokens, clipped, entropy, kl, kl_reference, loss, weight, weight_squares, gap, current, first = sums.tolist()
        return {
            "loss": loss / max(1, len(norms)),
            "entropy": entropy / max(1.0, tokens),
            "clip_frac": clipped / max(1.0, tokens),
            "kl_old": kl / max(1.0, tokens),
            "kl_reference": kl_reference / max(1.0, tokens),
            "effective_sample_frac": weight**2 / max(1.0, tokens * weight_squares),
            "mismatch_mean": gap / current if current else float("nan"),
            "mismatch_max": maxima.item() if current else float("nan"),
            "current_tokens_frac": current / first if first else float("nan"),
            "grad_norm": float(np.mean(norms)) if norms else 0.0,
            "learning_rate": rate,
            "trained_tokens": tokens,
            "optimizer_steps": float(len(norms)),
            "skipped_steps": float(num_skipped),
            "update_s": seconds,
        }


class _Stats:
    """Sums over this rank's tokens, kept as tensors so that one all-reduce per update suffices."""

    def __init__(self) -> None:
        self.seen = 0
        """Tokens that went into a gradient, whether its step was taken or not."""
        self.trained = torch.zeros(8, dtype=torch.float64)
        """Of steps that were taken."""
        self.compared = torch.zeros(3, dtype=torch.float64)
        """Of engine and learner, which a skipped step says as much about."""
        self.maxima = torch.zeros((), dtype=torch.float64)

    def add(
        self,
        batch: MicroBatch,
        logprobs: torch.Tensor,
        entropy: torch.Tensor,
        loss_sums: dict[str, torch.Tensor],
        *,
        first: bool,
    ) -> None:
        """`first`: the learner has not stepped in this update. Between sampling a current token and these logprobs then
        lies no optimizer step, so a gap is the engines' own; one that is no number is told otherwise."""
        mask = batch.loss_mask
        log_ratio = (logprobs - batch.rollout_logprobs)[mask].double().cpu()
        ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        gap = log_ratio.abs()[batch.current_mask[mask].cpu() & log_ratio.isfinite()] if first else log_ratio[:0]
        self.seen += len(log_ratio)
        self.trained += torch.tensor(
            [
                loss_sums["tokens"],
                loss_sums["clipped_low"] + loss_sums["clipped_high"],
                entropy[mask].double().sum(),
                loss_sums["kl_k3"],
                loss_sums["kl_reference"],
                loss_sums["loss"],
                ratio.sum(),
                ratio.square().sum(),
            ],
            dtype=torch.float64,
        )
        self.compared += torch.tensor([gap.sum(), len(gap), len(log_ratio) if first else 0], dtype=torch.float64)
        if len(gap):
            self.maxima = torch.maximum(self.maxima, gap.max())

    def merge(self, step: "_Stats", *, taken: bool) -> None:
        """Add those of one step's passes."""
        self.seen += step.seen
        self.compared += step.compared
        self.maxima = torch.maximum(self.maxima, step.maxima)
        if taken:
            self.trained += step.trained
