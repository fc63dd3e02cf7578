"""What DeepSpeed is told, and what a config may ask of it."""

import pytest

from pgrpo_ray.config import LearnerSection, parse
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.learner.deepspeed_settings import engine_settings

HOST = {"device": "cpu", "pin_memory": True}


@pytest.mark.parametrize(
    ("offload", "optimizer", "parameters"),
    [("none", None, None), ("optimizer", HOST, None), ("optimizer_and_parameters", HOST, HOST)],
)
def test_offload_becomes_deepspeeds_own(offload, optimizer, parameters):
    settings = engine_settings("bfloat16", LearnerSection(gpus_per_rank=1, offload=offload))
    zero = settings["zero_optimization"]
    assert (zero.get("offload_optimizer"), zero.get("offload_param")) == (optimizer, parameters)
    assert settings["zero_force_ds_cpu_optimizer"] is False  # else DeepSpeed refuses torch's AdamW on the host


def test_a_frozen_model_has_no_optimizer_to_offload():
    zero = engine_settings("float32", LearnerSection(offload="optimizer_and_parameters"), frozen=True)
    assert "offload_optimizer" not in zero["zero_optimization"]
    assert zero["zero_optimization"]["offload_param"] == HOST


@pytest.mark.parametrize(("dtype", "summed"), [("bfloat16", "fp32"), ("float32", None)])
def test_bfloat16_gradients_are_summed_in_float32(dtype, summed):
    settings = engine_settings(dtype, LearnerSection())
    assert settings["bf16"] == {"enabled": dtype == "bfloat16"}
    assert settings.get("data_types", {}).get("grad_accum_dtype") == summed


def test_offload_from_a_cpu_is_refused():
    config = parse({"learner": {"offload": "optimizer"}})
    with pytest.raises(ConfigError, match="gpus_per_rank is 0") as caught:
        config.check()
    assert caught.value.path == "learner.offload"
    parse({"learner": {"offload": "optimizer", "gpus_per_rank": 1}}).check()
