"""A secret stays in the environment: no file, terminal or error of ours repeats it, and no config can hold it."""

import io
from typing import get_args

import pytest
from fake_endpoint import FakeEndpoint
from fake_generator import generate, write_problems
from planted import check_detector, holding, plant
from pydantic import BaseModel
from rich.console import Console
from test_config import TREES

from pgrpo_ray.config import parse_tree
from pgrpo_ray.config.base import SecretName
from pgrpo_ray.config.pairs import PairsConfig
from pgrpo_ray.config.serving import ServingConfig
from pgrpo_ray.errors import ConfigError, PgrpoError
from pgrpo_ray.jobs import pairs as job


@pytest.fixture
def make(tmp_path):
    """Make pairs with an endpoint that wants a key; return what the terminal showed."""
    write_problems(tmp_path / "problems.jsonl", 3)

    def run(url, **chat):
        chat = {"backend": "endpoint", "model": "gen", "base_url": url, "api_key_env": "JUDGE_API_KEY"} | chat
        values = {"pairs": {"out": str(tmp_path / "out/pairs.parquet")}, "chat": chat | {"backoff_s": 0.01}}
        config = parse_tree(PairsConfig, values | {"problems": {"file": str(tmp_path / "problems.jsonl")}})
        config.check()
        terminal = io.StringIO()
        job.make(config, Console(file=terminal, width=300))
        return terminal.getvalue()

    return run


def test_a_key_reaches_the_endpoint_and_no_file(make, tmp_path, monkeypatch):
    marker = plant(monkeypatch)
    with FakeEndpoint(generate) as endpoint:
        terminal = make(endpoint.url)
    assert endpoint.headers[0]["authorization"] == f"Bearer {marker}"
    assert marker not in terminal
    assert len(list((tmp_path / "out").rglob("*"))) > 5
    assert holding(tmp_path, marker) == []
    check_detector(tmp_path, marker)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 418, 429, 500])
def test_an_endpoint_that_repeats_the_key_is_not_quoted_with_it(make, tmp_path, monkeypatch, status):
    marker = plant(monkeypatch)
    with FakeEndpoint(lambda body, number: (status, {}, {"error": f"{'x' * 280} {marker}"})) as endpoint:
        try:
            said = make(endpoint.url, retries=0)
        except PgrpoError as error:
            said = str(error)
    assert said
    assert marker[:16] not in said
    assert holding(tmp_path, marker[:16]) == []


def test_a_key_that_is_no_header_is_not_quoted(make, tmp_path, monkeypatch):
    """The client quotes the whole header in its complaint."""
    marker = plant(monkeypatch)
    monkeypatch.setenv("JUDGE_API_KEY", f"{marker}\nX-More: {marker}")
    with FakeEndpoint(generate) as endpoint, pytest.raises(PgrpoError) as caught:
        make(endpoint.url, retries=0)
    assert marker not in str(caught.value)
    assert holding(tmp_path, marker) == []


def test_a_line_end_after_a_key_is_no_part_of_it(make, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", f"{plant(monkeypatch)}\n")
    with FakeEndpoint(generate) as endpoint:
        make(endpoint.url)
    assert not endpoint.headers[0]["authorization"].endswith("\n")


@pytest.mark.parametrize(
    "secret", ["sk-planted0123456789abcdef", "hf_plantedABCDEF", "0123456789abcdef0123456789abcdef"]
)
def test_a_key_in_place_of_its_variable_s_name_is_refused_unread(secret):
    with pytest.raises(ConfigError) as caught:
        parse_tree(PairsConfig, {"chat": {"api_key_env": secret}})
    assert "chat.api_key_env: give the name of an environment variable" in str(caught.value)
    assert secret not in str(caught.value)


@pytest.mark.parametrize("url", ["https://{}@host/v1", "{}@host", "https://host/v1?key={}"])
def test_an_address_that_holds_a_secret_is_refused_unread(url):
    url = url.format("me:hunter2")
    config = parse_tree(PairsConfig, {"chat": {"backend": "endpoint", "model": "m", "base_url": url}})
    with pytest.raises(ConfigError, match=r"chat\.base_url holds a user or a query") as caught:
        config.check()
    assert "hunter2" not in str(caught.value)


def leaves(model, path=""):
    """Every field of a config tree: dotted path, annotation, metadata."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{path}{name}.")
        else:
            yield f"{path}{name}", field


HOLDERS = {"key", "secret", "password", "credential", "credentials", "auth"}
"""Words of a field's name that would say that it holds a secret."""


@pytest.mark.parametrize("tree", [*TREES.values(), ServingConfig], ids=lambda tree: tree.__name__)
def test_no_field_of_a_config_holds_a_secret(tree):
    """Such a field names the variable instead, ends in `_env` and has that type."""
    (pattern,) = [part.pattern for part in get_args(SecretName)[1].metadata if hasattr(part, "pattern")]
    for path, field in leaves(tree):
        name = path.rpartition(".")[2]
        if name.endswith("_env"):
            assert pattern in repr(field), path
        else:
            assert not HOLDERS & set(name.split("_")) or name == "max_tokens_key", path
