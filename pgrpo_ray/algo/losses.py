"""Log-probabilities of sampled tokens and the policy-gradient losses, in torch.

Owns the arithmetic on tensors; knows no model, no optimizer and no process group. Shapes: B rollouts, T response
tokens, V vocabulary. Everything a caller reduces over micro-batches and ranks is a sum, so that any split of the rows
gives the loss and the statistics of the whole.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

Surrogate = Literal["clip", "gspo", "cispo"]
"""What is maximised, per token, of ratio r and advantage A.

- `clip`: min(r A, clip(r, 1 - low, 1 + high) A). The asymmetric range is DAPO's clip-higher (arXiv 2503.14476, section
  3.1).
- `gspo`: the same with one ratio for all tokens of a sequence, the geometric mean of theirs (arXiv 2507.18071). With
  aggregation `sequence_mean` it is the paper's; its clip range is then about 3e-4.
- `cispo`: sg(clip(r)) A log(policy): the clip bounds a token's weight and takes no gradient away (MiniMax-M1, arXiv
  2506.13585).
"""

KlEstimator = Literal["k1", "k2", "k3"]
"""KL(policy || reference) per token, of d = log(policy / reference): d, d**2 / 2, exp(-d) - 1 + d (Schulman,
"Approximating KL divergence"). As a loss, the gradient of k2 is the true one on-policy; k3 is GRPO's; that of k1 is
zero in expectation, so it regularises nothing and is there to reproduce runs that used it."""

CHUNK_ELEMENTS = 1 << 24
"""Logits turned to float32 at a time: 64 MiB a temporary. Ours: large enough to keep a GPU busy."""

HEAD_CHUNK_ELEMENTS = 1 << 26
"""Logits made at a time by `head_logprobs`: 256 MiB in float32. Ours: of 152,000 words those of 441 tokens, so
that a product does more work per byte of the head's weights (bfloat16: one flop for each token) than the about 300 that
an H100 can do while it reads one."""

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
            scaled = logits[at].to(dtype, copy=True).div_(temperature)
            logprobs[at], entropy[at], lse[at] = _statistics(scaled, ids[at])
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
    logprobs, entropy = _SampledLogprobs.apply(logits, ids, float(temperature))  # type: ignore[no-untyped-call]  # torch's
    return logprobs, entropy


class _HeadLogprobs(torch.autograd.Function):
    """log softmax((hidden @ weight.T + bias) / temperature) at the sampled ids; logits exist a chunk at a time.

    Forward goes over chunks of tokens. Backward makes logits again, over blocks of the vocabulary: each block of the
    weight's gradient is then one product over all tokens, summed inside it, and not a sum of chunks that bfloat16 would
    round each time. Kept between the two: the inputs, and one float a token.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        dtype = _float_type(hidden)
        logprobs, entropy, lse = (torch.empty(ids.shape, dtype=dtype, device=hidden.device) for _ in range(3))
        for at in _spans(len(ids), len(weight)):
            scaled = _scaled_logits(hidden[at], weight, bias, temperature)
            logprobs[at], entropy[at], lse[at] = _statistics(scaled, ids[at])
        # Under ZeRO-3 the weight is whole here, partitioned when this returns, and whole again in backward: a saved
        # parameter is kept as itself, so what it holds then is what counts.
        ctx.save_for_backward(hidden, weight, bias, ids, lse)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor, _grad_entropy: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        hidden, weight, bias, ids, lse = ctx.saved_tensors
        grad_hidden = torch.zeros(hidden.shape, dtype=lse.dtype, device=hidden.device)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        scale = (grad_logprobs / ctx.temperature).unsqueeze(-1)
        for block in _spans(len(weight), len(ids)):
            words = weight[block]
            part = _scaled_logits(hidden, words, None if bias is None else bias[block], ctx.temperature)
            part.sub_(lse.unsqueeze(-1)).exp_().mul_(-scale)
            place = ids.unsqueeze(-1) - block.start
            inside = (place >= 0) & (place < len(words))
            # Not by selecting the tokens inside: how many they are would have to be asked of the GPU.
            part.scatter_add_(-1, place.clamp(0, len(words) - 1), scale * inside)
            if grad_bias is not None:
                grad_bias[block] = part.sum(dim=0).to(bias.dtype)
            part = part.to(weight.dtype)
            grad_hidden += part @ words
            if grad_weight is not None:
                torch.mm(part.t(), hidden, out=grad_weight[block])
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None


