"""What becomes of a batch's rollouts."""

import numpy as np
import pytest

from pgrpo_ray.actors.batch import Batch
from pgrpo_ray.data.ledger import FATES


def batch():
    columns = {
        "dropped": np.array(["execution_error", "", "", "", ""], dtype=object),
        "masked": np.array(["", "cut", "", "", ""], dtype=object),
        "advantage": np.array([np.nan, 1.0, 0.0, 1.0, 1.0]),
        "response_length": np.array([4, 4, 4, 4, 0]),
    }
    return Batch([], columns, np.zeros(5, int), [], None, None, {})


@pytest.mark.parametrize(("every_row", "level"), [(False, "no_gradient"), (True, "trained")])
def test_a_rollout_without_an_advantage_is_trained_on_only_where_every_row_is(every_row, level):
    fates = [FATES[fate] for fate in batch().fates(every_row)]
    assert fates == ["execution_error", "cut", level, "trained", "no_gradient"]
