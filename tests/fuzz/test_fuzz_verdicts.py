"""What comes from a sandbox: whatever its frames hold, a verdict that they earn or `SandboxError`; never a pass."""

import contextlib
import json
import math
import os
import socket
import struct
import time

import pytest
from fuzzing import damaged, edited, fuzz, nested
from hypothesis import example, given
from hypothesis import strategies as st

from pgrpo_ray.errors import SandboxError
from pgrpo_ray.sandbox import grade, wire
from pgrpo_ray.sandbox.inside.session import Session
from pgrpo_ray.sandbox.plan import make_request
from pgrpo_ray.sandbox.wire import Wire
from pgrpo_ray.types import CallCase, Problem, StdinCase, TestStyle, Verdict

SECRET = "q7kZ-expected"
"""What is expected. No input holds it, so nothing may pass."""
STDIN = Problem("s", "p", TestStyle.STDIN, (StdinCase("1", SECRET), StdinCase("2", SECRET)))
CALL = Problem("c", "p", TestStyle.CALL, (CallCase([1], [SECRET]), CallCase([2], {"a": [SECRET]})), entry_point="f")
EASY = Problem("e", "p", TestStyle.STDIN, (StdinCase("1", "yes"), StdinCase("2", "yes")))


def result(**fields):
    told = {"status": "ok", "fresh": True, "wall_ms": 2.5, "cpu_ms": 1, "peak_kib": 9000, "detail": "", "signal": 0}
    return told | fields


def answer(*results, **fields):
    return {"id": "7", "cases": list(results), "dirty": False, **fields}


ANSWERS = [
    answer(result(output="no\n", stray=False), result(output="no", fresh=False)),
    answer(result(value='[{"t":[1,{"s":["a"]}]}]'), result(value='[{"d":[["a",[1]]]}]')),
    answer(result(value='[{"D":"sNaN"}]'), result(value='[{"F":[1,3]}]')),
    answer(result(status="time_limit", in_doubt=True), result(status="skipped", fresh=False)),
    answer(result(status="error", signal=9, detail="killed"), result(status="output_limit")),
    {"id": "7", "fault": "RuntimeError: a killed process did not end"},
]
EARNED = answer(result(output="yes"), result(output="yes", fresh=False))


def frame(value) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return wire.LENGTH.pack(len(data)) + data


def pieces(data: bytes, sizes=(5, 100, 1), streams=(1, 1, 2)) -> bytes:
    """Bytes as Docker's attach stream carries them."""
    out, at = b"", 0
    while at < len(data):
        size, stream = sizes[at % len(sizes)], streams[at % len(streams)]
        out += struct.pack(">BxxxI", stream, size if stream == 2 else len(data[at : at + size]))
        out += b"\xe9" * size if stream == 2 else data[at : at + size]
        at += size if stream != 2 else 0
        streams = (1,) if stream == 2 else streams
    return out


FRAMES = [frame(one) for one in ANSWERS]
SEEDS = [b"s" + one for one in FRAMES] + [b"S" + pieces(one) for one in FRAMES]
TOKENS = [
    b"\xff\xff\xff\xff", b"\0\0\0\0", b"NaN", b"Infinity", b"-1", b"1e999", b"null", b"{}", b"[]", b'"fault":',
    b"9" * 5000,
    nested(3000).encode(), b"\\ud800", b"\xff", b'"id": "7"', b'"id": "8"', b"true",
]  # fmt: skip


