"""Calibration: temperature and offset against what the scores were made from, reliability by hand, its place."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from pgrpo_ray.errors import ModelError
from pgrpo_ray.reward_model import calibration
from pgrpo_ray.reward_model.calibration import Calibration, fit, plot, reliability


def pairs_of_temperature(temperature, count=20_000, level=3.0):
    """Scores whose differences, divided by `temperature`, are the true log-odds of the order in which they stand."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, count)
    gap = np.where(rng.random(count) < 1 / (1 + np.exp(-logits)), logits, -logits) * temperature
    return level + gap / 2, level - gap / 2


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_temperature_that_made_the_scores_is_found_and_mends_their_calibration(temperature):
    better, worse = pairs_of_temperature(temperature)
    found = fit(better, worse)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.offset == pytest.approx(3.0)
    before, after = reliability(better, worse, 1.0), reliability(better, worse, found.temperature)
    assert after.ece < 0.015
    if temperature != 1.0:
        assert before.ece > 5 * after.ece
        assert before.nll > after.nll


def test_the_temperature_is_the_minimum_of_its_loss_by_hand():
    # Three pairs right by 2, one wrong by 2: n = 4, target 5/6. Of these, a share of 3 * 5/6 + 1/6 = 16/6 of 4 counts
    # for sigmoid(2/T), so sigmoid(2/T) = 2/3 and T = 2 / ln 2.
    assert fit([2, 2, 2, 0], [0, 0, 0, 2]).temperature == pytest.approx(2 / math.log(2), rel=1e-4)


def test_pairs_that_are_all_right_give_a_finite_temperature():
    # Target 4/5 for three pairs right by 1: sigmoid(1/T) = 4/5, so T = 1 / ln 4.
    assert fit([1, 2, 3], [0, 1, 2]).temperature == pytest.approx(1 / math.log(4), rel=1e-4)


def test_scores_that_say_nothing_leave_the_temperature_alone_and_worthless_ones_end_at_the_bound():
    assert fit([1.0, 1.0], [1.0, 1.0]) == Calibration(1.0, 1.0)
    assert fit([0.0] * 9, [1.0] * 9).temperature == pytest.approx(calibration.TEMPERATURE_BOUNDS[1], rel=0.01)
    with pytest.raises(ValueError, match="0 better and 0 worse"):
        fit([], [])


def test_reliability_by_hand():
    # Confidence 0.77, wrong and right; 0.92, right; a tie (0.5), half right.
    low, high = math.log(0.77 / 0.23), math.log(0.92 / 0.08)
    found = reliability([low, 0, high, 1], [0, low, 0, 1], 1.0)
    filled = {round(one.low, 2): (one.num_pairs, one.confidence, one.accuracy) for one in found.bins if one.num_pairs}
    assert filled == {
        0.5: (1, 0.5, 0.5),
        0.75: (2, pytest.approx(0.77), 0.5),
        0.9: (1, pytest.approx(0.92), 1.0),
    }
    assert found.ece == pytest.approx((2 * 0.27 + 0.08 + 0) / 4)
    assert found.nll == pytest.approx(-(math.log(0.77) + math.log(0.23) + math.log(0.92) + math.log(0.5)) / 4)


def test_logit_is_the_distance_from_the_offset_in_temperatures():
    assert Calibration(2.0, 1.0).logit(5.0) == 2.0
    assert Calibration().logit(0.3) == 0.3


def test_it_is_kept_in_the_config_and_what_is_no_number_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    Calibration(2.5, -0.5).store(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["hidden_size"] == 8
    assert Calibration.of(config) == Calibration(2.5, -0.5)
    loaded = SimpleNamespace()
    assert Calibration.of(loaded) == Calibration()
    Calibration(2.5, -0.5).write_to(loaded)
    assert Calibration.of(loaded) == Calibration(2.5, -0.5)
    for value in (0, -1, "2", True, float("nan"), None):
        with pytest.raises(ModelError, match="pgrpo_score_temperature"):
            Calibration.of({"pgrpo_score_temperature": value})
    with pytest.raises(ModelError, match="pgrpo_score_offset"):
        Calibration.of({"pgrpo_score_offset": float("inf")})


def test_the_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra `dev`")
    better, worse = pairs_of_temperature(3.0, 500)
    assert plot(reliability(better, worse, 1.0), reliability(better, worse, 3.0), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
