"""Plain transformers and vLLM give the same raw scores, through the same server."""

import asyncio

import pytest

from pgrpo_ray.actors.cluster import cluster_session
from pgrpo_ray.actors.reward_server import RewardServer
from pgrpo_ray.actors.spawn import reward_env
from pgrpo_ray.config import ClusterSection, RewardModelSection
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.reward_model.version import folder_version

pytestmark = [pytest.mark.ray, pytest.mark.vllm]

BOUND = 1e-3
"""Of raw scores in float32, as docs/reward-server.md states. Seen on the starter's model: 4e-6."""


def test_raw_scores_agree_within_the_stated_bound(tiny_starter):
    problems = load_problems(tiny_starter.heldout, "jsonl")[:24]
    items = [
        (problem.prompt, f"take the list, {'then add 2, ' * number}done") for number, problem in enumerate(problems)
    ]
    items.append((problems[0].prompt, "word " * 1000))
    answers = {}
    with cluster_session(ClusterSection(), 2, {}):
        servers = []
        for backend in ("transformers", "vllm"):
            section = RewardModelSection(model=str(tiny_starter.reward_model), backend=backend, kv_cache_mib=64)
            version = folder_version(tiny_starter.reward_model)
            server = RewardServer(backend, section, version, reward_env(section), drain_s=0.1)
            server.deploy()
            servers.append(server)
        for server in servers:
            served = server.wait_ready(180)
            answers[served.backend] = asyncio.run(server.score(items, 60))[1]
    one, other = answers["transformers"], answers["vllm"]
    assert [(item.tokens, item.truncated) for item in one] == [(item.tokens, item.truncated) for item in other]
    assert [item.truncated for item in one] == [False] * 24 + [True]
    difference = max(abs(a.raw - b.raw) for a, b in zip(one, other, strict=True))
    print(f"largest difference of raw scores: {difference:.2g}")
    assert difference <= BOUND
    assert max(item.raw for item in one) - min(item.raw for item in one) > 100 * BOUND  # they are scores of something
