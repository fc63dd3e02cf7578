"""The reward model: input frame and cutting, Bradley-Terry loss, pair accuracy, scorer, refusals."""

import json
import math

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from pgrpo_ray.config import RewardModelSection
from pgrpo_ray.errors import DataError, ModelError
from pgrpo_ray.reward_model.model import RewardModel, load, untrained
from pgrpo_ray.reward_model.pairs import read_pairs, write_pairs
from pgrpo_ray.reward_model.scorer import RewardScorer, sigmoid
from pgrpo_ray.reward_model.train import Recipe, bradley_terry_loss, pair_accuracy, train
from pgrpo_ray.starter.tokenizer import train_tokenizer
from pgrpo_ray.types import PreferencePair

TOKENIZER = train_tokenizer(["add 2 to each; return the sum."], vocab_size=300)
PAIRS = [PreferencePair(f"problem {n}", f"good reason {n}", f"bad reason {n}", "word") for n in range(40)]


def tiny_config(**more):
    return Qwen3Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        pad_token_id=TOKENIZER.pad_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
        **more,
    )


def tiny_model(num_labels=1):
    torch.manual_seed(0)
    return RewardModel(Qwen3ForSequenceClassification(tiny_config(num_labels=num_labels)).eval(), TOKENIZER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rm") / "model"
    tiny_model().save(path)
    return path


def test_the_input_frames_problem_and_reasoning():
    ids = tiny_model().encode([("the problem", "the reason")], 100)[0]
    assert TOKENIZER.decode(ids) == "the problem\n<think>the reason</think>"


def test_too_long_an_input_loses_the_beginning_of_the_reasoning():
    ids = tiny_model().encode([("q" * 5, "a" * 50 + "b" * 10)], 17)[0]
    text = TOKENIZER.decode(ids)
    assert len(ids) == 17
    assert text == "qqqqq\n<think>" + "b" * 9 + "</think>"


def test_a_problem_without_room_is_cut_at_its_beginning_and_keeps_the_closing_tag():
    ids = tiny_model().encode([("q" * 50, "reason")], 16)[0]
    assert len(ids) == 16
    assert TOKENIZER.decode(ids).endswith("q\n<think></think>")


def test_bradley_terry_loss_equals_the_formula():
    loss = bradley_terry_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]))
    by_hand = (-math.log(1 / (1 + math.exp(-1.0))) - math.log(0.5)) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)


def test_ties_count_half(monkeypatch):
    monkeypatch.setattr("pgrpo_ray.reward_model.train.raw_scores", lambda *_: [1.0, 1.0, 2.0, 1.0, 0.0, 1.0])
    pairs = [PreferencePair("p", "a", "b", kind) for kind in ("x", "x", "y")]
    assert pair_accuracy(tiny_model(), pairs) == {"all": 0.5, "x": 0.75, "y": 0.0}


def test_training_learns_to_order_pairs_and_follows_from_the_seed():
    recipe = Recipe(steps=30, learning_rate=3e-3, batch_pairs=8, max_length_tokens=64)
    first, second = tiny_model(), tiny_model()
    loss = train(first, PAIRS, recipe)
    assert loss == train(second, PAIRS, recipe)
    assert loss < math.log(2) / 2
    assert pair_accuracy(first, PAIRS)["all"] > 0.95
    with pytest.raises(ValueError, match="without pairs"):
        train(first, [], recipe)


def test_scores_are_in_range_keep_order_and_do_not_depend_on_the_batch(folder):
    items = [(f"problem {n}", "x" * (37 * n % 50)) for n in range(20)]
    many = RewardScorer(RewardModelSection(model=str(folder), batch_size=7)).score(items)
    alone = RewardScorer(RewardModelSection(model=str(folder), batch_size=1))
    assert all(0 < score < 1 for score in many)
    assert many == pytest.approx([alone.score([item])[0] for item in items], abs=1e-5)
    assert alone.score([]) == []


def test_a_score_that_is_no_number_is_refused(folder, monkeypatch):
    scorer = RewardScorer(RewardModelSection(model=str(folder)))
    monkeypatch.setattr("pgrpo_ray.reward_model.scorer.raw_scores", lambda *_: [0.0, float("nan")])
    with pytest.raises(ModelError, match=r"1 of 2 .*item 1"):
        scorer.score([("a", "b"), ("a", "c")])


def test_sigmoid_holds_at_the_extremes():
    assert sigmoid(0) == 0.5
    assert sigmoid(1000) == 1.0
    assert sigmoid(-1000) == 0.0


def test_models_that_do_not_fit_are_refused_with_a_reason(tmp_path, folder):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path / "missing")
    tiny_model(num_labels=3).save(tmp_path / "three")
    with pytest.raises(ModelError, match="3 labels"):
        load(tmp_path / "three")
    Qwen3ForCausalLM(tiny_config()).save_pretrained(tmp_path / "lm")
    TOKENIZER.save_pretrained(tmp_path / "lm")
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0"}
    (tmp_path / "lm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks a trained scoring head"):
        load(tmp_path / "lm")
    assert untrained(tmp_path / "lm").network.config.num_labels == 1


def test_pairs_survive_the_disk_and_bad_lines_are_named(tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    assert read_pairs(tmp_path / "pairs.jsonl") == PAIRS
    for record, reason in (
        ({"prompt": "p", "better": "a", "worse": "a"}, "same text"),
        ({"prompt": "p", "better": "a"}, "'worse' is missing"),
        ({"prompt": "p", "better": "a", "worse": "b", "kid": "c"}, "Did you mean 'kind'"),
    ):
        good = json.dumps({"prompt": "p", "better": "a", "worse": "b"})
        (tmp_path / "bad.jsonl").write_text(good + "\n" + json.dumps(record) + "\n")
        with pytest.raises(DataError, match=reason) as caught:
            read_pairs(tmp_path / "bad.jsonl")
        assert caught.value.line == 2
