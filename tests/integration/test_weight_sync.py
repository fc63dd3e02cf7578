"""Publications into a real vLLM engine: exact, all or nothing, and a stale part shows in the logprobs.

One rollout worker as in a run; a learner that publishes what it is told. The reference is the same model in
transformers with the same weights: the gap of the sampled tokens' logprobs is the `mismatch_mean` of training.
"""

import sys
import time

import pytest
import ray
import torch
from ray._private.internal_api import memory_summary
from transformers import AutoModelForCausalLM, AutoTokenizer

from pgrpo_ray.actors import weight_sync
from pgrpo_ray.actors.group_flow import SAMPLING
from pgrpo_ray.actors.spawn import rollout_workers
from pgrpo_ray.config import derive, parse
from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.starter.policy import tiny_config
from pgrpo_ray.starter.tokenizer import save_tokenizer, train_tokenizer
from pgrpo_ray.sync.weights import BucketPublisher, Manifest
from pgrpo_ray.types import PromptRequest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.usefixtures("one_thread")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
BUCKET_BYTES = 1 << 20
BOUND = 1e-4
"""Nats, of any token, float32."""


class ToldLearner:
    """Publishes the model's weights, each moved by about `version` steps of a learning rate of 1e-3."""

    def __init__(self, model):
        torch.set_num_threads(1)
        self.weights = list(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).named_parameters())

    def publish(self, version, change=None):
        for part in BucketPublisher(BUCKET_BYTES).publish(moved(self.weights, version), version):
            yield change(part) if change else part


def moved(weights, version):
    generator = torch.Generator().manual_seed(version)
    for name, tensor in weights:
        signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
        yield name, tensor.detach() + 1e-3 * version * signs


class Damaging:
    """A learner's handle whose parts are changed on their way."""

    def __init__(self, learner, change):
        self._learner, self._change = learner, change

    @property
    def publish(self):
        return self

    def options(self, **options):
        self._options = options
        return self

    def remote(self, version):
        return self._learner.publish.options(**self._options).remote(version, self._change)


class Stage:
    """The actors, and what the tests ask of them."""

    def __init__(self, model):
        config = parse(
            {
                "policy": {"dtype": "float32"},
                "data": {"max_prompt_tokens": 64},
                "rollout": {"max_response_tokens": 64, "kv_cache_mib": 64, "enforce_eager": True},
            }
        )
        self.bound = derive(config).max_mismatch
        self.reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.is_version = None
        self.first = {name: tensor.detach().clone() for name, tensor in self.reference.named_parameters()}
        tokenizer = AutoTokenizer.from_pretrained(model)
        self.prompts = [tuple(tokenizer(f"Return the sum of {n} and x.")["input_ids"]) for n in range(8)]
        self.learner = ray.remote(num_cpus=0)(ToldLearner).remote(model)
        (self.worker,) = rollout_workers(config, model)
        ray.get(self.worker.start.remote(), timeout=300)

    def publish(self, version, change=None):
        learner = Damaging(self.learner, change) if change else self.learner
        weight_sync.publish([learner], [self.worker], version, 60.0)

    def inside(self, function):
        """Run a function of the role in its process."""
        return ray.get(self.worker.__ray_call__.remote(function), timeout=60)

    def sample(self, version):
        requests = [PromptRequest(str(n), ids, 7 + n) for n, ids in enumerate(self.prompts)]
        stream = self.worker.generate.options(num_returns="streaming").remote(requests, 1, 1.0, version)
        rows = [ray.get(ref, timeout=60).to_pylist()[0] for ref in stream]
        assert {row["policy_version"] for row in rows} == {version or 0}
        return rows

    def gaps(self, rows, version=None):
        """Absolute gap of each sampled token's logprob to the reference with the weights of `version`, or of the one
        that sampled it, nats."""
        spans = [zip(row["versions"], row["version_starts"], strict=True) for row in rows]
        versions = [torch.zeros(len(row["response_ids"]), dtype=torch.int64) for row in rows]
        for tokens, row_spans in zip(versions, spans, strict=True):
            for sampled_by, start in row_spans:
                tokens[start:] = sampled_by
        found = [torch.full((len(row["response_ids"]),), torch.nan) for row in rows]
        for one in {version} if version is not None else set(torch.cat(versions).tolist()):
            for row, tokens, gaps in zip(rows, versions, found, strict=True):
                chosen = tokens == tokens if version is not None else tokens == one
                gaps[chosen] = self._gaps(row, one)[chosen]
        return torch.cat(found)

    @torch.no_grad()
    def _gaps(self, row, version):
        self._become(version)
        ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
        logprobs = self.reference(ids).logits[0, len(row["prompt_ids"]) - 1 : -1].log_softmax(-1)
        sampled = logprobs.gather(1, torch.tensor(row["response_ids"])[:, None])[:, 0]
        return (sampled - torch.tensor(row["rollout_logprobs"])).abs()

    @torch.no_grad()
    def _become(self, version):
        if self.is_version != version:
            for (_, parameter), (_, tensor) in zip(
                self.reference.named_parameters(), moved(self.first.items(), version), strict=True
            ):
                parameter.copy_(tensor)
            self.is_version = version


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """With a random model: which weights it has, not what it has learned, is what these tests are about."""
    model = str(tmp_path_factory.mktemp("model"))
    tokenizer = train_tokenizer(["Return the sum of 1 and x."])
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config(tokenizer), dtype=torch.float32).save_pretrained(model)
    save_tokenizer(tokenizer, model)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield Stage(model)
    ray.shutdown()


