"""How old a rollout may be, at the edges."""

import numpy as np
import pytest

from pgrpo_ray.algo.staleness import check_staleness
from pgrpo_ray.errors import StageError


@pytest.mark.parametrize("oldest", [[5, 5], [3, 5], [4, 3]])
def test_within_the_bound_nothing_is_said(oldest):
    check_staleness(np.array(oldest), version=5, max_staleness=2)


@pytest.mark.parametrize("oldest", [2, 6])
def test_too_old_and_too_new_end_the_run(oldest):
    with pytest.raises(StageError, match=rf"1 of 2 .* version {oldest}; the learner has version 5, .*_staleness is 2"):
        check_staleness(np.array([5, oldest]), version=5, max_staleness=2)
