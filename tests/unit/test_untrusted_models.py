"""A model folder is data: neither a pickle of weights in it nor a Python file beside it is run."""

import json

import pytest
import torch
from tiny_qwen3 import TOKENIZER, tiny_config
from transformers import AutoConfig, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from pgrpo_ray.errors import ModelError
from pgrpo_ray.learner import zero3
from pgrpo_ray.preflight.models import model_facts
from pgrpo_ray.reward_model import checkpoint, model

READERS = {
    "policy": lambda folder: model_facts(str(folder), "policy.model", role="causal"),
    "base": lambda folder: model_facts(str(folder), "model.base", role="base"),
    "base, checked": lambda folder: model.check_base(folder, 16),
    "base, loaded": lambda folder: model.untrained(folder),
    "reward model": lambda folder: model_facts(str(folder), "reward_model.model", role="reward"),
    "reward model, inspected": lambda folder: checkpoint.inspect(str(folder)),
    "reward model, loaded": lambda folder: model.load(folder),
}
"""Everything that looks into a model folder before a worker does, by what it looks for."""


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def owned(tmp_path):
    """The file that exists once something of the folder has run."""
    return tmp_path / "owned"


@pytest.fixture
def honest(tmp_path):
    """Make a folder that the reader of that name takes."""

    def make(reader):
        shape = Qwen3ForSequenceClassification if "reward" in reader else Qwen3ForCausalLM
        shape(tiny_config(num_labels=1)).save_pretrained(tmp_path / "model")
        TOKENIZER.save_pretrained(tmp_path / "model")
        READERS[reader](tmp_path / "model")
        return tmp_path / "model"

    return make


@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_of_weights_is_refused_and_not_run(honest, owned, reader):
    folder = honest(reader)
    (folder / "model.safetensors").unlink()
    torch.save(Malicious(owned), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*could run code.*not opened.*save_pretrained"):
        READERS[reader](folder)
    assert not owned.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False).close()
    assert owned.exists()  # so it would have run


@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_beside_safetensors_is_not_run(honest, owned, reader):
    folder = honest(reader)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        torch.save(Malicious(owned), folder / name)
    READERS[reader](folder)
    assert not owned.exists()


@pytest.mark.parametrize("load", [zero3._causal, lambda *given: zero3._classifier(*given, TOKENIZER, 0)])
def test_a_learner_that_meets_a_pickle_does_not_run_it(honest, owned, load):
    """A hub name is looked at by no preflight; transformers' own reading of weights stands alone there."""
    folder = honest("policy")
    (folder / "model.safetensors").unlink()
    torch.save(Malicious(owned), folder / "pytorch_model.bin")
    with pytest.raises(Exception):  # noqa: B017 - whatever refuses it; what counts is that nothing runs
        load(str(folder), "float32")
    assert not owned.exists()


@pytest.mark.parametrize("reader", READERS)
def test_python_files_of_a_model_are_refused_and_not_run(honest, owned, reader, monkeypatch):
    folder = honest(reader)
    lines = f"open({str(owned)!r}, 'w')", "import transformers", "class Evil(transformers.Qwen3Config): ..."
    (folder / "evil.py").write_text("\n".join(lines))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # without a decision transformers asks whoever sits there
    with pytest.raises((ModelError, ValueError), match="custom code"):
        READERS[reader](folder)
    assert not owned.exists()
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert owned.exists()  # so it would have run


def test_a_folder_without_weights_says_so(honest):
    folder = honest("policy")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights \(\*\.safetensors\)"):
        READERS["policy"](folder)