def judged(data: bytes, problem: Problem, *, multiplexed=False, ends=True, timeout_s=5.0):
    """Judge a program in a sandbox that says `data`, whatever it is asked."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data)
        if ends:
            theirs.shutdown(socket.SHUT_WR)
        line = Wire(ours, multiplexed=multiplexed)

        def ask(cases, alone):
            request = make_request(problem, "x", "7", cases)
            return line.ask(request, timeout_s)["cases"]

        return grade.judge(problem, ask, "process", fail_fast=False)


def read(data: bytes) -> None:
    """Judge by what follows the first byte, which says whether it came through Docker and whether it goes on."""
    head, rest = data[:1] or b"s", data[1:60_000]
    start = time.monotonic()
    for problem in (STDIN, CALL):
        try:
            judgement = judged(rest, problem, multiplexed=head[0] & 32 == 0, ends=head[0] & 1 == 1, timeout_s=0.05)
        except SandboxError:
            continue
        assert judgement.verdict is not None and judgement.verdict is not Verdict.PASSED
        assert judgement.detail.isascii() and len(judgement.detail) < 400
    assert time.monotonic() - start < 5


@fuzz(400)
@given(damaged(SEEDS, TOKENS) | st.binary(max_size=40))
@example(b"s" + frame(b"[]"))
@example(b"s" + frame(b'{"id": "7"}'))
@example(b"s" + frame(nested(3000).encode()))
@example(b"S" + struct.pack(">BxxxI", 1, 2**32 - 1) + b"x")
def test_damaged_streams(data):
    read(data)


@fuzz(300)
@given(st.lists(st.sampled_from(FRAMES) | edited(ANSWERS).map(frame), max_size=4).map(b"".join), st.booleans())
def test_frames_left_out_doubled_and_reordered(data, multiplexed):
    read((b"S" + pieces(data)) if multiplexed else b"s" + data)


@fuzz(500)
@given(edited([EARNED]))
@example(answer(result(output="yes", cpu_ms=math.nan), result(output="yes")))
@example(answer(result(output="yes", cpu_ms=True), result(output="yes")))
@example(answer(result(), result(output="yes")))
@example(answer(result(output="yes", peak_kib=10**400), result(output="yes", wall_ms=1e308)))
def test_a_pass_is_earned_by_every_case(value):
    """Said again without the package's own rules: what an answer must hold for a program to have passed."""
    try:
        judgement = judged(frame(value) * 3, EASY)
    except SandboxError:
        return
    if judgement.verdict is Verdict.PASSED:
        assert value["id"] == "7" and type(value["dirty"]) is bool and len(value["cases"]) == 2
        for one in value["cases"]:
            assert one["status"] == "ok" and one["output"].split() == ["yes"] and not one.get("stray")
            assert 0 <= one["cpu_ms"] <= 1.02 * 1000 * EASY.limits.cpu_s


def test_the_honest_answer_passes_in_both_ways():
    assert judged(frame(EARNED), EASY).verdict is Verdict.PASSED
    assert judged(pieces(frame(EARNED)), EASY, multiplexed=True).verdict is Verdict.PASSED


@pytest.mark.parametrize("announced", [wire.LENGTH.pack(wire._MAX_ANSWER + 1), struct.pack(">BxxxI", 1, 2**32 - 1)])
def test_more_than_fits_is_refused_before_it_is_read(announced):
    """And not waited for: the deadline is far away, and the connection stays open."""
    start = time.monotonic()
    with pytest.raises(SandboxError, match="announced"):
        judged(announced, STDIN, multiplexed=len(announced) > 4, ends=False, timeout_s=30)
    assert time.monotonic() - start < 5


class Place:
    """A warden as far as a session needs one that only listens."""

    def place_cpu_s(self):
        return None


NONCE = b"0f" * 16
STATEMENTS = [
    b"value 3\n[1]", b"end 6\n0 2\nno", b"end 4\n1 0\n", b"held 0\n", b"failed 1\nx", b"error 3\nbad",
    b"output_limit 0\n",
    b"done 0\n", b"confined 1\n7", b"fault 1\nx", b"end 3\n\xff\xfe\xfd", b"end 99999999\n", b"end 11\n0 999999999",
    b"nothing 0\n",
]  # fmt: skip
SAID = st.lists(
    st.sampled_from([NONCE + b" " + one for one in STATEMENTS] + [NONCE, b" ", b"\n", b"stray"])
    | st.binary(max_size=5),
    max_size=8,
).map(b"".join)


@fuzz(400)
@given(SAID | damaged([NONCE + b" " + one for one in STATEMENTS]), st.sampled_from([STDIN, CALL]), st.integers(1, 40))
def test_what_a_program_says_of_itself_earns_no_pass(said, problem, step):
    """Whatever it writes to its link, however cut: the session's results are well-formed, no more than the cases."""
    request = make_request(problem, "x", "7")
    session = Session(Place(), request, request["cases"])
    end, other = os.pipe()
    os.close(other)
    link = session.stream(end, 1 << 20)
    try:
        session.nonces[link], session.confined[link] = NONCE, 1
        session.deaths[1] = {"spent_s": 0.0}
        session.began, session.cpu_mark, session.place_mark = time.monotonic(), 0.0, None
        for at in range(0, len(said), step):
            link.data += said[at : at + step]
            session.listen(link)
    finally:
        for fd in session.open:
            os.close(fd)
    while len(session.results) < len(session.cases) and session.stop is None:
        session.note("exit", "ended early")
    results = [one | {"peak_kib": 1} for one in session.results]
    assert len(results) <= len(problem.cases)
    try:
        judgement = judged(frame(answer(*results)) * 5, problem)
    except SandboxError as error:
        assert "damaged" not in str(error)
        return
    assert judgement.verdict is not Verdict.PASSED
