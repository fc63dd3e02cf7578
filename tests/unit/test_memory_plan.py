"""Memory arithmetic. Golden numbers are worked out by hand for Qwen2.5-7B's shape; activations also by torch."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pgrpo_ray.config import parse
from pgrpo_ray.config.memory import (
    GIB,
    HEAD_CHUNK,
    ModelShape,
    activation_gib,
    colocated,
    head_gib,
    kv_bytes_per_token,
    lacking,
    layer_activation_bytes,
    learner_plan,
    reward_plan,
    rollout_plan,
)

PARAMETERS = 7_615_616_512
"""Embedding and head 2 x 152064 x 3584; a layer 3584 x (3584 + 512 + 512) with their 4608 biases, 3584 x 3584,
3 x 3584 x 18944 and two norms of 3584; 28 of them; a last norm."""
SHAPE = ModelShape(PARAMETERS, 3584, 18944, 28, 28, 4, 128, 152064)
QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


def run(**sections):
    """Return a GPU run's config with changed sections."""
    tree = {
        "policy": {"model": "a/model"},
        "reward_model": {"model": "a/reward", "dtype": "bfloat16", "gpus": 1},
        "data": {"max_prompt_tokens": 1024},
        "rollout": {"gpus_per_worker": 1, "max_response_tokens": 4096},
        "learner": {"num_ranks": 4, "gpus_per_rank": 1, "micro_batch_tokens": 5120},
    }
    return parse({name: tree.get(name, {}) | sections.get(name, {}) for name in {*tree, *sections}})


def parts(plan):
    return {part.name: part.gib for part in plan.parts}


def test_the_hand_count_of_parameters_is_right():
    layer = 3584 * 4608 + 4608 + 3584**2 + 3 * 3584 * 18944 + 2 * 3584
    assert 2 * 152064 * 3584 + 28 * layer + 3584 == PARAMETERS


def test_the_kv_cache_of_a_token_is_56_kib():
    assert kv_bytes_per_token(SHAPE, "bfloat16") == 2 * 28 * 4 * 128 * 2 == 57344
    assert kv_bytes_per_token(SHAPE, "float32") == 2 * 57344


def test_activations_by_hand():
    # Norms 2 x 6 x 3584 = 43008; 2 x (2 x 3584 + 5 x 3584 + 2 x 512 + 4 x 18944) = 203776.
    assert layer_activation_bytes(SHAPE, "bfloat16") == 43008 + 203776 == 246784
    assert activation_gib(SHAPE, "bfloat16", 5120, checkpointing=False) == 5120 * 28 * 246784 / GIB
    assert activation_gib(SHAPE, "bfloat16", 5120, checkpointing=True) == 5120 * (28 * 7168 + 246784) / GIB


def test_the_head_by_hand():
    # 6 x 2**26 bytes of logits; 152064 x 3584 bfloat16 gradients; 2 + 4 + 2 bytes for 5120 x 3584 hidden values.
    assert head_gib(SHAPE, "bfloat16", 5120) == pytest.approx(0.375 + (2 * 152064 * 3584 + 8 * 5120 * 3584) / GIB)
    assert head_gib(SHAPE, "bfloat16", 5120) < 0.4 * 3 * 2 * 5120 * 152064 / GIB  # of logits and gradients in whole


def test_a_learner_rank_holds_eighteen_bytes_of_its_share():
    plan = learner_plan(run(), SHAPE)
    assert plan.exact_gib == pytest.approx(18 * PARAMETERS / 4 / GIB)
    held = parts(plan)
    assert held["weights"] == pytest.approx(2 * PARAMETERS / 4 / GIB)
    assert held["gradients"] == pytest.approx(4 * PARAMETERS / 4 / GIB)
    assert held["Adam moments, float32 copy"] == pytest.approx(12 * PARAMETERS / 4 / GIB)
    assert held["gathered weights, gradient bucket"] == pytest.approx(1.5e9 * 2 / GIB)
    # 31.92 exact, 32.95 activations, 1.53 head, 2.79 gathered, 2.0 libraries.
    assert plan.total_gib == pytest.approx(71.19, abs=0.01)
    with_reference = learner_plan(run(algo={"kl_weight": 0.01}), SHAPE)
    assert with_reference.exact_gib == pytest.approx(20 * PARAMETERS / 4 / GIB)
    single = learner_plan(run(policy={"model": "m", "dtype": "float32"}), SHAPE)
    assert single.exact_gib == pytest.approx(16 * PARAMETERS / 4 / GIB)


