"""Log-probabilities and the clip-higher loss, against hand values, plain autograd and any split of the rows."""

import math

import pytest
import torch

from pgrpo_ray.algo import losses
from pgrpo_ray.algo.losses import head_logprobs, policy_loss, sampled_logprobs, truncated_importance

LOW, HIGH = 0.2, 0.28


def clip_higher_loss(policy, old, advantages, mask, low, high, denominator, **more):
    """The default loss with every token weighing 1 / denominator."""
    weights = torch.full(advantages.shape[:1], 1 / denominator, dtype=policy.dtype)
    return policy_loss(policy, old, advantages, mask, weights, clip_low=low, clip_high=high, **more)


def loss_of(ratios, advantages, mask=None, denominator=1.0, **more):
    """Loss of rows of given ratios against old log-probabilities of zero; returns (loss, sums, leaf)."""
    policy = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    mask = torch.ones_like(policy, dtype=torch.bool) if mask is None else torch.tensor(mask)
    old = torch.zeros_like(policy)
    loss, sums = clip_higher_loss(policy, old, torch.tensor(advantages), mask, LOW, HIGH, denominator, **more)
    return loss, {name: value.item() for name, value in sums.items()}, policy


def test_sampled_logprobs_and_entropy_of_a_known_distribution():
    # Probabilities 1/2, 1/4, 1/4: entropy 1.5 bits = 1.5 ln 2 nats.
    logits = torch.tensor([[[0.5, 0.25, 0.25]] * 2]).log()
    logprobs, entropy = sampled_logprobs(logits, torch.tensor([[0, 2]]), 1.0)
    assert logprobs.tolist()[0] == pytest.approx([-math.log(2), -2 * math.log(2)], abs=1e-6)
    assert entropy.tolist()[0] == pytest.approx([1.5 * math.log(2)] * 2, abs=1e-6)


def test_temperature_divides_the_logits():
    logprobs, _ = sampled_logprobs(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[0]]), 2.0)
    assert logprobs.item() == pytest.approx(-math.log(1 + math.exp(-1)), abs=1e-6)  # softmax of (1, 0)


@pytest.mark.parametrize("chunk", [1, 7, 40, 1 << 24])
def test_chunks_of_any_size_agree_with_plain_autograd(monkeypatch, chunk):
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    whole = torch.randn(3, 7, 11, requires_grad=True)
    logits = whole[:, 1:6]  # not contiguous, as in the learner
    ids, weight = torch.randint(11, (3, 5)), torch.randn(3, 5)
    logprobs, entropy = sampled_logprobs(logits, ids, 0.7)
    (grad,) = torch.autograd.grad((logprobs * weight).sum(), whole)
    reference = torch.log_softmax(logits / 0.7, dim=-1)
    expected = reference.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), whole, retain_graph=True)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropy, -(reference.exp() * reference).sum(-1))
    torch.testing.assert_close(grad, expected_grad)
    assert not entropy.requires_grad


@pytest.mark.parametrize("chunk", [1, 13, 60, 1 << 26])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("biased", [False, True])
def test_a_head_in_chunks_of_any_size_agrees_with_plain_autograd(monkeypatch, chunk, dtype, biased):
    monkeypatch.setattr(losses, "HEAD_CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(size, dtype=dtype, requires_grad=True) for size in ((9, 4), (11, 4), (11,)))
    leaves = [hidden, weight, bias][: 2 + biased]
    ids, scale = torch.randint(11, (9,)), torch.randn(9, dtype=dtype)
    logprobs, entropy = head_logprobs(hidden, weight, bias if biased else None, ids, 0.7)
    grads = torch.autograd.grad((logprobs * scale).sum(), leaves)
    logits = torch.nn.functional.linear(hidden, weight, bias if biased else None)
    reference = torch.log_softmax(logits / 0.7, dim=-1)
    expected = reference.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    expected_grads = torch.autograd.grad((expected * scale).sum(), leaves)
    tight = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-6}
    torch.testing.assert_close(logprobs, expected, **tight)
    torch.testing.assert_close(entropy, -(reference.exp() * reference).sum(-1), **tight)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, **tight)
    assert not entropy.requires_grad


