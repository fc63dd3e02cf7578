"""The policy's body and head apart, without ZeRO-3 (tests/integration/test_zero3.py has it with)."""

import pytest
import torch
from tiny_qwen3 import tiny_config
from transformers import Qwen3ForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from pgrpo_ray.errors import ModelError
from pgrpo_ray.learner.policy import SampledPolicy, recompute_layers

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(tiny_config(num_hidden_layers=2, attention_dropout=0.5)).eval()


@pytest.fixture
def rows():
    """Ids, attention mask, and the places of which the next token was sampled."""
    ids = torch.randint(3, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    sampled = torch.zeros((3, 8), dtype=torch.bool)
    sampled[:2, 4:] = True
    return ids, torch.ones_like(ids), sampled


def test_the_head_sees_sampled_tokens_alone(model, rows, monkeypatch):
    policy, seen = SampledPolicy(model), []
    assert policy(*rows[:2])  # apart, they give the model's own logits
    policy.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    apart = policy(*rows, 0.7)
    monkeypatch.setattr(policy, "head", None)
    whole = policy(*rows, 0.7)
    assert seen == [(8, 32)]  # of 27 tokens
    torch.testing.assert_close(apart, whole, rtol=1e-5, atol=1e-5)


def test_a_model_that_does_more_after_its_head_shows(model, rows):
    model.forward = lambda forward=model.forward, **inputs: scaled(forward(**inputs))
    assert not SampledPolicy(model)(*rows[:2])


def scaled(out):
    out.logits = out.logits * 1.01
    return out


def test_layers_are_recomputed_without_their_dropout(model, rows):
    policy, ran = SampledPolicy(model), []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda *_: ran.append(1))
    found = []
    for recomputed in (False, True):
        if recomputed:
            recompute_layers(model, "tiny")
        logprobs = policy(*rows, 1.0)[0]
        logprobs.sum().backward()
        found.append((logprobs.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
        model.zero_grad()
    assert len(ran) == 2 + 2 * 2
    torch.testing.assert_close(found[1], found[0])
    assert [m.training for m in model.modules()] == [isinstance(m, GradientCheckpointingLayer) for m in model.modules()]


def test_a_model_whose_layers_cannot_be_recomputed_is_refused():
    with pytest.raises(ModelError, match=r"learner\.activation_checkpointing=false"):
        recompute_layers(torch.nn.Linear(2, 2), "a/model")