def test_checkpointing_takes_the_activations_and_offloading_what_is_not_needed_in_a_pass():
    whole, recomputed = (learner_plan(run(learner={"activation_checkpointing": on}), SHAPE) for on in (False, True))
    # 5120 x (28 x 7168 + 246784) bytes instead of 5120 x 28 x 246784.
    assert whole.total_gib - recomputed.total_gib == pytest.approx(32.95 - 2.13, abs=0.01)
    assert "2.1 GiB with learner.activation_checkpointing=true" in whole.notes[0] and not recomputed.notes
    optimizer = learner_plan(run(learner={"offload": "optimizer"}), SHAPE)
    assert optimizer.exact_gib == pytest.approx(2 * PARAMETERS / 4 / GIB)
    assert optimizer.notes[0].startswith("28.4 GiB of each are in its host's memory")
    everything = learner_plan(run(learner={"offload": "optimizer_and_parameters"}, algo={"kl_weight": 0.1}), SHAPE)
    assert everything.exact_gib == 0
    assert everything.total_gib == pytest.approx(32.95 + 1.53 + 2.79 + 2, abs=0.01)


def test_the_optimizer_step_counts_where_it_is_the_higher_peak():
    small = replace(SHAPE, layers=1, intermediate=64, hidden=64, heads=1, head_size=64, vocabulary=100)
    plan = learner_plan(run(learner={"num_ranks": 1}), small)
    assert parts(plan)["float32 gradient of a sub-group"] == pytest.approx(4e9 / GIB)
    assert "activations" not in parts(plan)


def test_an_engine_takes_what_is_left_or_what_is_set():
    plan = rollout_plan(run(), SHAPE, 80)
    assert parts(plan)["weights"] == pytest.approx(2 * PARAMETERS / GIB)
    assert plan.total_gib == pytest.approx(0.92 * 80)
    fixed = rollout_plan(run(rollout={"kv_cache_mib": 10240}), SHAPE, 80)
    assert parts(fixed)["KV cache"] == 10
    # A full sequence is 5120 x 56 KiB = 280 MiB: 10 GiB hold 36.6 of them, 128 would fill 35 GiB.
    assert "holds 36 sequences" in fixed.notes[0] and "35.0 GiB, so vLLM lets some wait" in fixed.notes[0]


@pytest.mark.parametrize(("transport", "buffers"), [("nccl", 2), ("ipc", 1)])
def test_a_transfer_between_gpus_holds_buffers_of_the_largest_parameter(transport, buffers):
    cluster = {"colocate": transport == "ipc"}
    rollout = {"kv_cache_mib": 10240}
    store, gpu = (
        parts(rollout_plan(run(rollout=rollout, cluster=cluster, sync={"transport": one}), SHAPE, 80))
        for one in ("object_store", transport)
    )
    largest = 2 * SHAPE.vocabulary * SHAPE.hidden
    arrives = "sampling, weights that arrive"
    assert gpu[arrives] - store[arrives] == pytest.approx((buffers * largest - (64 << 20)) / GIB)


def test_the_reward_server_by_hand():
    section = {"batch_size": 8, "max_length_tokens": 5120}
    plan = reward_plan(run(reward_model=section), SHAPE)
    assert parts(plan)["forward pass"] == pytest.approx(2 * 8 * 5120 * 246784 / GIB)


def test_a_shared_gpu_holds_what_both_hold():
    config = run(rollout={"kv_cache_mib": 10240}, cluster={"colocate": True})
    pair = learner_plan(config, SHAPE), rollout_plan(config, SHAPE, 80)
    both = colocated(*pair)
    assert both.total_gib == pytest.approx(sum(plan.total_gib for plan in pair))
    assert (both.processes, both.gpus) == (4, 1)
    (finding,) = lacking([both], 80)[1]  # 71 and 27 GiB each fit alone
    assert "learner rank with its rollout worker takes about" in finding
    assert "learner.activation_checkpointing=true" in finding


