"""What a rollout worker makes of sampled tokens, and what it refuses of an engine."""

import math

import pytest
from tiny_qwen3 import TOKENIZER

from pgrpo_ray.errors import ModelError
from pgrpo_ray.learner.views import check_texts
from pgrpo_ray.rollout.worker import RolloutWorker
from pgrpo_ray.types import PromptRequest, SampledGroup


def table_of(logprobs):
    """The table of two groups of two rollouts, which have these logprobs."""
    groups = [
        SampledGroup(
            PromptRequest(f"p{number}", (4, 5), number),
            ([6, 7 + number], [8, 9]),
            tuple(logprobs[2 * number : 2 * number + 2]),
            ("stop", "length"),
            (((3, 0),), ((3, 0),)),
        )
        for number in range(2)
    ]
    return RolloutWorker(None, TOKENIZER)._table(groups)


@pytest.mark.parametrize("broken", [[-1.0, math.nan], [-math.inf, -1.0], [-1.0], [-1.0] * 3])
def test_a_logprob_that_is_no_number_or_is_missing_is_refused_with_its_rollout(broken):
    with pytest.raises(ModelError, match=r"problem p1, sample 0 2 tokens and \d logprobs .* policy version 3"):
        table_of([[-1.0, -2.0], [-0.0, -2.0], broken, [-1.0, -1.0]])


def test_what_it_makes_is_what_the_learner_finds():
    table = table_of([[-1.0, -2.0]] * 4)
    assert table["problem_id"].to_pylist() == ["p0", "p0", "p1", "p1"]
    assert table["sample_index"].to_pylist() == [0, 1, 0, 1]
    check_texts([table], [0, 1, 2, 3], TOKENIZER)
