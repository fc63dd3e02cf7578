"""The end of a rollout worker's start that is heard too late, with workers that are no processes."""

from types import SimpleNamespace

import pytest

from pgrpo_ray.actors import supervision
from pgrpo_ray.actors.supervision import Supervisor
from pgrpo_ray.config import ClusterSection
from pgrpo_ray.errors import LostError


class Worker:
    def __init__(self, name):
        self.start = SimpleNamespace(remote=lambda: f"start of {name}")


@pytest.mark.parametrize(("max_restarts", "left"), [(2, ["start of the third"]), (1, [])])
def test_the_end_of_a_start_is_no_news_where_the_worker_was_lost_meanwhile(monkeypatch, max_restarts, left):
    unwatched = SimpleNamespace(watch=lambda *_: None, forget=lambda name: None)
    monkeypatch.setattr(supervision, "Watchdog", lambda *_: unwatched)
    monkeypatch.setattr(supervision, "rest_s", lambda restarts: 0.0)
    monkeypatch.setattr(supervision.ray, "kill", lambda actor: None)
    spawned = [Worker("the second"), Worker("the third")]
    respawn = iter(spawned).__next__
    crew = Supervisor(
        [Worker("the first"), Worker("another")],
        {},
        ClusterSection(max_restarts=max_restarts),
        lambda index: respawn(),
        lambda text: None,
        dict,
    )
    crew.lost(crew.serving[0], LostError("its stream broke", "rollout worker"))
    (old,) = crew.starting
    crew.lost(spawned[0], LostError("its stream broke", "rollout worker"))
    crew.heard(old)  # as where both lay ready, and the stream was looked at first
    assert crew.starting == left
