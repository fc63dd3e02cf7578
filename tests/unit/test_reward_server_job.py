"""`pgrpo rm serve` before Ray: what it refuses, and how its options become a config."""

import socket

import pytest
from typer.testing import CliRunner

from pgrpo_ray.cli import app
from pgrpo_ray.errors import ConfigError, EnvironmentFault, ModelError
from pgrpo_ray.jobs import serving


def run(*arguments):
    result = CliRunner().invoke(app, ["rm", "serve", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def served(monkeypatch):
    """The configs that would be served."""
    configs = []
    monkeypatch.setattr(serving, "serve", lambda config, console: configs.append(config))
    return configs


def test_options_win_over_the_file_and_set_over_both(served, tmp_path):
    file = tmp_path / "serving.yaml"
    file.write_text("reward_model: {model: a, replicas: 3}\nserver: {port: 1, max_items: 7}\n")
    run(str(file), "--model", "1e3", "--port", "2", "--backend", "vllm", "--set", "server.port=3")
    run("--replicas", "2")
    first, second = served
    assert (first.reward_model.model, first.reward_model.replicas, first.reward_model.backend) == ("1e3", 3, "vllm")
    assert (first.server.port, first.server.max_items) == (3, 7)
    assert (second.reward_model.model, second.reward_model.replicas) == ("starter", 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "onnx"], "reward_model.backend.*'transformers' or 'vllm'"),
        (["--set", "server.prot=3"], "Did you mean 'port'"),
        (["--port", "70000"], "server.port.*65535"),
        (["/no/such/file.yaml"], "cannot be read"),
    ],
)
def test_wrong_settings_are_refused(served, arguments, words):
    with pytest.raises(ConfigError, match=words):
        run(*arguments)
    assert served == []


def test_a_missing_model_and_a_port_in_use_are_told_before_ray_starts(tmp_path, monkeypatch):
    def no_ray(*_):
        pytest.fail("Ray was started")

    monkeypatch.setattr(serving, "cluster_session", no_ray)
    with pytest.raises(ModelError, match="no model folder"):
        run("--model", str(tmp_path / "missing"), "--port", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EnvironmentFault, match=r"cannot listen there .*port 0 takes any free one"):
            run("--model", str(tmp_path), "--port", str(taken.getsockname()[1]))


def test_the_port_of_a_server_that_still_loads_is_in_use_and_free_once_it_ends():
    host = "127.0.0.1"
    with serving._listening(host, 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(EnvironmentFault, match="cannot listen there"), serving._listening(host, port):
            pytest.fail("two servers took one port")
        with socket.create_connection((host, port), timeout=5), first.accept()[0]:
            pass  # closed by this side: the port keeps remembering it
    with serving._listening(host, port):
        pass
