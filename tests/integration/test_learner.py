"""The learner's arithmetic on real ZeRO-3 ranks: however a batch is cut, loss and gradient are those of the whole.

The reference is one plain torch backward over all rows. AdamW hides the scale of a gradient, so its norm before
clipping is compared: a missing factor, a doubled row or a rank's own denominator would show here and nowhere else.
"""

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from pgrpo_ray.actors.roles import LearnerRole
from pgrpo_ray.algo.batching import plan_update
from pgrpo_ray.config import parse
from pgrpo_ray.data.arrow import ROLLOUT_SCHEMA, build_table, list_lengths
from pgrpo_ray.learner.shares import share_of

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]

GROUPS, SIZE = 3, 4
TEMPERATURE = 0.7


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def batch(tiny_starter):
    """Random rows whose rollout logprobs lie near the policy's, so that some ratios are clipped and some are not."""
    rng = np.random.default_rng(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_starter.policy, dtype=torch.float32).eval()
    tables = []
    for group in range(GROUPS):
        prompt = rng.integers(3, 300, size=6).tolist()
        responses = [rng.integers(3, 300, size=int(size)).tolist() for size in rng.integers(2, 40, size=SIZE)]
        with torch.no_grad():
            logprobs = [policy_logprobs(model, prompt, response) for response in responses]
        noisy = [(values + torch.from_numpy(rng.normal(0, 0.3, len(values)))).tolist() for values in logprobs]
        tables.append(
            build_table(
                ROLLOUT_SCHEMA,
                {
                    "problem_id": [str(group)] * SIZE,
                    "sample_index": list(range(SIZE)),
                    "policy_version": [0] * SIZE,
                    "prompt": [""] * SIZE,
                    "prompt_ids": [prompt] * SIZE,
                    "response_ids": responses,
                    "rollout_logprobs": noisy,
                    "response": [""] * SIZE,
                    "finish_reason": ["stop"] * SIZE,
                    "format_ok": [True] * SIZE,
                    "thinking": [""] * SIZE,
                    "program": [""] * SIZE,
                },
            )
        )
    advantages = rng.normal(size=GROUPS * SIZE)
    advantages[1] = 0.0  # has no gradient, but its tokens count
    advantages[6] = np.nan  # dropped: its tokens do not count
    return tables, advantages


def policy_logprobs(model, prompt, response):
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def reference(path, batch):
    """Loss and gradient norm of the whole batch by plain torch, from the formula alone."""
    tables, advantages = batch
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    rows = [row for table in tables for row in table.to_pylist()]
    counted = sum(len(row["response_ids"]) for row, value in zip(rows, advantages, strict=True) if not np.isnan(value))
    total = torch.zeros(())
    for row, advantage in zip(rows, advantages, strict=True):
        if np.isnan(advantage):
            continue
        ratio = (
            policy_logprobs(model, row["prompt_ids"], row["response_ids"]) - torch.tensor(row["rollout_logprobs"])
        ).exp()
        total = total - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).sum()
    loss = total / counted
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    return loss.item(), norm.item()


@pytest.mark.parametrize(
    ("num_ranks", "micro_batch_tokens"),
    [(1, 4096), (2, 4096), (2, 50)],
    ids=["whole", "two ranks", "many micro-batches"],
)
def test_loss_and_gradient_are_those_of_the_whole(tiny_starter, batch, num_ranks, micro_batch_tokens):
    tables, advantages = batch
    config = parse(
        {
            "policy": {"dtype": "float32"},
            "rollout": {"temperature": TEMPERATURE},
            "algo": {"old_logprobs": "rollout"},
            "learner": {"num_ranks": num_ranks, "max_grad_norm": 1e9},
        }
    )
    group_index = np.repeat(np.arange(GROUPS), SIZE)
    responses = np.concatenate([list_lengths(table["response_ids"]) for table in tables])
    prompts = np.concatenate([list_lengths(table["prompt_ids"]) for table in tables])
    plan = plan_update(prompts, responses, advantages, group_index, num_ranks, 1, micro_batch_tokens, 0)
    if micro_batch_tokens == 50:
        assert plan.mini_batches[0].num_micro_batches > 3
    make = ray.remote(LearnerRole).options(num_cpus=1, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    ranks = [make.remote(config, str(tiny_starter.policy)) for _ in range(num_ranks)]
    try:
        port = ray.get(ranks[0].free_port.remote())
        ray.get([actor.join.remote(rank, "127.0.0.1", port) for rank, actor in enumerate(ranks)], timeout=120)
        shares = [share_of(plan, rank, advantages, group_index) for rank in range(num_ranks)]
        updates = [
            actor.update.remote(share, *[tables[group] for group in share.groups])
            for actor, share in zip(ranks, shares, strict=True)
        ]
        report = ray.get(updates, timeout=120)[0]
    finally:
        for actor in ranks:
            ray.kill(actor)
    loss, norm = reference(tiny_starter.policy, batch)
    assert report["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert report["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert report["trained_tokens"] == responses[(advantages != 0) & ~np.isnan(advantages)].sum()
    assert 0 < report["clip_frac"] < 0.9
