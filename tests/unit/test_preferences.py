"""Losses of the reward model by hand, and how rows become passes."""

import math

import numpy as np
import pytest
import torch

from pgrpo_ray.algo.preferences import (
    Objective,
    TokenTable,
    TrainingRows,
    cut_passes,
    pair_losses,
    rate_frac,
    score_losses,
)


def log_sigmoid(value):
    return -math.log(1 + math.exp(-value))


def test_bradley_terry_loss_equals_the_formula():
    losses = pair_losses(torch.tensor([2.0, 0.0, -1.0]), torch.tensor([1.0, 0.0, 2.0]))
    assert losses.tolist() == pytest.approx([-log_sigmoid(1.0), math.log(2), -log_sigmoid(-3.0)], abs=1e-6)


def test_margin_smoothing_and_centring_by_hand():
    better, worse = torch.tensor([2.0, -0.5]), torch.tensor([1.0, 1.0])
    margin = pair_losses(better, worse, margin=0.5).tolist()
    assert margin == pytest.approx([-log_sigmoid(0.5), -log_sigmoid(-2.0)], abs=1e-6)
    smooth = pair_losses(better, worse, label_smoothing=0.1).tolist()
    assert smooth == pytest.approx(
        [-0.9 * log_sigmoid(1.0) - 0.1 * log_sigmoid(-1.0), -0.9 * log_sigmoid(-1.5) - 0.1 * log_sigmoid(1.5)], abs=1e-6
    )
    centred = pair_losses(better, worse, centering=0.01).tolist()
    assert centred == pytest.approx([-log_sigmoid(1.0) + 0.01 * 9.0, -log_sigmoid(-1.5) + 0.01 * 0.25], abs=1e-6)


def test_centring_alone_pulls_the_level_and_leaves_the_difference():
    better, worse = torch.tensor([5.0], requires_grad=True), torch.tensor([4.0], requires_grad=True)
    (pair_losses(better, worse, centering=1.0) - pair_losses(better, worse)).sum().backward()
    assert better.grad.item() == worse.grad.item() == pytest.approx(2 * 9.0)


def test_score_loss_equals_the_formula():
    losses = score_losses(torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.5]))
    assert losses.tolist() == pytest.approx([0.25, 0.0625], abs=1e-6)


def test_an_objective_reads_better_then_worse_or_one_score():
    scores, none = torch.tensor([[2.0], [1.0]]), torch.zeros(1)
    assert Objective().losses(scores, none).item() == pytest.approx(-log_sigmoid(1.0), abs=1e-6)
    whole = Objective("bradley_terry", margin=0.5, label_smoothing=0.2, centering=0.1)
    by_hand = -0.8 * log_sigmoid(0.5) - 0.2 * log_sigmoid(-0.5) + 0.1 * 9
    assert whole.losses(scores, none).item() == pytest.approx(by_hand, abs=1e-6)
    assert Objective("score").losses(torch.zeros(1, 2), torch.tensor([0.5, 1.0])).tolist() == [0.0, 0.25]


def test_the_rate_rises_to_one_and_falls_to_zero():
    assert [rate_frac(step, 8, 4) for step in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rate_frac(0, 1, 0) == 1.0


def test_rows_come_back_padded_better_sides_first():
    table = TokenTable.of([[1, 2, 3], [4], [5], [6, 7]])
    rows = TrainingRows(table, 2, np.zeros(2, np.float32))
    assert rows.lengths.tolist() == [3, 2]
    ids, mask, targets = rows.padded(np.array([1, 0]), pad_id=9)
    assert ids.tolist() == [[5, 9, 9], [1, 2, 3], [6, 7, 9], [4, 9, 9]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert targets.tolist() == [0.0, 0.0]
    assert ids.dtype == mask.dtype == torch.int64
    assert table.padded(np.array([3]), 0)[0].tolist() == [[6, 7]]


def test_passes_hold_their_tokens_and_every_row_once_and_ranks_the_same_number():
    lengths = np.array([5, 40, 7, 20, 20, 6, 9])
    passes = cut_passes(range(7), lengths, sides=2, num_ranks=2, max_tokens=40)
    # By length: 0 (5), 5 (6), 2 (7), 6 (9), 3 (20), 4 (20), 1 (40); dealt out in turn. Two rows of 20 with two sides
    # each would be 80 tokens; the row of 40 goes alone, over the bound as it must.
    assert [[rows.tolist() for rows in rank] for rank in passes] == [[[0, 2], [3], [1]], [[5, 6], [4], []]]
    assert cut_passes([3], lengths, 1, 2, 40)[1][0].tolist() == []
    # Both sides count: two rows of ten fill 40 tokens, four rows of one side do.
    tens = np.full(5, 10)
    assert [rows.tolist() for rows in cut_passes(range(5), tens, 2, 1, 40)[0]] == [[0, 1], [2, 3], [4]]
    assert [rows.tolist() for rows in cut_passes(range(5), tens, 1, 1, 40)[0]] == [[0, 1, 2, 3], [4]]
