"""Weights from the learner's GPUs to the rollout workers', by vLLM's own weight transfer: the learner's side.

Owns: how a transfer is opened for each transport, and the policy as the source that vLLM's trainer engines read. Does
not own: gathering (`learner.zero3`), the calls to the workers (`actors.weight_sync`), loading (the rollout engine).

Nothing is staged: parts go straight into the engines' models, so a transfer that fails leaves engines that refuse to
sample, where the object store's leaves them with the version before. No part carries a checksum; that what samples is
what is trained shows in the logprobs (`sync.max_mismatch`). With `ipc` no bytes move between GPUs at all.

Nobody has run `nccl` and `ipc` on a GPU; tests drive the same calls over gloo. Imports vllm.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from pgrpo_ray.sync.weights import Parameters

INIT_INFOS: dict[str, Callable[[int, str, int, int, int], TrainerInitInfo]] = {
    # By transport, from rank, meeting place, number of rollout workers and a buffer's bytes. The learner's rank 0 sends
    # alone, the others only help to gather; so a group has one member more than there are workers.
    "nccl": lambda rank, host, port, workers, size: NCCLTrainerInitInfo(
        rank=rank, master_address=host, master_port=port, world_size=1 + workers, packed_buffer_size_bytes=size
    ),
    "ipc": lambda rank, host, port, workers, size: IPCTrainerInitInfo(
        rank=rank, packed=True, packed_buffer_size_bytes=size
    ),
}


class PolicySource(WeightSource):
    """The learner's parameters, gathered anew for each transfer."""

    def __init__(self, parameters: Parameters, weights: Callable[[], Iterator[tuple[str, torch.Tensor]]]):
        """`weights`: yields every parameter whole, in the order of `parameters`; collective over the ranks."""
        self._parameters = parameters
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        """Return name, dtype and shape of every parameter. Gathers nothing."""
        return [ParamMeta(name, getattr(torch, dtype), shape) for name, (dtype, shape) in self._parameters.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._weights()


def open_transfer(
    transport: str,
    rank: int,
    host: str,
    port: int,
    workers: int,
    chunk_bytes: int,
    client: VLLMWeightSyncClient,
    source: PolicySource,
) -> TrainerWeightTransferEngine[Any]:
    """Connect this rank, and through `client` every worker; return what sends. Collective, once a run.

    A buffer has `chunk_bytes`, or as many as the largest parameter, which vLLM 0.32.0 does not cut.
    """
    sizes = (meta.dtype.itemsize * math.prod(meta.shape) for meta in source.metadata())
    init_info = INIT_INFOS[transport](rank, host, port, workers, max(chunk_bytes, *sizes))
    return WeightTransferTrainerFactory.trainer_init(init_info, client=client, source=source)
