"""Chat workers on a real Ray with an engine that needs no model: dealing out, streaming, death and deadline."""

import os
import time

import pytest
import ray

from pgrpo_ray.actors import chat_workers
from pgrpo_ray.actors.chat import open_chat_model
from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.errors import EnvironmentFault, ModelError, StageError
from pgrpo_ray.types import ChatAnswer, ChatRequest

pytestmark = pytest.mark.ray


@pytest.fixture
def workers(local_ray, monkeypatch):
    """Open workers that answer with their own number; prompts tell them to sleep, die or not to start."""

    class Role:  # local, so that Ray carries it by value into processes that cannot import this file
        def __init__(self, section, index):
            self.index, self.fails = index, section.model == "broken"

        def start(self):
            if self.fails:
                raise ModelError("no such model")

        def answer(self, requests):
            for request in requests:
                if request.prompt == "die":
                    time.sleep(1)  # what was yielded is on its way until Ray has taken it
                    os._exit(1)
                time.sleep(float(request.prompt))
                yield ChatAnswer(request.id, str(self.index), "stop")

    monkeypatch.setattr(chat_workers, "ChatRole", Role)

    def start(**changes):
        return open_chat_model(ChatSection(**({"num_workers": 2, "concurrency": 2} | changes)))

    return start


def asked(prompts):
    return [ChatRequest(str(number), prompt) for number, prompt in enumerate(prompts)]


def test_every_request_is_answered_once_and_whoever_is_free_gets_more(workers):
    slow = ["0.05"] * 16 + ["0"] * 16  # the first worker's chunk is slow, the second's is not
    with workers() as model:
        answers = list(model.answer(iter(asked(slow + ["0"] * 40))))
    assert sorted(answer.id for answer in answers) == sorted(str(number) for number in range(72))
    by_worker = [sum(answer.text == index for answer in answers) for index in "01"]
    assert by_worker == [16, 56]
    assert ray.is_initialized()  # it was there before, and stays


def test_few_requests_are_dealt_out_evenly_and_streamed(workers):
    with workers() as model:
        started = time.monotonic()
        stream = model.answer(iter(asked(["0", "0", "1.5", "0"])))
        assert [next(stream).text for _ in range(2)] == ["0", "0"]  # while the second worker sleeps over its first
        assert time.monotonic() - started < 1.4
        assert [answer.text for answer in stream] == ["1", "1"]
        assert list(model.answer(iter([]))) == []


def test_a_worker_that_dies_ends_the_job_with_its_name_and_what_came_before_is_there(workers):
    seen = []
    with workers(num_workers=1) as model, pytest.raises(StageError, match="chat worker: its process died"):
        for answer in model.answer(iter(asked(["0", "0", "die", "0"]))):
            seen.append(answer)
    assert [answer.id for answer in seen] == ["0", "1"]


def test_a_silent_worker_is_not_waited_for_for_ever(workers):
    started = time.monotonic()
    with workers(num_workers=1, answer_timeout_s=0.5) as model, pytest.raises(StageError, match="nothing finished"):
        list(model.answer(iter(asked(["30"]))))
    assert time.monotonic() - started < 10


def test_what_keeps_a_worker_from_starting_is_told(workers):
    with pytest.raises(ModelError, match="no such model"), workers(model="broken"):
        pass
    with pytest.raises(EnvironmentFault, match="wants 800 CPUs"), workers(num_workers=8, threads_per_worker=100):
        pass