@pytest.mark.parametrize(
    ("changes", "gpu_gib", "cannot", "may_not"),
    [
        ({}, 80, [], []),
        ({"learner": {"num_ranks": 1}}, 80, ["learner.num_ranks"], []),
        ({"learner": {"num_ranks": 1, "offload": "optimizer"}}, 80, [], []),
        ({"learner": {"micro_batch_tokens": 8192}}, 80, [], ["learner.activation_checkpointing=true"]),
        ({"learner": {"micro_batch_tokens": 8192, "activation_checkpointing": True}}, 80, [], []),
        (
            {"learner": {"micro_batch_tokens": 131072, "activation_checkpointing": True}},
            80,
            [],
            ["lower learner.micro_batch_tokens"],
        ),
        ({"rollout": {"kv_cache_mib": 80 * 1024}}, 80, ["rollout.kv_cache_mib"], []),
        ({"reward_model": {"gpus": 0.25, "dtype": "float32"}}, 80, ["reward_model.dtype"], []),
        ({"reward_model": {"batch_size": 128}}, 80, [], ["reward_model.batch_size"]),
        ({}, 12, ["learner.num_ranks", "policy.dtype", "reward_model.dtype"], []),
        ({name: {key: 0} for name, key in (("learner", "gpus_per_rank"), ("rollout", "gpus_per_worker"))}, 80, [], []),
    ],
)
def test_what_does_not_fit_is_said_with_the_key(changes, gpu_gib, cannot, may_not):
    config = run(**changes)
    plans = [learner_plan(config, SHAPE), rollout_plan(config, SHAPE, gpu_gib), reward_plan(config, SHAPE)]
    for findings, keys in zip(lacking(plans, gpu_gib), (cannot, may_not), strict=True):
        assert len(findings) == len(keys), findings
        for finding, key in zip(findings, keys, strict=True):
            assert key in finding


def test_the_chunk_of_logits_is_the_learners():
    from pgrpo_ray.algo.losses import HEAD_CHUNK_ELEMENTS

    assert HEAD_CHUNK == HEAD_CHUNK_ELEMENTS


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_activations_are_what_torch_saves(dtype, one_thread):
    """The independent reference: what autograd keeps of two more layers of transformers' Qwen2."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokens = 128

    def saved_bytes(layers):
        config = Qwen2Config(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            vocab_size=64,
            use_cache=False,
        )
        model = Qwen2ForCausalLM(config).to(getattr(torch, dtype))
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address comes twice
            return tensor

        mask = torch.ones(1, tokens, dtype=torch.long)
        mask[:, -8:] = 0  # padding, as in a micro-batch: without a mask the heads would share keys and values
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(input_ids=torch.zeros(1, tokens, dtype=torch.long), attention_mask=mask)
        return sum(size for size, _ in kept.values())

    per_layer = (saved_bytes(3) - saved_bytes(1)) / 2 / tokens
    shape = ModelShape(0, 128, 512, 3, 8, 2, 16, 64)
    assert layer_activation_bytes(shape, dtype) == pytest.approx(per_layer, rel=0.05)


@pytest.fixture
def qwen_folders(tmp_path):
    """A policy's and a reward model's folder with the real sizes in `config.json` and no weights."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b")))
    labels = {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}, "pad_token_id": 0}
    reward = {"architectures": ["Qwen2ForSequenceClassification"], **labels}
    for name, changes in (("policy", {}), ("reward", reward)):
        folder = tmp_path / name
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(QWEN | changes))
        (folder / "model.safetensors").write_bytes(b"")
    return tmp_path / "policy", tmp_path / "reward"


def test_check_plans_a_real_model_on_a_machine_without_gpus(qwen_folders):
    policy, reward = qwen_folders
    config = Path(__file__).parents[2] / "cluster" / "qwen2.5-coder-7b-8gpu.yaml"
    command = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", "check", str(config)]
    command += ["--set", f"policy.model={policy}", "--set", f"reward_model.model={reward}"]
    done = subprocess.run([*command, "--gpu-gib", "16"], capture_output=True, text=True, timeout=120)
    assert "learner rank (x 5, 1 GPU)" in done.stdout
    assert done.returncode == 2 and "raise learner.num_ranks" in done.stderr
