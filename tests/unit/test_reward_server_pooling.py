"""What the vLLM backend leaves behind when a pass fails, over an engine that keeps its requests as vLLM's does."""

import sys
from types import SimpleNamespace

import pytest

from pgrpo_ray.config import RewardModelSection

MODULE = "pgrpo_ray.reward_model.vllm_pooling"


class Engine:
    """`LLM` and the engine inside: what was added stays until it has run or is aborted, whoever asks next."""

    supported_tasks = ("classify",)

    def __init__(self, *_, **__):
        self.llm_engine = self.output_processor = self
        self.request_states, self.added, self.broken = {}, 0, False

    def classify(self, prompts, **_):
        for prompt in prompts:
            self.request_states[f"{self.added}-internal"] = len(prompt["prompt_token_ids"])
            self.added += 1
        outputs = []
        while self.request_states:
            if self.broken and outputs:
                raise MemoryError("no room")
            key = next(iter(self.request_states))
            probs = [self.request_states.pop(key)]
            outputs.append(SimpleNamespace(outputs=SimpleNamespace(probs=probs)))
        return outputs

    def abort_request(self, request_ids, internal=False):
        assert internal, "these are the engine's own ids"
        for request_id in request_ids:
            del self.request_states[request_id]


@pytest.fixture
def pooling(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, PoolingParams=lambda **_: None))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    from pgrpo_ray.reward_model.vllm_pooling import VllmPooling

    yield VllmPooling(RewardModelSection(model="a/model"), 16)
    del sys.modules[MODULE]  # made with another vllm


def test_a_failed_pass_leaves_nothing_for_the_next_one(pooling):
    pooling._engine.broken = True
    with pytest.raises(RuntimeError, match="vLLM failed on 3 sequences: MemoryError: no room"):
        pooling.raw([[1], [1, 2], [1, 2, 3]])
    pooling._engine.broken = False
    assert pooling.raw([[1] * 7, [1] * 8]) == [7.0, 8.0]