def test_a_bfloat16_head_rounds_its_weights_gradient_once_however_many_chunks(monkeypatch):
    """A sum of rounded chunks would be off by more than the half unit of one rounding."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 16).bfloat16(), torch.randn(40, 16).bfloat16().requires_grad_()
    ids = torch.randint(40, (300,))
    grads = []
    for chunk in (40 * 300, 400):
        monkeypatch.setattr(losses, "HEAD_CHUNK_ELEMENTS", chunk)
        logprobs, _ = head_logprobs(hidden, weight, None, ids, 1.0)
        assert logprobs.dtype == torch.float32
        grads.append(torch.autograd.grad(logprobs.sum(), weight)[0])
    whole, chunked = (grad.float() for grad in grads)
    assert torch.allclose(whole, chunked, rtol=2**-7, atol=1e-3)


def test_a_head_makes_no_logits_of_all_tokens_at_once(monkeypatch):
    """Every tensor that torch makes is looked at: none beyond the chunk but those shaped like the inputs."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return made

    monkeypatch.setattr(losses, "HEAD_CHUNK_ELEMENTS", 1000)
    hidden, weight = torch.randn(100, 4, requires_grad=True), torch.randn(200, 4, requires_grad=True)
    with Largest() as largest:
        logprobs, _ = head_logprobs(hidden, weight, None, torch.zeros(100, dtype=torch.long), 1.0)
        logprobs.sum().backward()
    assert largest.numel == 1000  # of 20,000 logits


def test_a_head_without_tokens_gives_nothing_and_a_gradient_of_zero():
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    logprobs, entropy = head_logprobs(hidden, weight, None, torch.zeros(0, dtype=torch.long), 1.0)
    logprobs.sum().backward()
    assert logprobs.shape == entropy.shape == (0,)
    assert torch.equal(weight.grad, torch.zeros(7, 4)) and hidden.grad.shape == (0, 4)


def test_the_handwritten_gradient_passes_a_numerical_check():
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(5, (2, 3))
    assert torch.autograd.gradcheck(lambda x: sampled_logprobs(x, ids, 1.3)[0], (logits,))


def test_bfloat16_logits_give_float32_values_and_a_bfloat16_gradient():
    logits = torch.randn(2, 3, 50).bfloat16().requires_grad_()
    logprobs, entropy = sampled_logprobs(logits, torch.zeros(2, 3, dtype=torch.long), 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, torch.log_softmax(logits.float(), -1)[..., 0])
    logprobs.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_logits_masked_with_minus_infinity_give_finite_entropy_and_gradient():
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]], requires_grad=True)
    logprobs, entropy = sampled_logprobs(logits, torch.tensor([[0]]), 1.0)
    assert entropy.item() == pytest.approx(math.log(2))
    logprobs.sum().backward()
    assert logits.grad.tolist() == [[[0.5, -0.5, 0.0]]]


def test_no_rows_and_no_tokens_are_allowed():
    for shape in [(0, 4, 5), (2, 0, 5)]:
        logits = torch.zeros(shape, requires_grad=True)
        logprobs, _ = sampled_logprobs(logits, torch.zeros(shape[:2], dtype=torch.long), 1.0)
        logprobs.sum().backward()
        assert logits.grad.shape == shape


def test_the_loss_of_each_side_of_the_clip_by_hand():
    # A = 1: ratios 0.5, 1, 1.2 pass, 1.5 is cut to 1.28. A = -1: 0.5 is cut to 0.8, the others pass.
    loss, sums, policy = loss_of([[0.5, 1.0, 1.2, 1.5], [0.5, 1.0, 1.2, 1.5]], [1.0, -1.0], denominator=8)
    assert loss.item() == pytest.approx((-(0.5 + 1 + 1.2 + 1.28) + (0.8 + 1 + 1.2 + 1.5)) / 8)
    assert (sums["clipped_high"], sums["clipped_low"], sums["tokens"]) == (1, 1, 8)
    loss.backward()
    # d(-A r)/d log r = -A r where not clipped, 0 where clipped.
    expected = torch.tensor([[-0.5, -1.0, -1.2, 0.0], [0.0, 1.0, 1.2, 1.5]], dtype=torch.float64) / 8
    torch.testing.assert_close(policy.grad, expected)


def test_the_range_is_asymmetric():
    _, sums, _ = loss_of([[1.25, 1.27, 1.29]], [1.0])
    assert sums["clipped_high"] == 1
    _, sums, _ = loss_of([[0.81, 0.79, 0.75]], [-1.0])
    assert sums["clipped_low"] == 2


def test_kl_sums_by_hand():
    _, sums, _ = loss_of([[2.0, 0.5]], [1.0])
    assert sums["kl_k3"] == pytest.approx((2 - 1 - math.log(2)) + (0.5 - 1 + math.log(2)))
    assert sums["kl_k1"] == pytest.approx(0.0)
    assert sums["ratio"] == pytest.approx(2.5)


