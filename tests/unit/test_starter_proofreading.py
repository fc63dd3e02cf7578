"""What the starter's reward model learns from: labels where a text goes wrong, pairs that no shortcut orders."""

import random
from collections import Counter

import pytest
import torch
from transformers import Qwen2ForSequenceClassification

from pgrpo_ray.reward_model.model import RewardModel
from pgrpo_ray.reward_model.od.shortcuts import examine
from pgrpo_ray.starter import proofreading
from pgrpo_ray.starter.demonstrations import demonstrate
from pgrpo_ray.starter.pairs import make_pairs, plant
from pgrpo_ray.starter.policy import tiny_config
from pgrpo_ray.starter.problems import generate
from pgrpo_ray.starter.tokenizer import train_tokenizer

EXERCISES = generate(7, 600)
PAIRS = make_pairs(EXERCISES, 3000, 0)
STYLES = {"unworked", "names_only", "vague", "redundant"}


@pytest.fixture(scope="module")
def model():
    """A network of two layers with random weights."""
    rng = random.Random(0)
    tokenizer = train_tokenizer([one.prompt + demonstrate(one, "careful", rng) for one in EXERCISES[:200]])
    torch.manual_seed(0)
    config = tiny_config(tokenizer, num_layers=2)
    config.num_labels = 1
    return RewardModel(Qwen2ForSequenceClassification(config), tokenizer)


def test_most_pairs_have_a_planted_mistake_of_every_kind():
    kinds = Counter(pair.kind for pair in PAIRS)
    planted = {kind: count for kind, count in kinds.items() if kind not in STYLES}
    assert set(planted) == {
        "wrong_constant",
        "wrong_operation",
        "wrong_order",
        "dropped_step",
        "added_step",
        "careful_but_wrong",
    }
    assert sum(planted.values()) / len(PAIRS) > 0.6
    assert min(kinds.values()) > 60


def test_a_planted_mistake_fails_its_exercise():
    rng = random.Random(1)
    seen = Counter()
    for exercise in EXERCISES:
        planted = plant(exercise, rng)
        if planted:
            kind, plan = planted
            seen[kind] += 1
            assert not exercise.solved_by(plan.steps, plan.reduction)
            assert len(plan.steps) == len(exercise.steps) + {"dropped": -1, "added": 1}.get(kind, 0)
    assert set(seen) == {"constant", "operation", "order", "dropped", "added"}


def test_neither_length_nor_a_bag_of_words_orders_the_pairs():
    report = examine(PAIRS)
    assert report.warnings == []
    assert 0.4 < report.longer_wins.accuracy < 0.6
    assert report.bag_of_words.accuracy < 0.6


def test_labels_change_where_the_text_first_goes_wrong():
    proof = proofreading.Proof(right=[1, 2, 3, 4, 5, 6, 9], wrong=[1, 2, 3, 4, 7, 9], start=2, difference=4)
    ids = torch.zeros((2, 8), dtype=torch.long)
    labels, spoken = proofreading._labels([proof], ids)
    assert labels.tolist() == [[-1, -1, 1, 1, 1, 1, 1, -1], [-1, -1, 1, 1, 0, 0, -1, -1]]
    assert spoken.tolist() == [[False] * 2 + [True] * 5 + [False], [False] * 8]


def test_proofs_differ_inside_the_reasoning_and_follow_from_the_seed(model):
    proofs = proofreading.make_proofs(model, EXERCISES, 200, 0)
    assert proofs == proofreading.make_proofs(model, EXERCISES, 200, 0)
    assert proofs != proofreading.make_proofs(model, EXERCISES, 200, 1)
    end = model.tokenizer.convert_tokens_to_ids("</think>")
    for proof in proofs:
        assert proof.start <= proof.difference
        assert proof.right[: proof.difference] == proof.wrong[: proof.difference]
        assert proof.right[proof.difference] != proof.wrong[proof.difference]
        assert proof.right[-1] == proof.wrong[-1] == end
        assert model.tokenizer.decode(proof.right[: proof.start]).endswith("<think>")


def test_training_learns_to_tell_a_right_text_from_a_wrong_one(model):
    proofs = proofreading.make_proofs(model, EXERCISES[:4], 8, 0)
    seen = []
    first = proofreading.train(model, proofs, 2, 0)
    last = proofreading.train(model, proofs, 30, 0, seen.append)
    assert seen[-1] == 1.0 and len(seen) == 30
    assert last < 0.2 < first
    with torch.inference_mode():
        right, wrong = (model.logits([getattr(proof, side) for proof in proofs]) for side in ("right", "wrong"))
    assert (right > 0).all() and (wrong < 0).all()
