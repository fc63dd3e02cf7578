"""Maps from the raw score to [0, 1]: values by hand, monotone, bounded, and the config offers exactly these."""

import itertools
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.config import RewardModelSection
from pgrpo_ray.reward_model.score_maps import MAPS, ScoreMap

raws = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("sigmoid", 3.0, 1 / (1 + math.exp(-1))),  # z = (3 - 1) / 2 = 1
        ("sigmoid", 1.0, 0.5),
        ("clipped_linear", 3.0, 0.75),
        ("clipped_linear", 5.0, 1.0),  # z = 2
        ("clipped_linear", 100.0, 1.0),
        ("clipped_linear", -3.0, 0.0),  # z = -2
        ("softsign", 3.0, 0.75),  # 1/2 + 1/4
        ("softsign", -5.0, 0.125),  # z = -3: 1/2 - 3/8
    ],
)
def test_values_by_hand(name, raw, expected):
    assert ScoreMap(name, temperature=2.0, offset=1.0).bounded(raw) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", MAPS)
@given(one=raws, other=raws, temperature=st.floats(0.01, 100), offset=st.floats(-10, 10))
def test_every_map_is_bounded_and_keeps_the_order(name, one, other, temperature, offset):
    bounded = ScoreMap(name, temperature, offset).bounded
    low, high = sorted([one, other])
    assert 0.0 <= bounded(low) <= bounded(high) <= 1.0


@pytest.mark.parametrize("name", MAPS)
def test_every_map_is_one_half_at_the_offset_and_tells_ordinary_scores_apart(name):
    bounded = ScoreMap(name, 1.0, 0.25).bounded
    assert bounded(0.25) == 0.5
    values = [bounded(raw / 10) for raw in range(-15, 16)]
    assert all(low < high for low, high in itertools.pairwise(values))


def test_the_config_offers_these_maps_and_the_sigmoid_by_default():
    field = RewardModelSection.model_fields["score_map"]
    assert set(get_args(field.annotation)) == set(MAPS)
    assert field.default == "sigmoid"
