"""Numbers of one step from its scalar columns. numpy only; names are the keys of `metrics.jsonl`."""

from collections.abc import Mapping

import numpy as np

from pgrpo_ray.types import Verdict

Columns = Mapping[str, np.ndarray]
"""Scalar columns of a batch, one entry a rollout; see `data.arrow` for their meaning."""


def batch_metrics(columns: Columns, group_index: np.ndarray, learner_version: int) -> dict[str, float]:
    """Summarise a rewarded batch; `group_index` says which group each row belongs to.

    Rows whose machinery failed (`dropped`) count as `issued`, in lengths and staleness, and in no rate and no reward.
    """
    kept = columns["dropped"] == ""
    passed = kept & (columns["verdict"] == Verdict.PASSED)
    thinking = columns["thinking_reward"]
    known = kept & ~np.isnan(thinking)
    with_gradient = np.unique(group_index[kept & (columns["advantage"] != 0)])
    lengths = columns["response_length"]
    worded = ~np.isnan(columns["phrases_repeated_frac"])
    return {
        "issued": len(kept),
        "dropped": int((~kept).sum()),
        "pass_rate": _mean(passed[kept]),
        "format_rate": _mean(columns["format_ok"][kept]),
        "thinking_passers": _mean(thinking[passed & known]),
        "thinking_failers": _mean(thinking[known & ~passed]),
        "thinking_known": _mean(thinking[known]),
        "reward": _mean(columns["reward"][kept]),
        "reward_format": _mean(columns["reward_format"][kept]),
        "reward_outcome": _mean(columns["reward_outcome"][kept]),
        "reward_thinking": _mean(columns["reward_thinking"][kept]),
        "reward_other": _mean(columns["reward_other"][kept]),
        "masked": int((columns["masked"] != "").sum()),
        "no_gradient_groups_frac": 1.0 - len(with_gradient) / len(np.unique(group_index)),
        "phrases_repeated_frac": _mean(columns["phrases_repeated_frac"][worded]),
        "same_words_frac": _mean(shared_wording(columns["problem_id"], columns["wording_digest"])[worded]),
        "response_tokens_mean": _mean(lengths),
        "response_tokens_max": float(lengths.max()),
        "prompt_tokens_mean": _mean(columns["prompt_length"]),
        "cut_frac": _mean(columns["finish_reason"] == "length"),
        "staleness_max": float(learner_version - columns["policy_version"].min()),
        **{f"verdict_{verdict}": _mean((columns["verdict"] == verdict)[kept]) for verdict in Verdict},
    }


def shared_wording(problem_id: np.ndarray, digest: np.ndarray) -> np.ndarray:
    """Return which rollouts, bool [N], reason in the very words of one about another problem; without reasoning, none.

    `digest`: of the words, as `data.wording` says, negative where there is no reasoning.
    """
    problems: dict[int, set[str]] = {}
    for name, words in zip(problem_id, digest, strict=True):
        problems.setdefault(int(words), set()).add(name)
    return np.array([words >= 0 and len(problems[int(words)]) > 1 for words in digest], dtype=bool)


def _mean(values: np.ndarray) -> float:
    """Mean, NaN for nothing: an average over no rollouts is unknown, not 0."""
    return float(np.mean(values)) if len(values) else float("nan")
