"""Seconds in which a stage had work, and what a trace says of it."""

import json

import pytest

from pgrpo_ray.obs.timeline import Timeline


@pytest.fixture
def clock():
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


def test_a_stage_is_busy_while_any_of_its_spans_is_open(clock):
    timeline = Timeline(clock=clock)
    first = timeline.begin("judging")
    clock.now += 1
    second = timeline.begin("judging")
    clock.now += 2
    timeline.end(first)
    clock.now += 4
    timeline.end(second)
    clock.now += 8
    third = timeline.begin("judging")
    clock.now += 0.5
    assert timeline.take() == {"judging": 7.5}
    clock.now += 0.25
    timeline.end(third)
    clock.now += 1
    assert timeline.take() == {"judging": 0.25}
    assert timeline.take() == {"judging": 0.0}


def test_a_trace_has_a_row_for_each_span_that_was_open_at_a_time(clock, tmp_path):
    timeline = Timeline(tmp_path / "trace.json", clock)
    first, second = timeline.begin("judging", "a"), timeline.begin("judging", "b")
    clock.now += 1
    timeline.end(first)
    third = timeline.begin("judging", "c")
    clock.now += 1
    timeline.end(second)
    timeline.end(third)
    timeline.close()
    timeline.close()
    events = json.loads((tmp_path / "trace.json").read_text().rstrip().rstrip(",") + "]")
    rows = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    spans = {event["name"]: (rows[event["tid"]], event["ts"], event["dur"]) for event in events if event["ph"] == "X"}
    assert spans == {
        "a": ("judging 1", 0, 1_000_000),
        "b": ("judging 2", 0, 2_000_000),
        "c": ("judging 1", 1_000_000, 1_000_000),
    }
