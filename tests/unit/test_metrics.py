"""Step metrics, against numbers worked out by hand."""

import math

import numpy as np

from pgrpo_ray.obs.metrics import batch_metrics


def columns(**changes):
    base = {
        "verdict": np.array(["passed", "wrong_answer", "passed", ""], dtype=object),
        "dropped": np.array(["", "", "", "execution_error"], dtype=object),
        "thinking_reward": np.array([0.8, np.nan, 0.4, np.nan]),
        "format_ok": np.array([True, True, True, False]),
        "reward": np.array([2.8, 1.0, 2.4, np.nan]),
        "reward_format": np.array([1.0, 1.0, 1.0, 0.0]),
        "reward_outcome": np.array([1.0, 0.0, 1.0, np.nan]),
        "reward_thinking": np.array([0.8, 0.0, 0.4, np.nan]),
        "reward_other": np.array([0.0, 0.0, 0.0, np.nan]),
        "masked": np.array(["", "cut", "", ""], dtype=object),
        "advantage": np.array([1.0, -1.0, 0.0, np.nan]),
        "response_length": np.array([10, 20, 30, 40]),
        "prompt_length": np.array([5, 5, 7, 7]),
        "finish_reason": np.array(["stop", "length", "stop", "stop"], dtype=object),
        "policy_version": np.array([3, 3, 3, 3]),
        "problem_id": np.array(["a", "a", "b", "b"], dtype=object),
        "phrases_repeated_frac": np.array([0.5, 0.0, 0.1, np.nan]),
        "wording_digest": np.array([7, 8, 7, -1]),
    }
    return base | changes


def test_a_batch_worked_out_by_hand():
    metrics = batch_metrics(columns(), np.array([0, 0, 1, 1]), learner_version=4)
    assert metrics["issued"] == 4
    assert metrics["dropped"] == 1
    assert math.isclose(metrics["pass_rate"], 2 / 3)
    assert metrics["format_rate"] == 1.0
    assert math.isclose(metrics["thinking_passers"], 0.6)
    assert math.isclose(metrics["reward"], 6.2 / 3)
    assert metrics["masked"] == 1
    assert metrics["no_gradient_groups_frac"] == 0.5
    assert metrics["response_tokens_mean"] == 25.0
    assert metrics["cut_frac"] == 0.25
    assert metrics["staleness_max"] == 1.0
    assert math.isclose(metrics["phrases_repeated_frac"], 0.2)
    assert math.isclose(metrics["same_words_frac"], 2 / 3)  # the first and the third, about different problems
    assert math.isclose(metrics["verdict_wrong_answer"], 1 / 3)


def test_means_over_nothing_are_unknown_not_zero():
    nothing = columns(thinking_reward=np.full(4, np.nan), verdict=np.array(["wrong_answer"] * 4, dtype=object))
    assert math.isnan(batch_metrics(nothing, np.array([0, 0, 1, 1]), 3)["thinking_passers"])
