"""What DeepSpeed is told: its own config for one engine, from ours. Imports nothing of it.

Precision: in bfloat16 DeepSpeed steps a float32 copy of each weight and rounds that, so that steps far below
bfloat16's resolution add up; micro-batches' gradients are summed in float32.

`learner.offload` is for GPUs: tests hold DeepSpeed to its settings on CPU, where they move nothing; nobody has yet run
it on a GPU.
"""

from typing import Any

from pgrpo_ray.config import LearnerSection


def engine_settings(dtype: str, section: LearnerSection, frozen: bool = False) -> dict:
    """Return DeepSpeed's own config for one engine; a `frozen` one has weights alone, and no optimizer to offload."""
    zero: dict[str, Any] = {
        "stage": 3,
        # 0 partitions even small parameters, so that a tiny model takes the same path as a large one.
        "stage3_param_persistence_threshold": 0,
    }
    if section.offload != "none" and not frozen:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if section.offload == "optimizer_and_parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # demanded, unused: micro-batches are formed by tokens, not rows
        "managed_gradient_accumulation": False,  # backward() any number of times, then step() once
        "gradient_clipping": section.max_grad_norm,
        "zero_allow_untested_optimizer": True,  # torch's own fused AdamW needs no compiled extension
        # Offloaded it runs on CPU, measured no slower than DeepSpeed's own, which takes minutes to compile.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": zero,
        "steps_per_print": 1 << 30,
    }
    if dtype == "bfloat16":
        # Its default, the model's type, rounds the sum of a step's gradients once a micro-batch.
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
