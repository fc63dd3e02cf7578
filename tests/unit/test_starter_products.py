"""Products in bfloat16 while the starter trains: the same gradients up to rounding, and gone afterwards."""

import pytest
import torch

from pgrpo_ray.starter import products


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.SiLU(), torch.nn.Linear(40, 8, bias=False))


def gradients(network):
    x = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
    result = network(x)
    result.square().mean().backward()
    found = [x.grad, *(parameter.grad for parameter in network.parameters())]
    for parameter in network.parameters():
        parameter.grad = None
    return result.detach(), found


@pytest.mark.parametrize("fast", [True, False])
def test_results_and_gradients_are_those_of_float32_up_to_rounding(network, fast, monkeypatch):
    monkeypatch.setattr(products, "fast_in_bfloat16", lambda: fast)
    before, exact = gradients(network)
    with products.fast_products(network):
        during, rounded = gradients(network)
    after, again = gradients(network)
    assert torch.equal(during, before) is not fast
    assert during.dtype == torch.float32
    assert torch.allclose(during, before, atol=0.02)
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()  # bfloat16 keeps 8 bits: 0.4 % a factor
    assert torch.equal(after, before)
    assert all(torch.equal(one, other) for one, other in zip(again, exact, strict=True))


def test_layers_are_themselves_again_after_an_error(network, monkeypatch):
    monkeypatch.setattr(products, "fast_in_bfloat16", lambda: True)
    with pytest.raises(KeyError), products.fast_products(network):
        raise KeyError
    assert "forward" not in vars(network[0])
