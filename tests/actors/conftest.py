"""A driver whose roles are scripted, and rollouts for pools to judge."""

import pytest
from scripted import make_driver

from pgrpo_ray.data import arrow

__all__ = ["make_driver"]


@pytest.fixture(scope="session")
def rollout_table():
    """Make the ROLLOUT table of one group from its programs."""

    def make(problem_id, programs):
        size = len(programs)
        same = {"problem_id": problem_id, "policy_version": 0, "prompt": "p", "response": "r", "finish_reason": "stop"}
        lists = {
            "prompt_ids": [1],
            "response_ids": [5],
            "rollout_logprobs": [-1.0],
            "versions": [0],
            "version_starts": [0],
        }
        return arrow.build_table(
            arrow.ROLLOUT_SCHEMA,
            {name: [value] * size for name, value in (same | lists).items()}
            | {
                "sample_index": list(range(size)),
                "format_ok": [program is not None for program in programs],
                "thinking": ["t"] * size,
                "program": programs,
            },
        )

    return make
