"""The reward server's HTTP side over a scripted scorer: schemas, limits, and one answer for every failure."""

import asyncio
import json

import httpx
import pytest
from fastapi.testclient import TestClient

from pgrpo_ray.config.serving import ServerSection
from pgrpo_ray.errors import DeadlineError, ModelError, OverloadError, StageError, UnavailableError
from pgrpo_ray.reward_model.http_api import make_app
from pgrpo_ray.reward_model.score_maps import ScoreMap
from pgrpo_ray.reward_model.scorer import Scored, ServedModel

SERVED = ServedModel("a/model", "sha256:0123", "transformers", ScoreMap("sigmoid", 2.0, 0.5), 512)
SECTION = ServerSection(max_requests=2, max_items=3, max_characters=20, deadline_s=5.0, retry_after_s=2)
ITEM = {"prompt": "p", "reasoning": "because"}


async def by_length(items, timeout_s):
    return SERVED, [Scored(float(len(text)), 0.5, len(text), len(text) > 5) for _, text in items]


def client(score=by_length, replicas=lambda: {"RUNNING": 1}, **options):
    return TestClient(make_app(SECTION, SERVED, score, replicas, token=None), **options)


def test_an_answer_holds_scores_in_order_and_what_gave_them():
    items = [{"prompt": "p", "reasoning": text} for text in ("123456", "12")]
    answer = client().post("/score", json={"items": items})
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("server")
    assert body == {
        "model": "a/model",
        "version": "sha256:0123",
        "backend": "transformers",
        "score_map": {"name": "sigmoid", "temperature": 2.0, "offset": 0.5},
        "max_length_tokens": 512,
        "items": [
            {"raw": 6.0, "score": 0.5, "tokens": 6, "truncated": True},
            {"raw": 2.0, "score": 0.5, "tokens": 2, "truncated": False},
        ],
    }
    assert client().get("/version").json() == {key: body[key] for key in body if key != "items"} | {
        "server": answer.json()["server"]
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ["body", "items"]),
        ({"items": []}, ["body", "items"]),
        ({"items": [{"prompt": "p"}]}, ["body", "items", 0, "reasoning"]),
        ({"items": [ITEM, {"prompt": "p", "reasoning": ""}]}, ["body", "items", 1, "reasoning"]),
        ({"items": [{"prompt": 3, "reasoning": "r"}]}, ["body", "items", 0, "prompt"]),
        ({"items": [ITEM | {"reasonin": "r"}]}, ["body", "items", 0, "reasonin"]),
        ({"items": [ITEM], "timeout_s": 0}, ["body", "timeout_s"]),
        ({"items": [{"prompt": "p", "reasoning": "half a character: \ud800"}]}, ["body", "items", 0, "reasoning"]),
    ],
)
def test_wrong_input_is_refused_and_the_field_is_named(body, field):
    escaped = json.dumps(body)  # httpx would not send half a character
    answer = client().post("/score", content=escaped, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert field in [finding["loc"] for finding in answer.json()["detail"]]


def test_what_is_no_json_is_refused_without_repeating_it():
    answer = client().post("/score", content="x" * 300, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "xxx" not in answer.text


@pytest.mark.parametrize("content", [b"[" * 3000, b'{"items": "\xff"}'])
def test_what_cannot_be_parsed_is_refused_with_a_json_body(content):
    answer = client().post("/score", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (400, ["detail"])


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([ITEM] * 4, "4 were sent, at most 3"),
        ([ITEM, {"prompt": "p", "reasoning": "r" * 21}], "items.1.reasoning: 21 characters, at most 20"),
        ([{"prompt": "p" * 21, "reasoning": "r"}], "items.0.prompt: 21 characters"),
        ([{"prompt": "p", "reasoning": "r" * 10_000}], "at most 6864 are read"),  # 6 texts of 6 * 20 + 1024 bytes
    ],
)
def test_too_much_is_refused_with_the_limit(items, words):
    answer = client().post("/score", json={"items": items})
    assert answer.status_code == 413
    assert words in answer.json()["message"]


def test_a_body_of_unknown_length_is_not_read():
    answer = client().post("/score", content=iter([b"{}"]))
    assert (answer.status_code, answer.json()["error"]) == (411, "length_required")


@pytest.mark.parametrize(
    ("error", "status", "name", "retry"),
    [
        (OverloadError("full", 1.2), 429, "overloaded", "2"),
        (UnavailableError("none", 3.0), 503, "unavailable", "3"),
        (DeadlineError("late"), 504, "deadline", None),
        (ModelError("no number"), 500, "model", None),
        (StageError("died"), 500, "model", None),
    ],
)
def test_every_failure_has_its_status_and_says_what_to_do(error, status, name, retry):
    async def fail(items, timeout_s):
        raise error

    answer = client(fail).post("/score", json={"items": [ITEM]})
    assert (answer.status_code, answer.json()) == (status, {"error": name, "message": str(error)})
    assert answer.headers.get("Retry-After") == retry


@pytest.mark.parametrize("gives", [RuntimeError("boom"), (SERVED, [Scored(float("nan"), 0.5, 1, False)])])
def test_a_defect_has_a_json_body_too_and_goes_on_to_the_log(gives):
    async def fail(items, timeout_s):
        if isinstance(gives, Exception):
            raise gives
        return gives

    answer = client(fail, raise_server_exceptions=False).post("/score", json={"items": [ITEM]})
    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    assert "its log has the traceback" in answer.json()["message"]
    with pytest.raises(Exception, match=r"boom|finite_number"):
        client(fail).post("/score", json={"items": [ITEM]})


@pytest.mark.parametrize(("asked", "granted"), [(None, 5.0), (1.5, 1.5), (60, 5.0)])
def test_a_request_may_ask_for_less_time_and_not_for_more(asked, granted):
    seen = []

    async def note(items, timeout_s):
        seen.append(timeout_s)
        return await by_length(items, timeout_s)

    client(note).post("/score", json={"items": [ITEM], "timeout_s": asked})
    assert seen == [granted]


def test_the_door_refuses_what_is_beyond_the_queue_before_reading_it():
    async def story():
        gate = asyncio.Event()

        async def wait(items, timeout_s):
            await gate.wait()
            return await by_length(items, timeout_s)

        app = make_app(SECTION, SERVED, wait, lambda: {"RUNNING": 1}, token=None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rm") as http:
            held = [asyncio.create_task(http.post("/score", json={"items": [ITEM]})) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = await http.post("/score", content=b"not even looked at")
            health = await http.get("/health")
            gate.set()
            answered = await asyncio.gather(*held)
            after = await http.post("/score", json={"items": [ITEM]})
        return refused, health, [answer.status_code for answer in (*answered, after)]

    refused, health, answered = asyncio.run(story())
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    assert health.status_code == 200  # asking for it needs no room
    assert answered == [200, 200, 200]


def test_a_body_that_does_not_arrive_is_given_up_and_its_place_is_free_again():
    async def story():
        section = SECTION.model_copy(update={"max_requests": 1, "deadline_s": 0.2})
        app = make_app(section, SERVED, by_length, lambda: {"RUNNING": 1}, token=None)

        async def drip():
            for _ in range(40):  # each part comes in time, the whole does not
                yield b" "
                await asyncio.sleep(0.05)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rm") as http:
            request = http.post("/score", content=drip(), headers={"Content-Length": "40"})
            slow = asyncio.create_task(request)
            await asyncio.sleep(0.05)
            full = await http.post("/score", json={"items": [ITEM]})
            answer = await asyncio.wait_for(slow, 1.0)
            return answer, full.status_code, (await http.post("/score", json={"items": [ITEM]})).status_code

    answer, meanwhile, after = asyncio.run(story())
    assert (answer.status_code, answer.json()["error"]) == (408, "slow_body")
    assert answer.headers["Connection"] == "close"
    assert (meanwhile, after) == (429, 200)


def test_who_leaves_before_the_body_is_whole_frees_the_place():
    async def story():
        seen = []
        app = make_app(
            SECTION.model_copy(update={"max_requests": 1}), SERVED, by_length, lambda: {"RUNNING": 1}, token=None
        )
        scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b"", "http_version": "1.1"}
        parts = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

        async def receive():
            return parts.pop(0)

        async def send(message):
            seen.append(message)

        await app({**scope, "headers": [(b"content-length", b"9")]}, receive, send)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rm") as http:
            return seen, (await http.post("/score", json={"items": [ITEM]})).status_code

    assert asyncio.run(story()) == ([], 200)


def test_health_says_when_no_replica_is_there():
    assert client().get("/health").json() == {"status": "ok", "replicas": {"RUNNING": 1}}
    answer = client(replicas=lambda: {"STARTING": 2}).get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "2"


def test_health_says_so_too_when_replicas_cannot_be_counted(caplog):
    def lost():
        raise ConnectionError("the controller is gone")

    answer = client(replicas=lost).get("/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable", "replicas": {}})
    assert "the controller is gone" in caplog.text


def test_openapi_describes_every_route_and_status():
    api = client().get("/openapi.json").json()
    assert {"/score", "/health", "/version"} <= set(api["paths"])
    post = api["paths"]["/score"]["post"]
    assert set(post["responses"]) == {"200", "400", "401", "408", "411", "413", "422", "429", "500", "503", "504"}
    schemas = api["components"]["schemas"]
    assert set(schemas["Item"]["required"]) == {"prompt", "reasoning"}
    assert set(schemas["ScoredItem"]["properties"]) == {"raw", "score", "tokens", "truncated"}
    assert {"items", "version", "score_map"} <= set(schemas["ScoreAnswer"]["properties"])
    assert client().get("/docs").status_code == 200
