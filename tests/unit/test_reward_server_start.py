"""The start of a reward server on a Serve that is scripted: one that does not take what it is given."""

from types import SimpleNamespace

import pytest

from pgrpo_ray.actors import reward_server
from pgrpo_ray.actors.reward_server import RewardServer
from pgrpo_ray.config import RewardModelSection
from pgrpo_ray.errors import EnvironmentFault

UNKNOWN, DEPLOYING, RUNNING = {}, *({"mine": SimpleNamespace(status=word)} for word in ("DEPLOYING", "RUNNING"))


@pytest.fixture
def begun(monkeypatch):
    """A server that was deployed, what Serve says of applications at each look, and when it is given mine again."""
    monkeypatch.setattr(reward_server, "UNKNOWN_S", 0.0)
    monkeypatch.setattr(reward_server, "POLL_S", 0.001)
    server, given = RewardServer("mine", RewardModelSection(), "", {}, 0.0), []
    about = SimpleNamespace(remote=lambda: SimpleNamespace(result=lambda timeout_s: "served"))
    monkeypatch.setattr(server, "_handle", SimpleNamespace(about=about))
    monkeypatch.setattr(server, "_give", given.append)

    def script(*said):
        said = iter(said)
        monkeypatch.setattr(reward_server, "_applications", lambda: next(said))
        return server, given

    return script


def test_an_application_that_serve_does_not_know_is_given_again(begun):
    server, given = begun(UNKNOWN, UNKNOWN, None, None, DEPLOYING, RUNNING)
    assert server.wait_ready(30) == "served"
    assert given == [UNKNOWN, None]  # to the one that is there, and then to a new one


def test_one_that_it_knows_is_not(begun):
    server, given = begun(DEPLOYING, DEPLOYING, RUNNING)
    assert server.wait_ready(30) == "served"
    assert given == []


def test_a_serve_that_is_never_done_is_told_of(begun):
    server, _ = begun(*[None] * 100_000)
    with pytest.raises(EnvironmentFault, match="Serve does not know of them"):
        server.wait_ready(0.05)
