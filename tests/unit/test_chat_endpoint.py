"""The endpoint's client against an endpoint that fails in every way that real ones do."""

import email.utils
import socket
import time

import pytest
from fake_endpoint import FakeEndpoint, completion

from pgrpo_ray.actors.chat import open_chat_model
from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.types import ChatRequest


def section(url, **changes):
    values = {"backend": "endpoint", "model": "m", "base_url": url, "concurrency": 4, "backoff_s": 0.01, "retries": 3}
    return ChatSection(**(values | changes))


def requests(count, **changes):
    return [ChatRequest(id=str(number), prompt=f"say {number}", **changes) for number in range(count)]


def ask(endpoint, count=1, **changes):
    with open_chat_model(section(endpoint.url, **changes)) as model:
        return {answer.id: answer for answer in model.answer(iter(requests(count)))}


def echo(body, number):
    return body["messages"][-1]["content"].upper()


def test_every_request_is_answered_once_and_lanes_are_bounded():
    def slowly(body, number):
        time.sleep(0.03)
        return echo(body, number)

    with FakeEndpoint(slowly) as endpoint:
        answers = ask(endpoint, 20)
    assert {key: answer.text for key, answer in answers.items()} == {str(n): f"SAY {n}" for n in range(20)}
    assert len(endpoint.bodies) == 20
    assert 2 <= endpoint.most_in_flight <= 4
    assert (answers["0"].prompt_tokens, answers["0"].completion_tokens, answers["0"].finish_reason) == (7, 3, "stop")


