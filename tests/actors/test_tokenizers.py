"""Roles that decode with another tokenizer than prompts are encoded with are named before anything is sampled."""

import sys

import pytest
import ray
from tiny_qwen3 import TOKENIZER

from pgrpo_ray.actors.tokenizers import check_tokenizers
from pgrpo_ray.data.fingerprint import fingerprint
from pgrpo_ray.errors import CorruptionError
from pgrpo_ray.starter.tokenizer import train_tokenizer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name


class Decoder:
    def __init__(self, found):
        self.found = found

    def tokenizer(self):
        return self.found


def test_one_role_with_another_tokenizer_is_named(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    same, other = fingerprint(TOKENIZER), fingerprint(train_tokenizer(["of other words"], vocab_size=300))
    make = ray.remote(num_cpus=0)(Decoder).remote
    actors = {"rollout worker 0": make(same), "rollout worker 1": make(other), "learner rank 0": make(same)}
    with pytest.raises(CorruptionError, match=rf"tokenizer of rollout worker 1 is not .*{other}, here it is {same}"):
        check_tokenizers(actors, str(tmp_path), 60)
    del actors["rollout worker 1"]
    check_tokenizers(actors, str(tmp_path), 60)
