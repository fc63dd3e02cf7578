"""Log-probabilities of sampled tokens and the clipped policy-gradient loss, in torch.

Owns the arithmetic on tensors; knows no model, no optimizer and no process group. Shapes: B rollouts, T response
tokens, V vocabulary. Everything a caller reduces over micro-batches and ranks is a sum, so that any split of the rows
gives the loss and the statistics of the whole.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits turned to float32 at a time: 64 MiB a temporary. Ours: large enough to keep a GPU busy."""

MAX_LOG_RATIO = 20.0
"""Bound on |log ratio|: exp of more overflows float32 and one absurd token would turn the step into NaN. verl clamps at
the same value; ratios that far out are clipped anyway, or carry a gradient that nobody wants."""


class _SampledLogprobs(torch.autograd.Function):
    """log softmax(logits / temperature) at the sampled ids, in chunks.

    Plain autograd would keep float32 copies of all logits ([B, T, V], often the largest tensor of the step) for the
    backward pass. This keeps the logits as they came plus [B, T] floats, and recomputes the softmax chunk by chunk.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        dtype = _float_type(logits)
        logprobs, entropy, lse = (torch.empty(ids.shape, dtype=dtype, device=logits.device) for _ in range(3))
        for at in _chunks(logits.shape):
            scaled = logits[at].to(dtype) / temperature
            lse[at] = torch.logsumexp(scaled, dim=-1)
            logprobs[at] = scaled.gather(-1, ids[at].unsqueeze(-1)).squeeze(-1) - lse[at]
            # In place: the scaled logits are needed no more, and a second temporary would double the peak.
            probabilities = scaled.sub_(lse[at].unsqueeze(-1)).exp_()
            entropy[at] = torch.special.entr(probabilities).sum(dim=-1)  # entr(0) = 0: masked tokens do no harm
        ctx.save_for_backward(logits, ids, lse)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _grad_entropy: Tensor) -> tuple[Tensor, None, None]:
        logits, ids, lse = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for at in _chunks(logits.shape):
            weight = (grad_logprobs[at] / ctx.temperature).unsqueeze(-1)
            probabilities = (logits[at].to(lse.dtype) / ctx.temperature).sub_(lse[at].unsqueeze(-1)).exp_()
            # d logprob / d logits = (onehot - softmax) / temperature
            part = probabilities.mul_(-weight)
            part.scatter_add_(-1, ids[at].unsqueeze(-1), weight)
            grad[at] = part.to(grad.dtype)
        return grad, None, None


def sampled_logprobs(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return (logprobs, entropy), float32 [B, T] in nats, of softmax(logits / temperature).

    `logits` [B, T, V] of any float type (float64 stays float64), the row at t predicting `ids[:, t]`, int64 [B, T];
    padding holds any valid id and is masked later. Divide by the temperature that the engine sampled with, or the ratio
    starts away from 1. `logprobs` carries gradient; `entropy` is exact, over the whole vocabulary, and carries none.
    """
    if logits.ndim != 3 or ids.shape != logits.shape[:2]:
        raise ValueError(f"logits must be [B, T, V] and ids [B, T], received {tuple(logits.shape)}, {tuple(ids.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, received {temperature}")
    return _SampledLogprobs.apply(logits, ids, float(temperature))


def clip_higher_loss(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    clip_low: float,
    clip_high: float,
    denominator: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, sums) of a micro-batch: token-level clipped surrogate, no KL and no entropy term.

        loss = -sum_t min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) / denominator,   r = exp(policy - old)

    The asymmetric range is DAPO's clip-higher (arXiv 2503.14476, section 3.1), as is the mean over tokens instead of
    rollouts (section 3.3). `policy_logprobs`, `old_logprobs` float [B, T]; `advantages` float [B]; `loss_mask` bool
    [B, T]. Masked places may hold anything, NaN included.

    `denominator` is the number of response tokens of the whole mini-batch, all ranks together, so that the losses of
    all micro-batches on all ranks add up to the loss of the whole. DeepSpeed averages gradients over ranks: its caller
    multiplies by the number of ranks. A micro-batch without a True in `loss_mask` gives 0 with zero gradient, so an
    empty one can take part in ZeRO-3's collectives.

    `sums` are detached float64 scalars to be summed over micro-batches and ranks, then divided by `tokens`:
    `tokens`; `surrogate` (the loss times denominator); `ratio`; `clipped_low`, `clipped_high` (tokens whose gradient
    the clip took away); `kl_k3` (r - 1 - log r, an unbiased estimate of KL(old || policy): Schulman, "Approximating KL
    divergence"); `kl_k1` (-log r).
    """
    if not (policy_logprobs.shape == old_logprobs.shape == loss_mask.shape and policy_logprobs.ndim == 2):
        shapes = [tuple(tensor.shape) for tensor in (policy_logprobs, old_logprobs, loss_mask)]
        raise ValueError(f"policy_logprobs, old_logprobs and loss_mask must be [B, T] alike, received {shapes}")
    if advantages.shape != policy_logprobs.shape[:1]:
        raise ValueError(f"advantages must be [B], received {tuple(advantages.shape)}")
    if loss_mask.dtype != torch.bool:
        raise ValueError(f"loss_mask must be bool, received {loss_mask.dtype}")
    if not denominator > 0:
        raise ValueError(f"denominator must be above 0, received {denominator}: leave such a mini-batch out")
    # Selecting before exp, not multiplying after: 0 * NaN from padding would poison loss and gradient.
    zero = policy_logprobs.new_zeros(())
    log_ratio = torch.where(loss_mask, policy_logprobs - old_logprobs.detach(), zero)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    advantage = torch.where(loss_mask, advantages.detach().to(ratio.dtype).unsqueeze(-1), zero)
    unclipped = ratio * advantage
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage
    surrogate = -torch.minimum(unclipped, clipped).sum()
    # Tensors, not numbers: `.item()` here would stall the GPU once per micro-batch.
    with torch.no_grad():
        sums = {
            "tokens": loss_mask.sum(),
            "surrogate": surrogate.detach(),
            "ratio": (ratio * loss_mask).sum(dtype=torch.float64),
            "clipped_low": ((ratio < 1.0 - clip_low) & (advantage < 0)).sum(),
            "clipped_high": ((ratio > 1.0 + clip_high) & (advantage > 0)).sum(),
            "kl_k3": (torch.expm1(log_ratio) - log_ratio).sum(dtype=torch.float64),
            "kl_k1": -log_ratio.sum(dtype=torch.float64),
        }
    return surrogate / denominator, {name: value.to(torch.float64) for name, value in sums.items()}


def _float_type(logits: Tensor) -> torch.dtype:
    """Return the type to compute in: float32, or float64 for logits that have it (gradient checks)."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _chunks(shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Yield slices of [B, T] that together cover it, each of at most CHUNK_ELEMENTS logits (or one token).

    Slices, not a flattened view: `logits[:, a:b]` is not contiguous, and flattening would copy all of it.
    """
    rows, tokens, vocabulary = shape
    if not rows or not tokens:
        return
    token_step = min(tokens, max(1, CHUNK_ELEMENTS // vocabulary))
    row_step = max(1, CHUNK_ELEMENTS // (vocabulary * token_step))
    for row in range(0, rows, row_step):
        for token in range(0, tokens, token_step):
            yield slice(row, row + row_step), slice(token, token + token_step)