def test_masked_tokens_count_nowhere_even_when_they_hold_nan():
    policy = torch.tensor([[0.0, math.nan, -math.inf]], requires_grad=True)
    old = torch.tensor([[0.0, 1.0, -math.inf]])
    mask = torch.tensor([[True, False, False]])
    loss, sums = clip_higher_loss(policy, old, torch.tensor([2.0]), mask, LOW, HIGH, 1)
    loss.backward()
    assert loss.item() == -2.0
    assert policy.grad.tolist() == [[-2.0, 0.0, 0.0]]
    assert all(math.isfinite(value.item()) for value in sums.values())
    assert (sums["tokens"], sums["ratio"]) == (1, 1)


def test_a_micro_batch_without_tokens_gives_zero_loss_and_zero_gradient():
    policy = torch.randn(1, 4, requires_grad=True)
    mask = torch.zeros(1, 4, dtype=torch.bool)
    loss, sums = clip_higher_loss(policy, torch.zeros(1, 4), torch.ones(1), mask, LOW, HIGH, 5)
    loss.backward()
    assert loss.item() == 0.0
    assert not policy.grad.any()
    assert not any(value.item() for value in sums.values())


def test_an_absurd_ratio_stays_finite():
    policy = torch.tensor([[500.0, -500.0]], requires_grad=True)
    for advantage in (1.0, -1.0):
        loss, _ = clip_higher_loss(
            policy, torch.zeros(1, 2), torch.tensor([advantage]), torch.ones(1, 2, dtype=torch.bool), LOW, HIGH, 1
        )
        (grad,) = torch.autograd.grad(loss, policy)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()


def test_any_split_over_ranks_and_micro_batches_gives_the_loss_gradient_and_sums_of_the_whole():
    torch.manual_seed(2)
    policy = (0.4 * torch.randn(9, 6, dtype=torch.float64)).requires_grad_()
    old, advantages = 0.4 * torch.randn(9, 6, dtype=torch.float64), torch.randn(9)
    mask = torch.rand(9, 6) < 0.7
    total = int(mask.sum())
    whole, whole_sums = clip_higher_loss(policy, old, advantages, mask, LOW, HIGH, total)
    (grad,) = torch.autograd.grad(whole, policy)
    parts = [[0, 4, 8], [], [1], [2, 3, 5, 6, 7]]  # two ranks of two micro-batches, one of them empty
    split_grad, split_loss = torch.zeros_like(grad), 0.0
    split_sums = dict.fromkeys(whole_sums, 0.0)
    for rows in parts:
        loss, sums = clip_higher_loss(policy[rows], old[rows], advantages[rows], mask[rows], LOW, HIGH, total)
        split_grad += torch.autograd.grad(loss, policy)[0]
        split_loss += loss.item()
        split_sums = {name: split_sums[name] + value.item() for name, value in sums.items()}
    assert split_loss == pytest.approx(whole.item(), abs=1e-12)
    torch.testing.assert_close(split_grad, grad)
    assert split_sums == pytest.approx({name: value.item() for name, value in whole_sums.items()})


def test_the_whole_chain_from_logits_to_loss_passes_a_numerical_check():
    torch.manual_seed(3)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    ids, mask = torch.randint(5, (2, 3)), torch.tensor([[True, True, False], [True, True, True]])
    old = sampled_logprobs(logits, ids, 1.0)[0].detach() + 0.3 * torch.randn(2, 3, dtype=torch.float64)

    def chain(x):
        policy, _ = sampled_logprobs(x, ids, 1.0)
        return clip_higher_loss(policy, old, torch.tensor([1.0, -0.5]), mask, LOW, HIGH, 5)[0]

    assert torch.autograd.gradcheck(chain, (logits,))


def test_wrong_shapes_types_and_denominators_are_refused():
    policy, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="alike"):
        clip_higher_loss(policy, policy[:1], torch.ones(2), mask, LOW, HIGH, 1)
    with pytest.raises(ValueError, match=r"must be \[B\]"):
        clip_higher_loss(policy, policy, torch.ones(2, 1), mask, LOW, HIGH, 1)
    with pytest.raises(ValueError, match="must be bool"):
        clip_higher_loss(policy, policy, torch.ones(2), mask.float(), LOW, HIGH, 1)
    with pytest.raises(ValueError, match=r"must be \[B\]"):
        policy_loss(policy, policy, torch.ones(2), mask, torch.ones(3), clip_low=LOW, clip_high=HIGH)
    with pytest.raises(ValueError, match="temperature"):
        sampled_logprobs(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long), 0.0)
    with pytest.raises(ValueError, match="hidden"):
        head_logprobs(torch.zeros(1, 2, 3), torch.zeros(4, 3), None, torch.zeros(1, dtype=torch.long), 1.0)
    with pytest.raises(ValueError, match="temperature"):
        head_logprobs(torch.zeros(1, 3), torch.zeros(4, 3), None, torch.zeros(1, dtype=torch.long), 0.0)
    with pytest.raises(ValueError, match="ids"):
        sampled_logprobs(torch.zeros(1, 1, 2), torch.zeros(1, 2, dtype=torch.long), 1.0)


