"""The ZeRO-3 engine itself, on two real ranks with unequal rows, against plain torch on all rows at once."""

import math
import sys

import pytest
import ray
import torch
from tiny_qwen3 import TOKENIZER, tiny_config
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Qwen3ForCausalLM

from pgrpo_ray.actors.roles import LearnerRole
from pgrpo_ray.config import LearnerSection
from pgrpo_ray.learner.gradient_guard import FIRST

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name

TEMPERATURE = 0.7
LAYERS = 2
CHUNK = 320 * 5
"""Logits at a time: five tokens of 320 words, so that the head of rank 0 has two chunks and that of rank 1 nine."""


def rows_of(rank):
    """Ids, attention mask and sampled places of a rank's rows; the last row is shorter than the others."""
    generator = torch.Generator().manual_seed(rank)
    shape = ((2, 7), (4, 21))[rank]
    ids = torch.randint(3, 300, shape, generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    sampled = mask[:, 1:].bool()
    sampled[:, : shape[1] // 3] = False  # the prompt
    return ids, mask, sampled


class Bench:
    """One rank."""

    free_port = LearnerRole.free_port

    def load(self, model, dtype, section, rank, port):
        """Make an engine; a later call makes another one. Collective."""
        from pgrpo_ray.algo import losses
        from pgrpo_ray.learner.zero3 import Rendezvous, Zero3Engine

        losses.HEAD_CHUNK_ELEMENTS = CHUNK
        self.engine = Zero3Engine(model, dtype, section, Rendezvous(rank, 2, "127.0.0.1", port))
        self.rank, self.runs = rank, 0
        for module in self.engine._model.modules():
            if type(module).__name__.endswith("DecoderLayer"):
                module.register_forward_pre_hook(self._count)  # one that is run again is not run to its end
        return self.engine._engine.module.head is not None

    def _count(self, *_):
        self.runs += 1

    def gradients(self):
        """Logprobs and entropy of this rank's rows, the gradient by name, and how often a layer ran."""
        from deepspeed.utils import safe_get_full_grad

        self.runs = 0
        logprobs, entropy = self.engine.logprobs(*rows_of(self.rank), TEMPERATURE)
        self.engine.backward(logprobs.sum())
        grads = {name: safe_get_full_grad(tensor) for name, tensor in self.engine._model.named_parameters()}
        return logprobs.detach(), entropy, grads, self.runs

    def norm(self, scales):
        """Gradient norm of one step that adds up `scales` times the same gradient."""
        for scale in scales:
            logprobs, _ = self.engine.logprobs(*rows_of(self.rank), TEMPERATURE)
            self.engine.backward(logprobs.sum() * scale)
        return self.engine.step()[0]

    def steps(self, scales):
        """Whether each of some steps was taken, and how many were; NaN is met by rank 1 alone, in its second part."""
        taken = []
        for scale in scales:
            for part in range(2):
                logprobs, _ = self.engine.logprobs(*rows_of(self.rank), TEMPERATURE)
                harmless = math.isnan(scale) and (self.rank, part) != (1, 1)
                self.engine.backward(logprobs.sum() * (1.0 if harmless else scale))
            taken.append(self.engine.step().taken)
        return taken, self.engine.num_steps

    def weights(self):
        return {name: tensor.detach().clone() for name, tensor in self.engine.named_weights()}


@pytest.fixture(scope="module")
def ranks():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    make = ray.remote(Bench).options(num_cpus=1, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    both = [make.remote() for _ in range(2)]
    port = ray.get(both[0].free_port.remote(), timeout=120)

    def ask(method, *args):
        return ray.get([getattr(actor, method).remote(*args) for actor in both], timeout=240)

    def load(model, dtype="float32", **section):
        made = LearnerSection(max_grad_norm=1e9).model_copy(update=section)  # unchecked: offload is for GPUs
        return ray.get(
            [actor.load.remote(str(model), dtype, made, rank, port) for rank, actor in enumerate(both)], timeout=240
        )

    yield load, ask
    ray.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of three kinds: a head tied to the embedding, one of its own, and logits that are capped after it."""
    folder = tmp_path_factory.mktemp("models")
    # Dropout shows where a part is in training mode that should not be.
    shape = {"num_hidden_layers": LAYERS, "attention_dropout": 0.5}
    small = tiny_config(**shape)
    capped = {name: getattr(small, name) for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")}
    capped |= {"num_attention_heads": 1, "num_key_value_heads": 1, "final_logit_softcapping": 1.0}
    torch.manual_seed(0)
    made = {
        "tied": Qwen3ForCausalLM(tiny_config(tie_word_embeddings=True, **shape)),
        "untied": Qwen3ForCausalLM(tiny_config(tie_word_embeddings=False, **shape)),
        "capped": Gemma2ForCausalLM(Gemma2Config(**shape, **capped)),
    }
    for name, model in made.items():
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))  # so that logits differ and gradients are not tiny
        model.save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
    return folder


def plain(path):
    """Logprobs and entropy by rank, and the gradient by name, by plain autograd."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    values = []
    for rank in range(2):
        ids, mask, sampled = rows_of(rank)
        table = (model(input_ids=ids, attention_mask=mask).logits[:, :-1] / TEMPERATURE).log_softmax(-1)
        logprobs = table.gather(-1, ids[:, 1:, None])[..., 0] * sampled
        values.append((logprobs, -(table.exp() * table).sum(-1) * sampled))
    sum(logprobs.sum() for logprobs, _ in values).backward()
    return values, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model", ["tied", "untied", "capped"])
@pytest.mark.parametrize("section", [{}, {"activation_checkpointing": True}], ids=["", "recomputed"])
def test_logprobs_and_every_gradient_are_those_of_plain_torch(ranks, models, model, section):
    load, ask = ranks
    assert load(models / model, **section) == [model != "capped"] * 2  # whether body and head run apart
    expected, expected_grads = plain(models / model)
    answers = ask("gradients")
    for (logprobs, entropy, grads, runs), (expected_logprobs, expected_entropy) in zip(answers, expected, strict=True):
        torch.testing.assert_close(logprobs, expected_logprobs.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy, expected_entropy.detach(), rtol=1e-5, atol=1e-5)
        assert grads.keys() == expected_grads.keys()
        for name, grad in grads.items():
            # Engines average gradients over ranks and the loss is scaled up by as much: what is left is the sum.
            torch.testing.assert_close(
                grad, expected_grads[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
        assert runs == LAYERS * (2 if section.get("activation_checkpointing") else 1)


@pytest.mark.parametrize("offload", ["optimizer", "optimizer_and_parameters"])
def test_offloading_changes_nothing_of_a_step(ranks, models, offload):
    """On CPU, where it moves nothing: DeepSpeed takes other paths with our own optimizer, and they agree."""
    load, ask = ranks
    _, grads = plain(models / "untied")
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm().item()
    found = []
    for section in ({}, {"offload": offload, "activation_checkpointing": True}):
        load(models / "untied", learning_rate=1e-3, **section)
        assert ask("norm", [1.0, 0.5]) == pytest.approx([1.5 * norm] * 2, rel=1e-4)
        ask("norm", [1.0])
        found.append(ask("weights")[0])
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, 1e3], ids=["no number", "a spike"])
@pytest.mark.parametrize(
    ("dtype", "section"),
    [("float32", {}), ("bfloat16", {}), ("float32", {"offload": "optimizer"})],
    ids=["float32", "bfloat16", "offloaded"],
)
def test_a_skipped_step_leaves_no_trace(ranks, models, dtype, section, bad):
    """Weights, moments, step count and warm-up: what follows is bit for bit what it is where it never happened."""
    load, ask = ranks
    good, after, found = [1.0] * FIRST, [0.5, 1.0], []
    for scales in ([*good, bad, bad], good):
        load(models / "untied", dtype, learning_rate=1e-4, warmup_steps=2 * FIRST, max_grad_norm=1.0, **section)
        assert ask("steps", scales) == [([True] * FIRST + [False] * (len(scales) - FIRST), FIRST)] * 2
        found.append([ask("weights")[0]])
        assert ask("steps", after) == [([True] * 2, FIRST + 2)] * 2
        found[-1].append(ask("weights")[0])
    (skipped, skipped_after), (clean, clean_after) = found
    for name in clean:
        assert torch.equal(skipped[name], clean[name]), name
        assert torch.equal(skipped_after[name], clean_after[name]), name
    assert any(not torch.equal(clean_after[name], clean[name]) for name in clean)


def test_steps_far_below_what_bfloat16_can_tell_apart_add_up(ranks, models):
    """A weight above 1/64 has bfloat16 neighbours at least 1/8192 away: a step of 1e-5 alone would be rounded off."""
    load, ask = ranks
    rate, steps = 1e-5, 20
    load(models / "untied", "bfloat16", learning_rate=rate)
    before = ask("weights")[0]
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    ask("norm", [1.0])
    first = ask("weights")[0]
    for _ in range(steps - 1):
        ask("norm", [1.0])
    last = ask("weights")[0]
    stuck, moved = [], []
    for name, start in before.items():
        large = start.abs().float().sub(3 / 128).abs() < 1 / 128  # in [1/64, 1/32]: neighbours exactly 1/8192 away
        stuck.append((first[name] == start)[large])
        moved.append((last[name].float() - start.float())[large].abs())
    assert torch.cat(stuck).float().mean() > 0.99
    moved = torch.cat(moved)
    # Adam moves a weight whose gradient keeps its sign by the rate a step: 20e-5 in all, 1.6 neighbours.
    assert (moved > 0).float().mean() > 0.5
    assert moved.max() <= rate * steps + 1 / 8192


def test_gradients_of_many_micro_batches_are_summed_in_float32(ranks, models):
    """64 parts of 1/512 each beside a whole one: in bfloat16 every one of them would be rounded off."""
    load, ask = ranks
    load(models / "untied", "bfloat16", learning_rate=1e-9)
    whole, summed = ask("norm", [1.0])[0], ask("norm", [1.0] + [1 / 512] * 64)[0]
    assert summed / whole == pytest.approx(1.125, rel=0.01)
