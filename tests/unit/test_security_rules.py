"""What docs/threat-model.md says that this project never does, checked on the source."""

import ast
from pathlib import Path

import pytest
import yaml
from tiny_qwen3 import TOKENIZER

from pgrpo_ray.config import load
from pgrpo_ray.config.base import _Loader
from pgrpo_ray.errors import ConfigError

PACKAGE = Path(__file__).parents[2] / "pgrpo_ray"
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""The package's files, parsed."""
EXECUTING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "joblib", "shelve"}
"""Modules that run what they read. `pickletools` only looks at it."""


def calls():
    """Every call: where, its dotted name as it is written, keyword arguments, the others."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                yield name, ast.unparse(node.func), given, [ast.unparse(argument) for argument in node.args]


def imports():
    """For every import: where, and the parts of its names."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                yield name, {part for one in [module, *(alias.name for alias in node.names)] for part in one.split(".")}


def test_nothing_is_unpickled():
    assert not [(name, parts & EXECUTING) for name, parts in imports() if parts & EXECUTING]
    for name, call, given, _ in calls():
        assert "cloudpickle.load" not in call, name
        assert not call.startswith("torch.hub"), name
        assert call != "torch.load" or given.get("weights_only") == "True", name
        assert given.get("allow_pickle", "False") == "False", name


def test_models_bring_numbers_and_no_code():
    reading = 0
    for name, call, given, _ in calls():
        assert given.get("trust_remote_code", "False") == "False", name
        if call.endswith(".from_pretrained"):
            reading += 1
            assert given.get("trust_remote_code") == "False", f"{name}: else transformers asks whoever sits there"
            assert not call.startswith("AutoModel") or given.get("use_safetensors") == "True", name
        if call in ("EngineArgs", "LLM"):
            reading += 1
            assert (given.get("load_format"), given.get("trust_remote_code")) == ("'safetensors'", "False"), name
    assert reading > 10


def test_yaml_is_read_as_data():
    assert issubclass(_Loader, yaml.SafeLoader)
    reading = {
        (name, call, *rest[1:]) for name, call, _, rest in calls() if call.startswith("yaml.") and "load" in call
    }
    assert reading == {("config/base.py", "yaml.load", "_Loader")}


def test_text_is_run_nowhere_but_in_the_sandbox():
    for name, call, given, _ in calls():
        assert given.get("shell", "False") == "False", name
        assert call not in ("os.system", "os.popen"), name
        assert call not in ("eval", "exec") or name.startswith("sandbox/inside/"), name


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system"])
def test_yaml_that_names_code_is_refused(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"run: {text}\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(file)
    file.write_text("run: {}\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(file, [f"run.name={text}"])


def test_a_chat_template_is_rendered_in_a_cage():
    """It is a program of whoever made the model; transformers runs it in jinja's sandbox."""
    reaching = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(Exception, match="unsafe"):
        TOKENIZER.apply_chat_template([{"role": "user", "content": "x"}], chat_template=reaching, tokenize=False)
