"""Matrix products in bfloat16 while the starter trains, on processors that multiply it several times faster.

Owns nothing but the products of linear layers: weights, sums, attention, norms, losses and optimizers stay in float32,
so that a training is the same up to rounding. Measured on one core with AVX-512 BF16 and a policy of 0.9M parameters:
products at 330 instead of 95 billion operations a second, a step in 55 % of the time. (torch's autocast loses half of
that again: its attention on CPU is four times slower in bfloat16; `set_float32_matmul_precision` speeds up forward
passes alone. torch 2.13.0.)
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor


class _Linear(torch.autograd.Function):
    """x @ weight.T + bias, each product of bfloat16 factors with float32 sums."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, matrix = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rows, matrix)
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        result = (rows @ matrix.t()).float()
        if bias is not None:
            result += bias
        return result.view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        rows, matrix = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        factor = grad.bfloat16()
        of_bias = grad.sum(dim=0) if ctx.has_bias else None
        return (factor @ matrix).float().view(ctx.shape), (factor.t() @ rows).float(), of_bias


def fast_in_bfloat16() -> bool:
    """Tell whether this processor has instructions for it; without them it is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@contextlib.contextmanager
def fast_products(network: torch.nn.Module) -> Iterator[None]:
    """Have every linear layer of a float32 network multiply in bfloat16 for the length of the block, where that is
    faster."""
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    if not fast_in_bfloat16():
        layers = []
    for layer in layers:
        layer.forward = partial(_apply, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _apply(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return _Linear.apply(x, layer.weight, layer.bias)