def test_gspo_has_one_ratio_a_sequence_and_shares_its_gradient_among_the_tokens():
    # Ratios 1/2 and 2 of one sequence: their geometric mean is 1; of the other, 1.5 and 1.5 * 1.5 ** 2: 1.5 ** 2.
    loss, sums, policy = loss_of([[0.5, 2.0], [1.5, 1.5**3]], [1.0, 1.0], denominator=2, surrogate="gspo")
    assert loss.item() == pytest.approx(-(1 + 1 + 1.28 + 1.28) / 2)
    assert sums["clipped_high"] == 2
    # KL is of tokens, not of sequences: r - 1 - log r of 1/2, 2, 3/2 and 27/8, of which the logs add to 4 log 1.5.
    assert sums["kl_k3"] == pytest.approx(0.5 + 2 + 1.5 + 1.5**3 - 4 - 4 * math.log(1.5))
    loss.backward()
    # d(-2 w s)/d log r_t = -w s, for each of the two tokens, where not clipped.
    torch.testing.assert_close(policy.grad, torch.tensor([[-0.5, -0.5], [0.0, 0.0]], dtype=torch.float64))


def test_gspo_takes_the_mean_over_sampled_tokens_alone():
    loss, _, _ = loss_of([[1.21, 1.0, 9.0]], [1.0], mask=[[True, True, False]], surrogate="gspo")
    assert loss.item() == pytest.approx(-2 * 1.1)


def test_cispo_cuts_the_weight_and_keeps_the_gradient():
    # -sg(clip(r)) A log r: weights 1.28 (cut from 2), 0.8 (cut from 1/2), 1.1.
    loss, sums, policy = loss_of([[2.0, 0.5, 1.1]], [1.0], surrogate="cispo")
    assert loss.item() == pytest.approx(-(1.28 * math.log(2) + 0.8 * math.log(0.5) + 1.1 * math.log(1.1)))
    loss.backward()
    torch.testing.assert_close(policy.grad, torch.tensor([[-1.28, -0.8, -1.1]], dtype=torch.float64))
    assert (sums["clipped_high"], sums["clipped_low"]) == (1, 1)  # whatever the advantage's sign


def test_importance_weighs_each_token_and_is_cut():
    old, rollout = torch.tensor([[0.5, 0.2, 0.1]]).log(), torch.tensor([[0.25, 0.4, 0.01]]).log()
    weights = truncated_importance(old, rollout, 2.5)
    assert weights.tolist()[0] == pytest.approx([2.0, 0.5, 2.5])
    policy = torch.zeros(1, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    loss, _ = clip_higher_loss(policy, torch.zeros(1, 3), torch.ones(1), mask, LOW, HIGH, 1, importance=weights)
    loss.backward()
    assert policy.grad.tolist()[0] == pytest.approx([-2.0, -0.5, 0.0])


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    # d = log(policy / reference) = log 2: d, d**2 / 2, 1/2 - 1 + d; slopes 1, d, 1 - 1/2.
    [("k1", math.log(2), 1.0), ("k2", math.log(2) ** 2 / 2, math.log(2)), ("k3", math.log(2) - 0.5, 0.5)],
)
def test_kl_to_the_first_policy_by_hand(estimator, value, slope):
    policy = torch.tensor([[0.5, 0.3]], dtype=torch.float64).log().requires_grad_()
    reference = torch.tensor([[0.25, math.nan]], dtype=torch.float64).log()
    mask = torch.tensor([[True, False]])
    kl = {"reference_logprobs": reference, "kl_weight": 0.1, "kl_estimator": estimator}
    loss, sums = clip_higher_loss(policy, policy.detach(), torch.zeros(1), mask, LOW, HIGH, 2, **kl)
    loss.backward()
    assert loss.item() == pytest.approx(0.1 * value / 2)
    assert sums["kl_reference"].item() == pytest.approx(value)
    assert policy.grad.tolist()[0] == pytest.approx([0.1 * slope / 2, 0.0])
