"""The learner's arithmetic on real ZeRO-3 ranks: however a batch is cut, loss and gradient are those of the whole.

The reference is one plain torch backward over all rows. AdamW hides the scale of a gradient, so its norm before
clipping is compared: a missing factor, a doubled row or a rank's own denominator would show here and nowhere else.
"""

import math
import sys

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pgrpo_ray.actors.roles import LearnerRole
from pgrpo_ray.algo.batching import plan_update
from pgrpo_ray.config import parse
from pgrpo_ray.data import response
from pgrpo_ray.data.arrow import ROLLOUT_SCHEMA, build_table, list_lengths
from pgrpo_ray.data.digests import digest_of
from pgrpo_ray.data.padding import TokenRows
from pgrpo_ray.errors import CorruptionError, GradientError, WeightSyncError
from pgrpo_ray.learner.shares import Places, share_of

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed, pytest.mark.usefixtures("local_ray")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name

GROUPS, SIZE = 3, 4
TEMPERATURE = 0.7
LONGEST = 48
"""Of a response, as `fixed_length` takes it."""


@pytest.fixture(scope="module")
def batch(tiny_starter):
    """Random rows whose rollout logprobs lie near the policy's, so that some ratios are clipped and some are not."""
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_starter.policy)
    model = AutoModelForCausalLM.from_pretrained(tiny_starter.policy, dtype=torch.float32).eval()
    tables = []
    for group in range(GROUPS):
        prompt = rng.integers(3, 300, size=6).tolist()
        responses = [rng.integers(3, 300, size=int(size)).tolist() for size in rng.integers(2, 40, size=SIZE)]
        with torch.no_grad():
            logprobs = [policy_logprobs(model, prompt, response) for response in responses]
        noisy = [(values + torch.from_numpy(rng.normal(0, 0.3, len(values)))).tolist() for values in logprobs]
        texts = [response.text_of(tokenizer, ids) for ids in responses]
        parsed = [response.parse(text) for text in texts]
        tables.append(
            build_table(
                ROLLOUT_SCHEMA,
                {
                    "problem_id": [str(group)] * SIZE,
                    "sample_index": list(range(SIZE)),
                    "policy_version": [0] * SIZE,
                    "prompt": [tokenizer.decode(prompt)] * SIZE,
                    "prompt_ids": [prompt] * SIZE,
                    "response_ids": responses,
                    "rollout_logprobs": noisy,
                    "versions": [[0]] * SIZE,
                    "version_starts": [[0]] * SIZE,
                    "response": texts,
                    "finish_reason": ["stop"] * SIZE,
                    "format_ok": [one.format_ok for one in parsed],
                    "thinking": [one.thinking for one in parsed],
                    "program": [one.program for one in parsed],
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


def reference(path, batch, algo):
    """Loss and gradient norm of the whole batch by plain torch, from the formulas alone."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tables, advantages = batch
    rows = [row for table in tables for row in table.to_pylist()]
    kept = [len(row["response_ids"]) for row, a in zip(rows, advantages, strict=True) if not np.isnan(a)]
    total = torch.zeros(())
    for row, advantage in zip(rows, advantages, strict=True):
        if np.isnan(advantage):
            continue
        policy = policy_logprobs(model, row["prompt_ids"], row["response_ids"])
        gap = (policy - torch.tensor(row["rollout_logprobs"])).exp()
        if algo["old_logprobs"] == "rollout":
            ratio, importance = gap, 1.0
        else:  # the policy has not moved since sampling: the ratio is 1, and the engine's gap a weight
            ratio, importance = (policy - policy.detach()).exp(), gap.detach().clamp(max=algo["importance_cap"])
        if algo["surrogate"] == "gspo":
            ratio = ratio.log().mean().exp().expand_as(ratio)
        if algo["surrogate"] == "cispo":
            gain = ratio.clamp(1 - algo["clip_low"], 1 + algo["clip_high"]).detach() * advantage * policy
        else:
            gain = torch.minimum(
                ratio * advantage, ratio.clamp(1 - algo["clip_low"], 1 + algo["clip_high"]) * advantage
            )
        size = len(row["response_ids"])
        weight = {
            "token_mean": 1 / sum(kept),
            "sequence_mean": 1 / (len(kept) * size),
            "fixed_length": 1 / (len(kept) * LONGEST),
        }[algo["aggregation"]]
        total = total - weight * (importance * gain).sum()
    total.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    return total.item(), norm.item()


def learner_config(num_ranks, **algo):
    return parse(
        {
            "policy": {"dtype": "float32"},
            "rollout": {"temperature": TEMPERATURE},
            "algo": algo,
            "learner": {"num_ranks": num_ranks, "max_grad_norm": 1e9, "learning_rate": 1e-3},
        }
    )


class Host:
    """A process that is one learner rank after another: DeepSpeed takes longer to import than any of them lives."""

    free_port = LearnerRole.free_port

    def be(self, role, config, path, rank, port):
        self.role = role(config, path)
        self.role.join(rank, "127.0.0.1", port)

    def ask(self, method, *args):
        return getattr(self.role, method)(*args)


@pytest.fixture(scope="module")
def hosts(local_ray):
    """Gives so many hosts, the same ones each time, with the port of their process group; and ends them."""
    groups = {}
    make = ray.remote(Host).options(num_cpus=1, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})

    def give(num_ranks):
        if num_ranks not in groups:
            actors = [make.remote() for _ in range(num_ranks)]
            groups[num_ranks] = actors, ray.get(actors[0].free_port.remote())
        return groups[num_ranks]

    def end(num_ranks):
        for actor in groups.pop(num_ranks)[0]:
            ray.kill(actor)

    yield give, end
    for num_ranks in list(groups):
        end(num_ranks)


@pytest.fixture
def updates(hosts):
    give, end = hosts

    def updates(path, batch, config, *args, role=LearnerRole, **options):
        num_ranks = config.learner.num_ranks
        actors, port = give(num_ranks)
        try:
            asked = [actor.be.remote(role, config, str(path), rank, port) for rank, actor in enumerate(actors)]
            ray.get(asked, timeout=120)
            return updates_of(actors, batch, config, *args, **options)
        except Exception:
            end(num_ranks)  # one may wait for another for ever
            raise

    return updates


def updates_of(ranks, batch, config, num_updates=1, micro_batch_tokens=4096, save_after_first=None):
    """Reports of rank 0 after each of some updates on the same batch, and the plan."""
    tables, advantages = batch
    num_ranks = config.learner.num_ranks
    group_index = np.repeat(np.arange(GROUPS), SIZE)
    responses = np.concatenate([list_lengths(table["response_ids"]) for table in tables])
    prompts = np.concatenate([list_lengths(table["prompt_ids"]) for table in tables])
    every_row = config.algo.kl_weight > 0
    plan = plan_update(
        prompts,
        responses,
        advantages,
        group_index,
        num_ranks,
        config.algo.num_mini_batches,
        micro_batch_tokens,
        0,
        every_row=every_row,
    )
    aggregation, reports = config.algo.aggregation, []
    numbers, sizes = np.arange(GROUPS), np.full(GROUPS, SIZE)
    places = Places(numbers, 0 * numbers, sizes, sizes)
    shares = [share_of(plan, rank, advantages, responses, places, aggregation, LONGEST, 0) for rank in range(num_ranks)]
    for number in range(num_updates):
        running = [
            actor.ask.remote("update", share, *[tables[table] for table in share.tables])
            for actor, share in zip(ranks, shares, strict=True)
        ]
        reports.append(ray.get(running, timeout=120)[0])
        if number == 0 and save_after_first is not None:
            ray.get([actor.ask.remote("save", str(save_after_first)) for actor in ranks], timeout=120)
    return reports, plan


WHOLE = {
    "old_logprobs": "rollout",
    "surrogate": "clip",
    "aggregation": "token_mean",
    "importance_cap": 1.2,
    "clip_low": 0.2,
    "clip_high": 0.28,
}


@pytest.mark.parametrize(
    ("num_ranks", "micro_batch_tokens", "changes"),
    [
        (1, 4096, {}),
        (2, 4096, {}),
        (2, 50, {"aggregation": "sequence_mean", "old_logprobs": "learner"}),
        (2, 50, {"aggregation": "fixed_length", "surrogate": "cispo"}),
        (2, 80, {"aggregation": "sequence_mean", "surrogate": "gspo", "clip_low": 0.02, "clip_high": 0.03}),
    ],
    ids=["whole", "two ranks", "mean of means, importance", "fixed length, cispo", "gspo"],
)
def test_loss_and_gradient_are_those_of_the_whole(updates, tiny_starter, batch, num_ranks, micro_batch_tokens, changes):
    algo = WHOLE | changes
    config = learner_config(num_ranks, **algo)
    (report,), plan = updates(tiny_starter.policy, batch, config, micro_batch_tokens=micro_batch_tokens)
    if micro_batch_tokens == 50:
        assert plan.mini_batches[0].num_micro_batches > 3
    loss, norm = reference(tiny_starter.policy, batch, algo)
    assert report["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert report["grad_norm"] == pytest.approx(norm, rel=1e-4)
    tables, advantages = batch
    responses = np.concatenate([list_lengths(table["response_ids"]) for table in tables])
    assert report["trained_tokens"] == responses[(advantages != 0) & ~np.isnan(advantages)].sum()
    assert (0 < report["clip_frac"] < 0.9) == (algo["old_logprobs"] == "rollout")
    assert 0.5 < report["effective_sample_frac"] < 1  # gaps of 0.3 nats: exp(-0.09) = 0.91


def test_the_kl_to_the_first_policy_is_that_of_the_policy_as_saved(updates, tiny_starter, batch, tmp_path):
    config = learner_config(2, kl_weight=0.5, **WHOLE)
    (first, second), plan = updates(tiny_starter.policy, batch, config, 2, 50, save_after_first=tmp_path)
    assert first["kl_reference"] == pytest.approx(0, abs=1e-9)
    assert plan.num_rows == GROUPS * SIZE - 1  # the row without advantage too; not the dropped one
    load = AutoModelForCausalLM.from_pretrained
    models = [load(path, dtype=torch.float32) for path in (tmp_path, tiny_starter.policy)]
    total, count = 0.0, 0
    tables, advantages = batch
    for row, advantage in zip([row for table in tables for row in table.to_pylist()], advantages, strict=True):
        if np.isnan(advantage):
            continue
        with torch.no_grad():
            now, then = (policy_logprobs(model, row["prompt_ids"], row["response_ids"]) for model in models)
        total += (torch.exp(then - now) - 1 - (then - now)).sum().item()
        count += len(now)
    assert second["kl_reference"] == pytest.approx(total / count, rel=1e-3)
    assert second["kl_reference"] > 1e-5


def test_the_ratio_of_a_later_mini_batch_is_to_the_policy_before_the_first_step(updates, tiny_starter, batch):
    """Two optimizer steps in one update, on two ranks, against plain torch and AdamW."""
    algo = WHOLE | {"old_logprobs": "learner", "num_mini_batches": 2}
    config = learner_config(2, **algo)
    (report,), plan = updates(tiny_starter.policy, batch, config, micro_batch_tokens=80)
    assert [mini_batch.num_micro_batches > 1 for mini_batch in plan.mini_batches] == [True, True]
    model = AutoModelForCausalLM.from_pretrained(tiny_starter.policy, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=config.learner.adam_betas, weight_decay=0.0)
    tables, advantages = batch
    rows = [row for table in tables for row in table.to_pylist()]
    with torch.no_grad():
        old = [policy_logprobs(model, row["prompt_ids"], row["response_ids"]) for row in rows]
    losses = []
    for mini_batch in plan.mini_batches:
        total = torch.zeros(())
        for number in np.concatenate([micro for rank in mini_batch.ranks for micro in rank]):
            row, advantage = rows[number], advantages[number]
            ratio = (policy_logprobs(model, row["prompt_ids"], row["response_ids"]) - old[number]).exp()
            weight = (old[number] - torch.tensor(row["rollout_logprobs"])).exp().clamp(max=1.2)
            gain = weight * torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
            total = total - gain.sum() / mini_batch.num_tokens
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert report["optimizer_steps"] == 2
    assert report["loss"] == pytest.approx(np.mean(losses), rel=2e-3)
    assert report["clip_frac"] > 0  # of the second mini-batch: in the first the ratio is 1


def faulty(value):
    """A learner whose policy gives the last token of problem 1, sample 1 the logprob `value` in its first update."""

    class Faulty(LearnerRole):
        faults = 1

        def update(self, share, *tables):
            rows = [row for table in tables for row in table.to_pylist()]
            broken = [row for row in rows if (row["problem_id"], row["sample_index"]) == ("1", 1)]
            engine = self._worker.engine
            sound = engine.logprobs

            def logprobs(input_ids, *rest):
                values, entropy = sound(input_ids, *rest)
                for ids in [torch.tensor(row["prompt_ids"] + row["response_ids"]) for row in broken]:
                    for place in [n for n, one in enumerate(input_ids) if torch.equal(one[: len(ids)], ids)]:
                        values = values.index_put(
                            (torch.tensor(place), torch.tensor(len(ids) - 2)), torch.tensor(value)
                        )
                return values, entropy

            if self.faults:
                self.faults, engine.logprobs = 0, logprobs
            try:
                return super().update(share, *tables)
            finally:
                engine.logprobs = sound

    return Faulty


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_logprobs_that_are_no_numbers_cost_a_step_and_are_named(updates, tiny_starter, batch, value):
    """On two ranks, of which one meets them; the next update is that of a learner which never did."""
    config = learner_config(2, **WHOLE)
    (skipped, after), plan = updates(tiny_starter.policy, batch, config, 2, 80, role=faulty(value))
    (clean,), _ = updates(tiny_starter.policy, batch, config, 1, 80)
    (why,) = skipped["skipped"]
    assert "its gradient is no finite number" in why
    assert "logprobs of 1 rollouts are no numbers: problem 1, sample 1." in why
    assert (skipped["skipped_steps"], skipped["optimizer_steps"], skipped["trained_tokens"]) == (1, 0, 0)
    assert skipped["mismatch_mean"] == pytest.approx(clean["mismatch_mean"], rel=0.1)  # of all the other tokens
    own = {"update_s"}
    assert {k: v for k, v in after.items() if k not in own} == {k: v for k, v in clean.items() if k not in own}
    tables, _ = batch
    rows = TokenRows(tables)
    assert clean["rank_digest"] == digest_of(map(rows.digest, plan.rows_of(0).tolist()))


def test_too_many_skipped_steps_in_a_row_end_the_run_and_name_the_rollouts(updates, tiny_starter, batch):
    config = learner_config(2, **WHOLE)
    learner = config.learner.model_copy(update={"max_skipped_steps": 1})
    config = config.model_copy(update={"learner": learner})
    with pytest.raises(GradientError, match=r"1 optimizer steps in a row.*problem 1, sample 1"):
        updates(tiny_starter.policy, batch, config, micro_batch_tokens=80, role=faulty(math.nan))


@pytest.mark.parametrize("columns", [["response"], ["prompt"], ["response_ids", "rollout_logprobs"]], ids=str)
def test_columns_that_slipped_are_noticed_where_tokens_are_trained_on(updates, tiny_starter, batch, columns):
    """By one row, but for prompts, which a group shares: by one group."""
    tables, advantages = batch
    whole = pa.concat_tables(tables).combine_chunks()
    rows = np.roll(np.arange(GROUPS * SIZE), SIZE if columns == ["prompt"] else 1)
    for name in columns:
        whole = whole.set_column(
            whole.schema.get_field_index(name), whole.field(name), whole[name].take(pa.array(rows))
        )
    moved = [whole.slice(group * SIZE, SIZE) for group in range(GROUPS)]
    with pytest.raises(CorruptionError, match=r"learner: \w+ of problem \d, sample \d is .* token ids say"):
        updates(tiny_starter.policy, (moved, advantages), learner_config(1, **WHOLE))


class Poisoned(LearnerRole):
    """One weight becomes NaN after the update."""

    def update(self, share, *tables):
        report = super().update(share, *tables)
        shard = next(self._worker.engine._model.parameters()).ds_tensor
        shard.data.view(-1)[0] = math.nan
        return report

    def save(self, folder):
        for _ in self._worker.named_weights():
            pass


def test_weights_that_are_no_numbers_are_not_published(updates, tiny_starter, batch, tmp_path):
    with pytest.raises(WeightSyncError, match=r"learner: \S+ holds values that are no finite numbers"):
        updates(tiny_starter.policy, batch, learner_config(2, **WHOLE), save_after_first=tmp_path, role=Poisoned)