def test_what_is_sent(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    asked = ChatRequest(id="a", prompt="user", system="system", seed=11, temperature=0.3, max_tokens=99)
    with FakeEndpoint(echo) as endpoint:
        with open_chat_model(section(endpoint.url, api_key_env="MY_KEY")) as model:
            list(model.answer([asked]))
        other = section(endpoint.url, send_seed=False, max_tokens_key="max_completion_tokens")
        with open_chat_model(other) as model:
            list(model.answer([asked]))
    first, second = endpoint.bodies
    assert first == {
        "model": "m",
        "messages": [{"role": "system", "content": "system"}, {"role": "user", "content": "user"}],
        "temperature": 0.3,
        "max_tokens": 99,
        "seed": 11,
    }
    assert (second["max_completion_tokens"], "seed" in second, "max_tokens" in second) == (99, False, False)
    assert endpoint.headers[0]["authorization"] == "Bearer secret-key"


def test_half_a_surrogate_pair_in_an_answer_does_not_crash_who_writes_it():
    with FakeEndpoint(lambda body, number: "a\ud800b \U0001f600") as endpoint:
        text = ask(endpoint)["0"].text
    assert text == "a?b \U0001f600"
    assert text.encode("utf-8")


def test_requests_are_taken_as_lanes_become_free():
    taken = []

    def lazily():
        for request in requests(12):
            taken.append(request.id)
            yield request

    with FakeEndpoint(echo) as endpoint, open_chat_model(section(endpoint.url)) as model:
        answers = model.answer(lazily())
        next(answers)
        assert len(taken) <= 5  # four lanes and the one that was free again
        assert len(list(answers)) == 11


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(status):
    with FakeEndpoint(lambda body, number: (status, {}, {"error": "busy"}) if number == 0 else "fine") as endpoint:
        assert ask(endpoint)["0"].text == "fine"
    assert len(endpoint.bodies) == 2


def test_an_endpoint_that_always_fails_is_not_asked_for_ever():
    with FakeEndpoint(lambda body, number: (500, {}, {"error": "broken"})) as endpoint:
        answer = ask(endpoint)["0"]
        assert (answer.text, len(endpoint.bodies)) == (None, 4)
        assert "status 500" in answer.error and "broken" in answer.error
        with pytest.raises(EnvironmentFault, match=r"gives no answers: status 500.* what was answered is kept"):
            ask(endpoint, 1000)
    assert len(endpoint.bodies) < 50


def test_one_request_that_always_fails_does_not_end_the_job():
    def reply(body, number):
        return (500, {}, {}) if body["messages"][-1]["content"] == "say 3" else echo(body, number)

    with FakeEndpoint(reply) as endpoint:
        answers = ask(endpoint, 20)
    assert [key for key, answer in answers.items() if answer.text is None] == ["3"]


def test_answers_that_were_in_are_yielded_before_the_job_ends():
    with FakeEndpoint(lambda body, number: echo(body, number) if number < 8 else (503, {}, {})) as endpoint:
        seen = []
        with (
            pytest.raises(EnvironmentFault, match="in a row failed"),
            open_chat_model(section(endpoint.url, retries=0)) as model,
        ):
            for answer in model.answer(requests(100)):
                seen.append(answer)
    assert sum(answer.text is not None for answer in seen) == 8


NONSENSE = {
    "no choices": completion("x") | {"choices": []},
    "choices of another type": completion("x") | {"choices": "none"},
    "no message": completion("x") | {"choices": [{"index": 0, "finish_reason": "stop"}]},
    "null content": completion(None),
    "a page": b"<html>gateway</html>",
    "broken JSON": b'{"choices": [',
    "an array": [1, 2],
    "null": None,
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_the_failure_of_its_request_alone(body):
    def reply(asked, number):
        return (200, {}, body) if asked["messages"][-1]["content"] == "say 1" else echo(asked, number)

    with FakeEndpoint(reply) as endpoint:
        answers = ask(endpoint, 3, retries=1)
    assert [answers[key].text for key in "012"] == ["SAY 0", None, "SAY 2"]
    assert answers["1"].error
    assert len(endpoint.bodies) == 4  # nonsense is tried again


def test_refusals_of_the_endpoint_are_answers():
    def reply(body, number):
        if body["messages"][-1]["content"] == "say 0":
            return completion(None, refusal="I'm sorry, no.")
        return completion(None, "content_filter")

    with FakeEndpoint(reply) as endpoint:
        answers = ask(endpoint, 2)
    assert answers["0"].text == "I'm sorry, no."
    assert (answers["1"].text, answers["1"].finish_reason) == ("", "content_filter")


def test_a_slow_answer_is_given_up_and_asked_again():
    def reply(body, number):
        if number == 0:
            time.sleep(1.5)
        return "late" if number == 0 else "in time"

    started = time.monotonic()
    with FakeEndpoint(reply) as endpoint:
        assert ask(endpoint, timeout_s=0.3)["0"].text == "in time"
        assert time.monotonic() - started < 1.4


def test_a_request_has_a_deadline_over_all_attempts():
    def reply(body, number):
        time.sleep(1)
        return "late"

    with FakeEndpoint(reply) as endpoint:
        started = time.monotonic()
        answer = ask(endpoint, timeout_s=0.3, deadline_s=0.7, retries=50)["0"]
        assert time.monotonic() - started < 5  # fifty attempts would take fifteen seconds
    assert answer.text is None
    assert "no answer within" in answer.error
    assert len(endpoint.bodies) <= 4


def test_retry_after_holds_back_every_request():
    def reply(body, number):
        return (429, {"retry-after": "1"}, {"error": "slow down"}) if number == 0 else echo(body, number)

    with FakeEndpoint(reply) as endpoint:
        answers = ask(endpoint, 6, concurrency=1)
    assert all(answer.text for answer in answers.values())
    assert 0.95 <= endpoint.times[1] - endpoint.times[0] < 3
    assert len(endpoint.bodies) == 7


def test_retry_after_may_be_a_date():
    date = email.utils.formatdate(time.time() + 2, usegmt=True)  # whole seconds: one to two from now
    with FakeEndpoint(lambda body, number: (503, {"retry-after": date}, {}) if number == 0 else "fine") as endpoint:
        assert ask(endpoint)["0"].text == "fine"
    assert 0.5 < endpoint.times[1] - endpoint.times[0] < 4


def test_a_retry_after_beyond_the_deadline_is_not_waited_for():
    started = time.monotonic()
    with FakeEndpoint(lambda body, number: (429, {"retry-after": "3600"}, {})) as endpoint:
        answer = ask(endpoint, timeout_s=1, deadline_s=2)["0"]
        assert answer.text is None
        assert "429" in answer.error
        assert time.monotonic() - started < 2
        with pytest.raises(EnvironmentFault, match="429"):  # nor by others: the endpoint means all of them
            ask(endpoint, 20, timeout_s=1, deadline_s=2, concurrency=1)
        assert len(endpoint.bodies) == 2


def test_requests_a_minute_are_bounded_and_evenly_spaced():
    with FakeEndpoint(echo) as endpoint:
        ask(endpoint, 11, requests_per_minute=600)
    assert max(endpoint.times) - min(endpoint.times) >= 0.75  # ten gaps of 0.1 s, less what the first took to arrive


def test_more_lanes_than_turns_within_a_deadline_fail_nobody():
    with FakeEndpoint(echo) as endpoint:
        answers = ask(endpoint, 12, requests_per_minute=300, deadline_s=1, timeout_s=1, concurrency=64)
    assert all(answer.text for answer in answers.values())  # 64 lanes at once would want their turns for 13 s


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_the_endpoint_will_not_take_is_rejected_and_not_tried_again(status):
    def reply(body, number):
        return (status, {}, {"error": {"message": "context length exceeded"}})

    with FakeEndpoint(reply) as endpoint:
        answers = ask(endpoint, 20)
    assert len(endpoint.bodies) == 20
    assert {(answer.text, answer.finish_reason) for answer in answers.values()} == {(None, "rejected")}
    assert "context length exceeded" in answers["0"].error


@pytest.mark.parametrize(
    ("status", "path"), [(401, "chat.api_key_env"), (403, "chat.api_key_env"), (404, "chat.model")]
)
def test_a_wrong_key_or_model_ends_the_job_at_once_and_keeps_the_key_to_itself(status, path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    with FakeEndpoint(lambda body, number: (status, {}, {"error": "wrong secret-key"})) as endpoint:
        with pytest.raises(ConfigError) as caught:
            ask(endpoint, 100, api_key_env="MY_KEY")
        assert len(endpoint.bodies) <= 8
    assert caught.value.path == path
    assert "secret-key" not in str(caught.value)


def test_an_endpoint_that_nobody_can_reach_is_one_clear_fault():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with (
        pytest.raises(EnvironmentFault, match="cannot be reached"),
        open_chat_model(section(url, retries=1)) as model,
    ):
        list(model.answer(requests(3)))


def test_a_caller_that_stops_early_leaves_nothing_behind():
    with FakeEndpoint(echo) as endpoint:
        with open_chat_model(section(endpoint.url)) as model:
            next(model.answer(requests(50)))
        time.sleep(1.0)  # what was on its way arrives yet
        asked = len(endpoint.bodies)
        time.sleep(0.2)
        assert len(endpoint.bodies) == asked < 50
        model.close()  # twice is fine


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": None}, "an endpoint needs an address"),
        ({"base_url": "localhost:8000"}, "an endpoint needs an address"),
        ({"model": "starter"}, "no endpoint serves"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE"),
        ({"timeout_s": 100.0, "deadline_s": 10.0}, "below chat.timeout_s"),
    ],
)
def test_sections_that_cannot_work_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        section("http://localhost:1/v1", **changes).check("chat")
    section("http://localhost:1/v1").check("chat")


def test_cost_is_a_matter_of_prices():
    priced = section("http://localhost:1/v1", prompt_price=2.0, completion_price=10.0)
    assert priced.cost(1_000_000, 200_000) == 4.0