def head_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return (logprobs, entropy), float32 [N] in nats, of a language model's head on N tokens' last hidden states.

    `hidden` [N, H], `weight` [V, H] and `bias` [V] (or None) of one float type, `ids` int64 [N]: what was sampled
    after each. The same as `sampled_logprobs` of the logits, with at most HEAD_CHUNK_ELEMENTS logits in memory at a
    time; they are made twice where there is a gradient. `logprobs` carries gradient to hidden, weight and bias.
    """
    if hidden.ndim != 2 or ids.shape != hidden.shape[:1]:
        raise ValueError(f"hidden must be [N, H] and ids [N], received {tuple(hidden.shape)}, {tuple(ids.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, received {temperature}")
    found = _HeadLogprobs.apply(hidden, weight, bias, ids, float(temperature))  # type: ignore[no-untyped-call]  # torch's
    logprobs, entropy = found
    return logprobs, entropy


def policy_loss(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    token_weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    surrogate: Surrogate = "clip",
    importance: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    kl_weight: float = 0.0,
    kl_estimator: KlEstimator = "k3",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, sums) of a micro-batch: the weighted sum of a surrogate over tokens, plus an optional KL term.

        loss = -sum_t w * c_t * surrogate_t  +  kl_weight * sum_t w * kl_t,   r = exp(policy - old)

    `policy_logprobs`, `old_logprobs`, `importance`, `reference_logprobs` float [B, T]; `advantages`, `token_weights`
    float [B] (see `batching.row_weights`); `loss_mask` bool [B, T]. Masked places may hold anything, NaN included. For
    `surrogate` and `kl_estimator` see `Surrogate` and `KlEstimator`. `importance` is c_t, 1 where None: the engine's
    share of the mismatch (see `truncated_importance`). A micro-batch without a True in `loss_mask` gives 0 with zero
    gradient, so an empty one can take part in ZeRO-3's collectives.

    DeepSpeed averages gradients over ranks: its caller multiplies by the number of ranks.

    `sums` are detached float64 scalars to be summed over micro-batches and ranks: `tokens`; `loss`; `ratio`;
    `clipped_low`, `clipped_high` (tokens whose ratio the clip cut, on the side where it matters); of each token's own
    ratio `kl_k3` (r - 1 - log r, an unbiased estimate of KL(old || policy)) and `kl_k1` (-log r); `kl_reference` (the
    term, unweighted).
    """
    _check_shapes(policy_logprobs, old_logprobs, advantages, loss_mask, token_weights)
    # Selecting before exp, not multiplying after: 0 * NaN from padding would poison loss and gradient.
    zero = policy_logprobs.new_zeros(())
    log_ratio = torch.where(loss_mask, policy_logprobs - old_logprobs.detach(), zero)
    token_log_ratio = log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if surrogate == "gspo":
        lengths = loss_mask.sum(dim=1, keepdim=True).clamp(min=1)
        log_ratio = (log_ratio.sum(dim=1, keepdim=True) / lengths).expand_as(log_ratio)
        log_ratio = torch.where(loss_mask, log_ratio, zero)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    advantage = torch.where(loss_mask, advantages.detach().to(ratio.dtype).unsqueeze(-1), zero)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    if surrogate == "cispo":
        gain = clipped.detach() * advantage * torch.where(loss_mask, policy_logprobs, zero)
    else:
        gain = torch.minimum(ratio * advantage, clipped * advantage)
    if importance is not None:
        gain = gain * torch.where(loss_mask, importance.detach(), zero)
    weights = torch.where(loss_mask, token_weights.to(ratio.dtype).unsqueeze(-1), zero)
    loss = -(weights * gain).sum()
    kl_reference = zero
    if reference_logprobs is not None:
        kl = _kl(torch.where(loss_mask, policy_logprobs - reference_logprobs.detach(), zero), kl_estimator)
        loss = loss + kl_weight * (weights * kl).sum()
        kl_reference = kl.detach().sum(dtype=torch.float64)
    # Tensors, not numbers: `.item()` here would stall the GPU once per micro-batch.
    with torch.no_grad():
        # The min of `clip` and `gspo` clips a side for one sign of A only; the weight of `cispo` is cut on both.
        both = surrogate == "cispo"
        sums = {
            "tokens": loss_mask.sum(),
            "loss": loss.detach(),
            "ratio": (ratio * loss_mask).sum(dtype=torch.float64),
            "clipped_low": ((ratio < 1.0 - clip_low) & ((advantage < 0) | both)).sum(),
            "clipped_high": ((ratio > 1.0 + clip_high) & ((advantage > 0) | both)).sum(),
            "kl_k3": (torch.expm1(token_log_ratio) - token_log_ratio).sum(dtype=torch.float64),
            "kl_k1": -token_log_ratio.sum(dtype=torch.float64),
            "kl_reference": kl_reference,
        }
    return loss, {name: value.to(torch.float64) for name, value in sums.items()}


