"""vLLM as a reward model: its pooling runner reads the scalar at the last token. The only other file that imports vllm.

Owns one in-process engine. Does not own: encoding, cutting, the map to [0, 1] (`scorer`). The environment that
`actors.cluster.vllm_env` gives the process must be set before this module is imported.
"""

from collections.abc import Sequence
from typing import Any

from vllm import LLM, PoolingParams

from pgrpo_ray.config import RewardModelSection
from pgrpo_ray.errors import ModelError

_GPU_SHARE = 0.9
"""vLLM's own default for a GPU that it has for itself; a part of a GPU gets its part of it."""


class VllmPooling:
    """Runs a sequence classifier in vLLM. Implements `scorer.Backend`."""

    def __init__(self, section: RewardModelSection, max_length_tokens: int):
        """Load `section.model`. Raises `ModelError` when vLLM cannot serve it."""
        options: dict[str, Any] = (
            {} if section.kv_cache_mib is None else {"kv_cache_memory_bytes": section.kv_cache_mib << 20}
        )
        if section.gpus:
            options["gpu_memory_utilization"] = _GPU_SHARE * section.gpus
        else:
            options["enforce_eager"] = True  # graph capture gains nothing on CPU and takes half a minute
        try:
            self._engine = LLM(
                section.model,
                runner="pooling",
                load_format="safetensors",  # a pickle of weights is never opened
                trust_remote_code=False,
                dtype=section.dtype,
                max_model_len=max_length_tokens,
                max_num_seqs=section.batch_size,
                disable_log_stats=True,
                **options,
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                f"reward_model.model={section.model!r} cannot be served by vLLM: {first} Set "
                "reward_model.backend=transformers."
            ) from error
        if "classify" not in self._engine.supported_tasks:
            raise ModelError(
                f"reward_model.model={section.model!r} is no classifier for vLLM, which offers "
                f"{', '.join(self._engine.supported_tasks)}. Set reward_model.backend=transformers."
            )

    def raw(self, batch: Sequence[Sequence[int]]) -> list[float]:
        """Return the raw scalar of each sequence; vLLM would apply a sigmoid of its own unless told not to.

        Raises `RuntimeError` when vLLM fails. Nothing of the batch is left in the engine then, so the next call may
        be tried.
        """
        try:
            outputs = self._engine.classify(
                [{"prompt_token_ids": list(ids)} for ids in batch],
                pooling_params=PoolingParams(use_activation=False),
                use_tqdm=False,
            )
        except Exception as error:  # vLLM raises whatever its layers do, and the engine keeps what it has not finished
            self._abort_all()
            raise RuntimeError(f"vLLM failed on {len(batch)} sequences: {type(error).__name__}: {error}") from error
        return [float(output.outputs.probs[0]) for output in outputs]

    def _abort_all(self) -> None:
        """Abort all requests in the engine, or the next call would run them and return their outputs among its own."""
        engine = self._engine.llm_engine
        engine.abort_request(list(engine.output_processor.request_states), internal=True)
