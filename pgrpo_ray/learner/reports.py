"""What the ranks report of an update, held against what the driver planned and against the engine.

Notices ranks that trained on other rows or tokens than they were given, or took other steps than each other, and a
learner whose policy is not the one that samples. Runs on the driver, from scalars.
"""

from collections.abc import Sequence
from typing import Any

from pgrpo_ray.algo.batching import UpdatePlan
from pgrpo_ray.data.digests import digest_of
from pgrpo_ray.data.scalars import Columns
from pgrpo_ray.errors import CorruptionError, MismatchError, StageError


def check_trained(plan: UpdatePlan, columns: Columns, reports: Sequence[dict[str, Any]]) -> None:
    """Raise `StageError` or `CorruptionError` unless the ranks trained on what was planned, in the same steps.

    Takes from each report what only this needs: `rank_tokens` and `rank_digest`.
    """
    rows = [plan.rows_of(rank) for rank in range(len(reports))]
    planned = int(sum(columns["response_length"][mine].sum() for mine in rows))
    trained = int(sum(report.pop("rank_tokens") for report in reports))
    steps = {(int(report["optimizer_steps"]), int(report["skipped_steps"])) for report in reports}
    if trained != planned or len(steps) > 1 or sum(min(steps)) != len(plan.mini_batches):
        raise StageError(
            f"learner: trained on {trained} tokens in (taken, skipped) {sorted(steps)} steps, planned were "
            f"{planned} in {len(plan.mini_batches)}.",
            stage="learner",
        )
    for rank, (mine, report) in enumerate(zip(rows, reports, strict=True)):
        if report.pop("rank_digest") != digest_of(columns["row_digest"][mine]):
            raise CorruptionError(
                f"learner: the {len(mine)} rollouts that rank {rank} trained on are not those that were judged and "
                "rewarded, or not in that order, or their tokens changed on the way. The step's rollouts are in "
                "the run's folder; no rollout worker has the weights that came of it."
            )


def check_parity(report: dict[str, Any], dtype: str, max_mismatch: float) -> None:
    """Raise `MismatchError` where engine and learner do not compute the same policy.

    `dtype`: `policy.dtype`; `max_mismatch`: nats.
    """
    if not report["current_tokens_frac"] > 0:  # nothing to compare, or (no number) nothing trained
        return
    if report["mismatch_mean"] <= max_mismatch:  # a gap that is no number is none that is small
        return
    raise MismatchError(
        f"engine and learner give the tokens of this step logprobs that are {report['mismatch_mean']:.2g} nats "
        f"apart on average ({report['mismatch_max']:.2g} at most), sync.max_mismatch is {max_mismatch:g} for "
        f"policy.dtype={dtype}: what samples is not what is trained. The step's rollouts are in the run's "
        "folder. If the gap is there from the first step: do both run this dtype, and the same temperature without "
        "top-p? If it grows step by step: some weights do not reach the engine, such as an output head that is "
        "tied to the embedding and kept packed. If it has always been about so large: raise the bound."
    )
