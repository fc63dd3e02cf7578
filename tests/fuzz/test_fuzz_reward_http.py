"""Requests to the reward server: whatever body and headers, an answer that the API declares; never status 500."""

import json

import pytest
from fastapi.testclient import TestClient
from fuzzing import damaged, edited, fuzz, nested
from hypothesis import example, given
from hypothesis import strategies as st

from pgrpo_ray.config.serving import ServerSection
from pgrpo_ray.reward_model.http_api import make_app
from pgrpo_ray.reward_model.score_maps import ScoreMap
from pgrpo_ray.reward_model.scorer import Scored, ServedModel

SERVED = ServedModel("a/model", "sha256:0123", "transformers", ScoreMap("sigmoid", 2.0, 0.5), 512)
SECTION = ServerSection(max_items=3, max_characters=1000, deadline_s=5.0)
REQUESTS = [
    {"items": [{"prompt": "p", "reasoning": "because"}]},
    {"items": [{"prompt": "é", "reasoning": "r"}, {"prompt": "p", "reasoning": "\u2028"}], "timeout_s": 1.5},
]
SEEDS = [json.dumps(one).encode() for one in REQUESTS]
DECLARED = {200, 400, 411, 413, 422}
"""Of what a body can earn; the other statuses tell of the server's state."""


async def score(items, timeout_s):
    assert 0 < timeout_s <= SECTION.deadline_s
    for prompt, reasoning in items:
        assert prompt.encode() and reasoning.encode()
    return SERVED, [Scored(0.5, 0.5, 3, False) for _ in items]


APP = make_app(SECTION, SERVED, score, lambda: {"RUNNING": 1}, token=None)


def read(data: bytes) -> None:
    """Post `data` as a request's body."""
    check(TestClient(APP).post("/score", content=data, headers={"content-type": "application/json"}), data)


def check(answer, data):
    assert answer.status_code in DECLARED
    assert len(answer.content) < 2000 + 100 * len(data)
    body = answer.json()
    if answer.status_code == 200:
        assert len(body["items"]) == len(json.loads(data)["items"])


@fuzz(250)
@given(
    damaged(SEEDS, [b"NaN", b"1e999", b"9" * 5000, nested(3000).encode(), b"\\ud800", b"\xff", b"null", b"\xff\xfe"])
    | edited(REQUESTS).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=30)
)
@example(b'{"\\ud800": 1}')
def test_bodies(data):
    read(data)


@fuzz(100)
@given(
    st.dictionaries(
        st.sampled_from(["content-type", "content-length", "accept", "content-encoding", "x-odd"]),
        st.sampled_from(
            ["", "0", "-1", "1e3", "9" * 5000, "a" * 999, "text/plain", "application/json; charset=utf-16", "gzip"]
        )
        | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=9),
    ),
    st.sampled_from(SEEDS),
)
def test_headers(headers, data):
    check(TestClient(APP).post("/score", content=data, headers=headers), data)


@pytest.mark.parametrize(
    ("length", "status"), [("9" * 5000, 413), ("0" * 30 + "9" * 10, 413), ("٣", 411), ("1_0", 411)]
)
def test_a_length_that_is_none_or_too_large_is_refused(length, status):
    answer = TestClient(APP).post("/score", content=b"{}", headers={"content-length": length.encode()})
    assert answer.status_code == status