def test_an_engine_serves_what_was_published_to_the_last_digits_and_nothing_older(stage):
    assert stage.gaps(stage.sample(None), 0).max() < BOUND
    with pytest.raises(WeightSyncError, match=r"rollout worker 0: .* the engine has no published one whole"):
        stage.sample(0)
    for version in (0, 3):
        stage.publish(version)
        rows = stage.sample(version)
        assert stage.gaps(rows, version).max() < BOUND
    assert stage.gaps(rows, 0).mean() > stage.bound  # weights of another version show
    with pytest.raises(WeightSyncError, match="asked to sample with policy version 4, but the engine has version 3"):
        stage.sample(4)


def dawdle(role):
    """Have each token take a while, so that weights come while responses are sampled."""
    engine = role._worker._loop._engine
    engine.step, step = lambda: time.sleep(0.02) or step(), engine.step


def hurry(role):
    del role._worker._loop._engine.step


def test_new_weights_reach_half_sampled_responses_whose_later_tokens_are_exactly_theirs(stage):
    stage.publish(1)
    stage.inside(dawdle)
    requests = [PromptRequest(str(n), ids, 7 + n) for n, ids in enumerate(stage.prompts)]
    generate = stage.worker.generate.options(num_returns="streaming", concurrency_group=SAMPLING)
    stream = generate.remote(requests, 2, 1.0, 1)
    time.sleep(0.3)
    stage.publish(2)
    rows = [row for ref in stream for row in ray.get(ref, timeout=60).to_pylist()]
    stage.inside(hurry)
    assert {tuple(row["versions"]) for row in rows} >= {(1, 2)}
    assert stage.gaps(rows).max() < BOUND
    assert stage.gaps(rows, 1).mean() > stage.bound  # and not those of the version that they began with


def damage(part):
    """Flip one bit of the second bucket."""
    if not isinstance(part, Manifest) and part.index == 1:
        data = part.data[0].copy()
        data[-1] ^= 64
        object.__setattr__(part, "data", (data, *part.data[1:]))
    return part


def test_a_damaged_version_changes_nothing(stage):
    stage.publish(1)
    before = stage.sample(1)
    with pytest.raises(WeightSyncError, match=r"none has loaded .* rollout worker 0: .* is not what was published"):
        stage.publish(2, damage)
    assert stage.sample(1) == before


def break_while_loading(role):
    """Have the next version stop inside the first layer's attention, whose queries, keys and values vLLM packs."""
    load = role._receiver.load

    def broken(version):
        role._receiver.load = load
        for name, tensor in load(version):
            if "layers.0.self_attn.k_proj" in name:
                raise MemoryError("no room for the keys")
            yield name, tensor

    role._receiver.load = broken


def test_after_half_a_version_the_engine_refuses_to_sample_until_it_has_a_whole_one(stage):
    stage.publish(1)
    stage.inside(break_while_loading)
    with pytest.raises(WeightSyncError, match=r"1 of 1 rollout workers failed .*no room for the keys"):
        stage.publish(2)
    for version in (1, 2):
        with pytest.raises(WeightSyncError):
            stage.sample(version)
    with pytest.raises(WeightSyncError, match="holds a mixture of version 2, which failed"):
        stage.sample(None)
    stage.publish(3)
    assert stage.gaps(stage.sample(3), 3).max() < BOUND


def forget_head(role):
    from pgrpo_ray.rollout import vllm_engine

    vllm_engine.kept, vllm_engine._repack_tied_head = vllm_engine._repack_tied_head, lambda model: None


def remember_head(role):
    from pgrpo_ray.rollout import vllm_engine

    vllm_engine._repack_tied_head = vllm_engine.kept


def test_a_stale_head_is_beyond_the_gates_bound_and_a_right_one_far_below(stage):
    stage.publish(1)
    assert stage.gaps(stage.sample(1), 1).mean() < stage.bound / 100
    stage.inside(forget_head)
    stage.publish(2)
    assert stage.gaps(stage.sample(2), 2).mean() > stage.bound
    stage.inside(remember_head)
    stage.publish(2)
    assert stage.gaps(stage.sample(2), 2).mean() < stage.bound / 100


def test_nothing_of_a_loaded_version_stays_in_the_object_store(stage):
    for version in (1, 2, 3):
        stage.publish(version)
    address = ray.get_runtime_context().gcs_address  # there may be other clusters on the machine
    deadline = time.monotonic() + 10.0  # Ray frees objects in batches, about once a second
    while " 0 objects" not in (summary := memory_summary(address, stats_only=True)):
        assert time.monotonic() < deadline, summary
        time.sleep(0.2)
