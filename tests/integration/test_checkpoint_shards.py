"""What ZeRO-3 ranks write, and ranks of any number read: the next steps are those of ranks that went on."""

import sys

import pytest
import ray
import torch
from tiny_qwen3 import TOKENIZER, tiny_config
from transformers import Qwen3ForCausalLM

from pgrpo_ray.actors.roles import LearnerRole
from pgrpo_ray.config import LearnerSection
from pgrpo_ray.errors import CheckpointError

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name


class Rank:
    """One rank with random tokens of its own; each step depends on torch's random state, as dropout would."""

    free_port = LearnerRole.free_port

    def load(self, model, dtype, rank, num_ranks, port):
        from pgrpo_ray.learner.zero3 import Rendezvous, Zero3Engine

        section = LearnerSection(num_ranks=num_ranks, learning_rate=1e-2, warmup_steps=3)
        self.engine = Zero3Engine(model, dtype, section, Rendezvous(rank, num_ranks, "127.0.0.1", port))
        self.rank, self.num_ranks = rank, num_ranks
        torch.manual_seed(rank)

    def steps(self, first, count, shared=False):
        """Take steps; return what became of each. `shared`: all ranks have the same tokens, so that any number of
        ranks sees the same gradient."""
        taken = []
        for number in range(first, first + count):
            noise = torch.zeros(2, 9, dtype=torch.int64) if shared else torch.randint(3, 300, (2, 9))
            seeded = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(number))
            ids = (noise + seeded) % 300
            sampled = torch.ones(2, 8, dtype=torch.bool)
            logprobs, _ = self.engine.logprobs(ids, torch.ones_like(ids), sampled, 1.0)
            self.engine.backward(-logprobs.sum() / self.num_ranks)
            taken.append(self.engine.step())
        return taken

    def save(self, folder):
        from pgrpo_ray.obs.checkpoint_files import put_file

        snapshot = self.engine.snapshot()
        return put_file(folder, snapshot.file_name, snapshot.write)

    def restore(self, folder, names):
        from pgrpo_ray.learner.shards import Shards

        with Shards(folder, names) as shards:
            self.engine.restore(shards)

    def weights(self):
        return {name: tensor.detach().clone() for name, tensor in self.engine.named_weights()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    Qwen3ForCausalLM(tiny_config()).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def start(local_ray, model):
    started = []

    def start(num_ranks, dtype="float32", model=model):
        make = ray.remote(Rank).options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
        ranks = [make.remote() for _ in range(num_ranks)]
        started.extend(ranks)
        port = ray.get(ranks[0].free_port.remote())
        ray.get([actor.load.remote(model, dtype, rank, num_ranks, port) for rank, actor in enumerate(ranks)])
        return ranks

    yield start
    for actor in started:
        ray.kill(actor)


def every(ranks, method, *args):
    return ray.get([getattr(actor, method).remote(*args) for actor in ranks])


def save(ranks, folder):
    folder.mkdir()
    return [name for name, _ in every(ranks, "save", str(folder))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_ranks_go_on_bit_for_bit(start, tmp_path, dtype):
    ranks = start(2, dtype)
    every(ranks, "steps", 0, 3)
    names = save(ranks, tmp_path / "at-3")
    went_on = every(ranks, "steps", 3, 3)
    expected = every(ranks, "weights")[0]

    again = start(2, dtype)
    every(again, "steps", 0, 1)  # somewhere else, so that whatever is not restored shows
    every(again, "restore", str(tmp_path / "at-3"), names)
    assert every(again, "steps", 3, 3) == went_on
    found = every(again, "weights")[0]
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_before_the_first_step_there_is_no_optimizer_state(start, tmp_path):
    ranks = start(1)
    names = save(ranks, tmp_path / "at-0")
    went_on = every(ranks, "steps", 0, 2)
    again = start(1)
    every(again, "restore", str(tmp_path / "at-0"), names)
    assert every(again, "steps", 0, 2) == went_on


@pytest.mark.parametrize(("writers", "readers"), [(2, 1), (2, 3)])
def test_another_number_of_ranks_goes_on(start, tmp_path, writers, readers):
    ranks = start(writers)
    every(ranks, "steps", 0, 3, True)
    names = save(ranks, tmp_path / "at-3")
    before = every(ranks, "weights")[0]
    went_on = every(ranks, "steps", 3, 3, True)[0]
    expected = every(ranks, "weights")[0]

    others = start(readers)
    every(others, "restore", str(tmp_path / "at-3"), names)
    restored = every(others, "weights")[0]
    assert [name for name in before if not torch.equal(before[name], restored[name])] == []
    taken = every(others, "steps", 3, 3, True)[0]
    assert [one.learning_rate for one in taken] == [one.learning_rate for one in went_on]
    norms = [one.grad_norm for one in went_on]
    assert [one.grad_norm for one in taken] == pytest.approx(norms, rel=1e-5)
    # Sums over another number of ranks round otherwise; Adam divides small gradients by their own size.
    found = every(others, "weights")[0]
    assert max((found[name] - expected[name]).abs().max().item() for name in found) < 1e-4


def test_of_another_model_it_is_refused(start, tmp_path):
    ranks = start(1)
    names = save(ranks, tmp_path / "at-0")
    Qwen3ForCausalLM(tiny_config(num_hidden_layers=2)).save_pretrained(tmp_path / "deeper")
    TOKENIZER.save_pretrained(tmp_path / "deeper")
    (other,) = start(1, model=str(tmp_path / "deeper"))
    with pytest.raises(CheckpointError, match=r"another model: \d+ parameters differ"):
        ray.get(other.restore.remote(str(tmp_path / "at-0"), names))
