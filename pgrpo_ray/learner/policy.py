"""A causal language model as the learner asks it: log-probabilities of sampled tokens, and logits of nothing else.

Owns: running body and head apart, so that the head sees only hidden states whose next token was sampled, and makes its
logits in chunks (`algo.losses.head_logprobs`); recomputation of layers in the backward pass. Does not own: partitioning
(`zero3`), the loss.

Invariant under ZeRO-3, which gathers weights by collectives when a module is called: whatever a rank's rows, a pass
calls the same modules in the same order, the head among them exactly once. The chunks, whose number differs between
ranks, lie inside that one call.
"""

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel

from pgrpo_ray.algo.losses import head_logprobs, sampled_logprobs
from pgrpo_ray.errors import ModelError


class SampledHead(torch.nn.Module):
    """The head's own parameters under another module, whose one call covers all chunks.

    DeepSpeed keeps the parameters of a module whole while it runs, forward and backward: here from the first chunk to
    the last. They are the same objects as the head's, and with tied weights the embedding's.
    """

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden: Tensor, ids: Tensor, temperature: float) -> Tensor:
        """Return logprobs and entropy, float32 [2, N] in nats; the second row carries no gradient."""
        # One tensor: DeepSpeed counts on a gradient for every output, and entropy never gets one.
        return torch.stack(head_logprobs(hidden, self.weight, self.bias, ids, temperature))


class SampledPolicy(torch.nn.Module):
    """The model in whole, and its body with a `SampledHead`."""

    def __init__(self, causal: PreTrainedModel):
        super().__init__()
        self.causal: PreTrainedModel = causal
        linear = causal.get_output_embeddings()
        self.head: SampledHead | None = SampledHead(linear) if isinstance(linear, torch.nn.Linear) else None
        """None: the logits of all tokens are made, by the model itself."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, sampled: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Return logprobs and entropy, [2, N], of the N tokens after the places where `sampled` [B, T-1] is True.

        Without `sampled`, return a scalar that is True where body and head make the model's own logits to the last bit.
        """
        if sampled is None:
            return self._same_logits(input_ids, attention_mask)
        ids = input_ids[:, 1:]
        if self.head is None:
            logits = self.causal(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
            return torch.stack([values[sampled] for values in sampled_logprobs(logits, ids, temperature)])
        hidden = self._hidden(input_ids, attention_mask)
        return self.head(hidden[:, :-1][sampled], ids[sampled], temperature)

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states, [B, T, H]."""
        return self.causal.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def _same_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Some models do more after the head, such as a soft cap: what they do cannot be asked, but shows here."""
        if self.head is None or self.causal.base_model is self.causal:
            return torch.tensor(False)
        apart = self.causal.get_output_embeddings()(self._hidden(input_ids, attention_mask))
        whole = self.causal(input_ids=input_ids, attention_mask=attention_mask).logits
        return torch.tensor(torch.equal(apart.to(whole.dtype), whole))


def recompute_layers(model: PreTrainedModel, name: str) -> None:
    """Let `model` keep only each layer's input for the backward pass and run the layer again there.

    Raises `ModelError` where transformers cannot do that for this model; `name` is what to call it.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        raise ModelError(
            f"{name!r} ({type(model).__name__}) has no layers that transformers can recompute. Set "
            "learner.activation_checkpointing=false and lower learner.micro_batch_tokens."
        )
    # torch stops a layer's recomputation at the last tensor that is wanted, and must: run to its end, DeepSpeed would
    # partition weights again that the backward pass is about to use.
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        # Layers recompute in training mode alone. Theirs only: what lies inside them stays without dropout, which would
        # make the policy another one than the engine's.
        layer.training = True
