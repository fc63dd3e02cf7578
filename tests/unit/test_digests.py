"""Digests tell rows, their order and their tokens apart, and repeats are counted, by hand."""

import copy

import numpy as np
import pytest
from tiny_qwen3 import TOKENIZER
from tokenizers.normalizers import Lowercase

from pgrpo_ray.actors.arrivals import REMEMBERED, Repeats
from pgrpo_ray.data.digests import digest_of, prompt_digest, row_digest
from pgrpo_ray.data.fingerprint import fingerprint
from pgrpo_ray.starter.tokenizer import train_tokenizer

ROW = (np.array([1, 2], np.int32), np.array([5, 6], np.int32), np.array([-0.5, -1.0], np.float32))


@pytest.mark.parametrize("column", [0, 1, 2])
def test_any_change_of_a_token_column_gives_another_digest(column):
    changed = [values.copy() for values in ROW]
    changed[column][1] = np.nextafter(changed[column][1], np.float32(9)) if column == 2 else 7
    assert row_digest(*changed) != row_digest(*ROW)


def test_a_digest_does_not_depend_on_how_numbers_are_held():
    assert prompt_digest((1, 2)) == prompt_digest(np.array([1, 0, 2, 0])[::2])
    assert row_digest(ROW[0].astype(np.int64), *ROW[1:]) == row_digest(*ROW)


def test_the_order_of_rows_shows():
    assert digest_of([3, 4]) == digest_of(np.array([3, 4])) != digest_of([4, 3])
    assert digest_of([]) == 0


def test_repeats_within_a_batch_and_of_the_last_ones_are_counted():
    repeats = Repeats()
    assert repeats.frac(np.array([1, 2, 3, 3])) == 0.25
    assert repeats.frac(np.array([1, 5, 6, 7])) == 0.25
    for batch in range(REMEMBERED):
        assert repeats.frac(np.array([10 + batch])) == 0.0
    assert repeats.frac(np.array([1, 5])) == 0.0  # forgotten


def test_tokenizers_that_read_ids_or_text_otherwise_have_other_fingerprints():
    text = ["add 2 to each; return the sum."]
    assert fingerprint(train_tokenizer(text, vocab_size=300)) == fingerprint(TOKENIZER)
    assert fingerprint(train_tokenizer(["of other words"], vocab_size=300)) != fingerprint(TOKENIZER)
    other = copy.deepcopy(TOKENIZER)
    other.backend_tokenizer.normalizer = Lowercase()
    assert other.get_vocab() == TOKENIZER.get_vocab()
    assert fingerprint(other) != fingerprint(TOKENIZER)