def truncated_importance(old_logprobs: Tensor, rollout_logprobs: Tensor, cap: float) -> Tensor:
    """Return min(exp(old - rollout), cap), [B, T], without gradient; outside the mask it may hold anything.

    The engine samples from a distribution that is not quite the learner's (kernels, precision). Weighting a token by
    the ratio of the two makes the gradient that of the learner's own samples; the cap bounds its variance (Yao et al.
    2025, "Your efficient RL framework secretly brings you off-policy RL training"; cap 2 there).
    """
    gap = (old_logprobs - rollout_logprobs).detach()
    return gap.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)


def _kl(log_ratio: Tensor, estimator: KlEstimator) -> Tensor:
    """Return the estimate per token; `log_ratio` is log(policy / reference)."""
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    return torch.expm1(-log_ratio) + log_ratio


def _check_shapes(policy: Tensor, old: Tensor, advantages: Tensor, loss_mask: Tensor, token_weights: Tensor) -> None:
    """Raise `ValueError` for shapes and types that would broadcast to something else."""
    if not (policy.shape == old.shape == loss_mask.shape and policy.ndim == 2):
        shapes = [tuple(tensor.shape) for tensor in (policy, old, loss_mask)]
        raise ValueError(f"policy_logprobs, old_logprobs and loss_mask must be [B, T] alike, received {shapes}")
    if not advantages.shape == token_weights.shape == policy.shape[:1]:
        shapes = [tuple(tensor.shape) for tensor in (advantages, token_weights)]
        raise ValueError(f"advantages and token_weights must be [B], received {shapes}")
    if loss_mask.dtype != torch.bool:
        raise ValueError(f"loss_mask must be bool, received {loss_mask.dtype}")


def _float_type(logits: Tensor) -> torch.dtype:
    """Return the type to compute in: float32, or float64 for logits that have it (gradient checks)."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _statistics(scaled: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (logprob at `ids`, entropy, log of the sum of exponentials) of logits [..., V], which it overwrites.

    In place: a second temporary would double the peak. One exponential for all three.
    """
    top = scaled.amax(dim=-1, keepdim=True)
    chosen = scaled.gather(-1, ids.unsqueeze(-1))
    total = scaled.sub_(top).exp_().sum(dim=-1, keepdim=True)
    lse = top + total.log()
    probabilities = scaled.div_(total)
    entropy = torch.special.entr(probabilities, out=probabilities).sum(dim=-1)  # entr(0) = 0: -inf does no harm
    return (chosen - lse).squeeze(-1), entropy, lse.squeeze(-1)


def _scaled_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """Return logits over temperature, float32 [n, v], as a head computes them: rounded to the model's type first."""
    logits = hidden @ weight.t()
    if bias is not None:
        logits += bias
    return logits.to(_float_type(hidden)).div_(temperature)


def _spans(length: int, other: int) -> Iterator[slice]:
    """Yield slices that together cover `length`, each times `other` at most HEAD_CHUNK_ELEMENTS (or one long)."""
    step = max(1, HEAD_CHUNK_ELEMENTS // max(1, other))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


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
