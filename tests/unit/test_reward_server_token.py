"""Who may ask the reward server: who sends its token, unless it serves this machine alone and was told otherwise."""

import asyncio
import stat

import httpx
import pytest
from fastapi.testclient import TestClient
from test_reward_server_http import ITEM, SECTION, SERVED, by_length

from pgrpo_ray.config import parse_tree
from pgrpo_ray.config.serving import ServingConfig
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.jobs import serving
from pgrpo_ray.reward_model.http_api import make_app

TOKEN = "t" * 32
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
BODY = {"items": [ITEM]}


@pytest.fixture
def app():
    return make_app(SECTION, SERVED, by_length, lambda: {"RUNNING": 1}, token=TOKEN)


@pytest.mark.parametrize(
    "sent",
    ["", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer  {TOKEN}"],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/score"), ("GET", "/version"), ("GET", "/redoc"), ("GET", "/no")]
)
def test_without_the_token_nothing_is_told(app, sent, method, path):
    answer = TestClient(app).request(method, path, headers={"Authorization": sent} if sent else {})
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorised")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in answer.text and SERVED.model not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_all_is_answered(app, scheme):
    asked = TestClient(app, headers={"Authorization": f"{scheme} {TOKEN}"})
    assert asked.post("/score", json=BODY).status_code == 200
    assert asked.get("/version").json()["model"] == SERVED.model


def test_probes_and_readers_of_the_schemas_need_none_and_learn_no_model(app):
    asked = TestClient(app)
    for path in ("/health", "/docs", "/openapi.json"):
        answer = asked.get(path)
        assert answer.status_code == 200
        assert SERVED.model not in answer.text
    api = asked.get("/openapi.json").json()
    assert api["paths"]["/score"]["post"]["security"] == [{"HTTPBearer": []}]


def test_who_has_no_token_takes_no_place_not_even_by_an_open_path(app):
    """Else slow bodies from anybody would fill the door."""

    async def story():
        async def endless():
            yield b"{"
            await asyncio.sleep(60)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rm") as http:
            for path in ("/score", "/health"):
                for _ in range(2 * SECTION.max_requests):
                    answer = await http.post(path, content=endless(), headers={"Content-Length": "9"})
                    assert answer.status_code == 401
            return (await http.post("/score", json=BODY, headers=RIGHT)).status_code

    assert asyncio.run(asyncio.wait_for(story(), 5)) == 200


def config(**server):
    return parse_tree(ServingConfig, {"server": server})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("PGRPO_REWARD_TOKEN", raising=False)
    monkeypatch.setenv("PGRPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_by_default_this_machine_alone_and_with_a_token_that_is_made_once_and_kept_from_others(cache):
    assert config().server.host == "127.0.0.1"
    token, shown = serving._token(config().server)
    file = cache / "reward-server-token"
    assert len(token) == 64 and token == file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert shown == f"$(cat {file})"
    assert serving._token(config().server) == (token, shown)


def test_a_token_of_the_environment_wins_and_is_not_written(cache, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    assert serving._token(config(token_env="MY_TOKEN").server) == (TOKEN, "$MY_TOKEN")
    assert not cache.exists()


@pytest.mark.parametrize("weak", ["short-token", "x" * 20 + "\n" + "x" * 20, "é" * 32])
def test_a_token_that_cannot_serve_is_refused_unread(cache, monkeypatch, weak):
    monkeypatch.setenv("PGRPO_REWARD_TOKEN", weak)
    with pytest.raises(ConfigError, match=r"server\.token_env names 'PGRPO_REWARD_TOKEN'") as caught:
        serving._token(config().server)
    assert weak not in str(caught.value)


def test_an_empty_file_of_the_token_opens_no_door(cache):
    cache.mkdir()
    (cache / "reward-server-token").touch()
    with pytest.raises(EnvironmentFault, match="holds no token that can serve"):
        serving._token(config().server)


def test_a_cache_that_can_not_hold_the_token_is_told(cache):
    cache.write_text("a file where a folder should be")
    with pytest.raises(EnvironmentFault, match="the server's token cannot be kept in"):
        serving._token(config().server)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.evil.org"])
def test_no_token_on_the_network_is_refused(host):
    with pytest.raises(ConfigError, match=r"authentication=none lets them all ask"):
        config(host=host, authentication="none").check()
    config(host=host).check()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_no_token_on_this_machine_may_be_chosen(host):
    section = config(host=host, authentication="none")
    section.check()
    assert serving._token(section.server) == (None, "")
