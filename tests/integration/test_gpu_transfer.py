"""Weights by vLLM's weight transfer, from real ZeRO-3 ranks into real vLLM engines, without a GPU.

What runs is the path of `sync.transport: nccl`, with vLLM's own trainer and worker engines. Three things stand in for
CUDA: gloo for NCCL, streams that are none, and one broadcast a parameter where GPUs pack several.
"""

import sys

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pgrpo_ray.actors import waits, weight_sync
from pgrpo_ray.actors.cluster import actor_class, node_address, vllm_env
from pgrpo_ray.actors.group_flow import SAMPLING
from pgrpo_ray.actors.roles import LearnerRole, RolloutRole
from pgrpo_ray.config import parse
from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.starter.policy import tiny_config
from pgrpo_ray.starter.tokenizer import save_tokenizer, train_tokenizer
from pgrpo_ray.types import PromptRequest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed, pytest.mark.usefixtures("one_thread")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
RANKS, WORKERS = 2, 2
BOUND = 1e-4
"""Nats, of any token, float32."""
DEADLINE_S = 60.0


class Gloo:
    """The one method of vLLM's NCCL communicator that a transfer calls."""

    def __init__(self, info, rank):
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        where = info.master_address, info.master_port, rank, info.world_size
        self.group = stateless_init_torch_distributed_process_group(*where, "gloo")

    def broadcast(self, tensor, src, stream):
        options = torch.distributed.BroadcastOptions()
        options.rootRank = src
        self.group.broadcast([tensor], options).wait()


class GlooRollout(RolloutRole):
    def start(self):
        from vllm.distributed.weight_transfer import nccl_engine

        nccl_engine.worker_init_process_group = lambda info, parallel: Gloo(info, info.rank_offset)
        torch.cuda.current_stream = torch.accelerator.synchronize = lambda *_: None
        super().start()

    def loses_the_next_part(self):
        """Fail inside the model, as memory does."""
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

        receive = NCCLWeightTransferEngine.receive_weights

        def broken(engine, info):
            NCCLWeightTransferEngine.receive_weights = receive
            receive(engine, info)
            raise MemoryError("no room for the head")

        NCCLWeightTransferEngine.receive_weights = broken


class GlooLearner(LearnerRole):
    def open_transfer(self, *args):
        from vllm.distributed.weight_transfer import nccl_engine

        from pgrpo_ray.sync import gpu_transfer

        nccl_engine.open_trainer_endpoint = lambda info: Gloo(info, 0)
        torch.cuda.current_stream = lambda: None
        packed = gpu_transfer.INIT_INFOS["nccl"]
        gpu_transfer.INIT_INFOS["nccl"] = lambda *places: unpacked(packed(*places))
        super().open_transfer(*args)

    def move(self, version):
        """Move every weight by `version` steps of 1e-3; collective."""
        import deepspeed

        for _, parameter in self._worker.engine._model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter += 1e-3 * version * moves(parameter.shape)


def unpacked(info):
    info.packed = False
    return info


def moves(shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0


class Stage:
    def __init__(self, model):
        config = parse(
            {
                "policy": {"dtype": "float32"},
                "data": {"max_prompt_tokens": 64},
                "rollout": {
                    "max_response_tokens": 32,
                    "kv_cache_mib": 64,
                    "enforce_eager": True,
                    "num_workers": WORKERS,
                },
                "learner": {"num_ranks": RANKS},
                "sync": {"transport": "nccl", "deadline_s": DEADLINE_S},
            }
        )
        self.reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(model)
        self.prompts = [tuple(tokenizer(f"Return the sum of {n} and x.")["input_ids"]) for n in range(4)]
        self.learner = [actor_class(GlooLearner, cpus=0, threads=1).remote(config, model) for _ in range(RANKS)]
        env = vllm_env(0)
        self.workers = [
            actor_class(GlooRollout, cpus=0, threads=1, env=env, concurrency_groups={SAMPLING: 2}).remote(
                config, model, index
            )
            for index in range(WORKERS)
        ]
        host, port = ray.get(
            [self.learner[0].__ray_call__.remote(node_address), self.learner[0].free_port.remote()], timeout=60
        )
        joining = [rank.join.remote(number, host, port) for number, rank in enumerate(self.learner)]
        waits.get(joining + [worker.start.remote() for worker in self.workers], 300, "a role")
        port = ray.get(self.learner[0].free_port.remote(), timeout=60)
        weight_sync.open_transfer(self.learner, self.workers, host, port, 60)

    def publish(self, version):
        weight_sync.publish(self.learner, self.workers, version, DEADLINE_S, transport="nccl")

    def move(self, version):
        ray.get([rank.move.remote(version) for rank in self.learner], timeout=60)
        with torch.no_grad():
            for parameter in self.reference.parameters():
                parameter += 1e-3 * version * moves(parameter.shape)

    @torch.no_grad()
    def gap(self, worker, version):
        """Largest gap of a sampled token's logprob between an engine and the reference, nats."""
        requests = [PromptRequest(str(n), ids, 7 + n) for n, ids in enumerate(self.prompts)]
        stream = worker.generate.options(num_returns="streaming").remote(requests, 1, 1.0, version)
        gaps = []
        for row in (ray.get(ref, timeout=60).to_pylist()[0] for ref in stream):
            ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
            logprobs = self.reference(ids).logits[0, len(row["prompt_ids"]) - 1 : -1].log_softmax(-1)
            sampled = logprobs.gather(1, torch.tensor(row["response_ids"])[:, None])[:, 0]
            gaps.append((sampled - torch.tensor(row["rollout_logprobs"])).abs().max().item())
        return max(gaps)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    model = str(tmp_path_factory.mktemp("model"))
    tokenizer = train_tokenizer(["Return the sum of 1 and x."])
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config(tokenizer), dtype=torch.float32).save_pretrained(model)
    save_tokenizer(tokenizer, model)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield Stage(model)
    ray.shutdown()


def test_every_engine_serves_what_the_learner_has_and_nothing_before(stage):
    with pytest.raises(WeightSyncError, match="the engine has no published one whole"):
        stage.gap(stage.workers[0], 0)
    stage.publish(0)
    assert max(stage.gap(worker, 0) for worker in stage.workers) < BOUND
    stage.move(1)
    assert stage.gap(stage.workers[0], 0) > 100 * BOUND  # the learner has moved on
    stage.publish(1)
    assert max(stage.gap(worker, 1) for worker in stage.workers) < BOUND


def test_a_worker_that_breaks_on_the_way_does_not_sample_until_it_has_a_whole_version(stage):
    ray.get(stage.workers[1].loses_the_next_part.remote(), timeout=60)
    with pytest.raises(WeightSyncError, match=r"version 2 did not reach every rollout worker's GPU.*no room for"):
        stage.publish(2)
    for worker in stage.workers:
        with pytest.raises(WeightSyncError, match="no published one whole"):
            stage.gap(worker, 2)


def test_a_version_of_another_model_is_refused_before_anything_is_sent(stage):
    parameters = ray.get(stage.learner[0].parameters.remote(), timeout=60)
    del parameters["model.norm.weight"]
    with pytest.raises(WeightSyncError, match=r"rollout worker 1: version 3: parameters missing \['model.norm.weight"):
        waits.get(stage.workers[1].expect.remote(3, parameters), 60, "rollout worker")
