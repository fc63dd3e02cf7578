"""`pgrpo rm pairs` as a process of its own: killed and run again, and with a real vLLM worker as the generator."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_endpoint import FakeEndpoint
from fake_generator import generate, write_problems
from rich.console import Console

from pgrpo_ray.actors.chat import open_chat_model
from pgrpo_ray.config import parse_tree
from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.config.pairs import PairsConfig
from pgrpo_ray.errors import PgrpoError
from pgrpo_ray.jobs import pairs as job
from pgrpo_ray.types import ChatRequest

PAIRS = str(Path(__file__).parents[2] / "cluster" / "pairs.yaml")
NUM_PROBLEMS = 12


def command(out, problems, url):
    line = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", "rm", "pairs", PAIRS]
    for override in (
        "pairs.source=od",
        f"pairs.out={out}",
        f"problems.file={problems}",
        "chat.backend=endpoint",
        "chat.model=gen",
        f"chat.base_url={url}",
        "chat.concurrency=4",
    ):
        line += ["--set", override]
    return line


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


def slowly(body, number):
    time.sleep(0.05)
    return generate(body)


def test_a_killed_job_goes_on_and_neither_loses_nor_repeats_a_row(tmp_path):
    problems, out = write_problems(tmp_path / "problems.jsonl", NUM_PROBLEMS), tmp_path / "pairs.parquet"
    calls = tmp_path / "pairs.parquet.work" / "calls.jsonl"
    total = NUM_PROBLEMS * 7
    with FakeEndpoint(slowly) as endpoint:
        for kept in (5, 30):  # among the originals, then among their versions
            process = subprocess.Popen(
                command(out, problems, endpoint.url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                deadline = time.monotonic() + 60
                while not (calls.exists() and calls.read_bytes().count(b"\n") >= kept):
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.01)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            assert not out.exists()
        with calls.open("ab") as file:  # as a kill in the middle of a write leaves it
            file.write(b'{"key": "torn')
        before = [json.loads(line)["key"] for line in calls.read_bytes().splitlines()[:-1]]
        assert len(before) < total
        done = run(out, problems, endpoint.url)
        asked = len(endpoint.bodies)
    assert done.returncode == 0, done.stderr
    keys = [json.loads(line)["key"] for line in calls.read_text().splitlines()]
    assert keys[: len(before)] == before
    assert Counter(keys).most_common(1)[0][1] == 1
    assert len(keys) == total
    assert asked <= total + 2 * 4 + 1  # two kills with four requests on their way each, and the torn line
    with FakeEndpoint(generate) as endpoint:
        fresh = run(tmp_path / "fresh.parquet", problems, endpoint.url)
    assert fresh.returncode == 0
    table = pq.read_table(out).to_pylist()
    assert len({row["pair_id"] for row in table}) == len(table) == NUM_PROBLEMS * 9
    assert table == pq.read_table(tmp_path / "fresh.parquet").to_pylist()


def test_what_scripts_see(tmp_path):
    problems, out = write_problems(tmp_path / "problems.jsonl", 2), tmp_path / "pairs.parquet"
    with FakeEndpoint(lambda body, number: (401, {}, {"error": "no such key"})) as endpoint:
        done = run(out, problems, endpoint.url)
    assert (done.returncode, "chat.api_key_env" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    with FakeEndpoint(lambda body, number: "no tags") as endpoint:
        done = run(out, problems, endpoint.url)
    assert (done.returncode, "no pair came out" in done.stderr) == (1, True)


def test_ctrl_c_keeps_what_was_answered(tmp_path):
    problems, out = write_problems(tmp_path / "problems.jsonl", NUM_PROBLEMS), tmp_path / "pairs.parquet"
    calls = tmp_path / "pairs.parquet.work" / "calls.jsonl"
    with FakeEndpoint(slowly) as endpoint:
        process = subprocess.Popen(
            command(out, problems, endpoint.url), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            deadline = time.monotonic() + 60
            while not (calls.exists() and calls.read_bytes().count(b"\n") >= 5):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "what was written is kept" in errors and "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.fixture
def worker(tiny_starter):
    """A section of one small vLLM worker with the starter's tiny policy."""
    return ChatSection(
        model=str(tiny_starter.policy),
        name="tiny",
        concurrency=8,
        dtype="float32",
        max_model_tokens=512,
        kv_cache_mib=64,
        enforce_eager=True,
    )


@pytest.mark.ray
@pytest.mark.vllm
def test_a_real_vllm_worker_answers(worker):
    requests = [ChatRequest(f"r{n}", f"double each of {n}", seed=n, max_tokens=8 + n % 2) for n in range(70)]
    requests.append(ChatRequest("long", "word " * 600))
    with open_chat_model(worker) as model:
        answers = {answer.id: answer for answer in model.answer(iter(requests))}
        stopped = model.answer(iter(requests))
        next(stopped)
        stopped.close()
        again = {answer.id: answer for answer in model.answer(iter(requests[:3]))}
    assert model.name == "tiny"
    assert answers.keys() == {request.id for request in requests}  # more than one chunk of 64
    assert (answers["long"].text, answers["long"].finish_reason) == (None, "rejected")
    assert "chat.max_model_tokens is 512" in answers["long"].error
    for number in range(70):
        answer = answers[f"r{number}"]
        assert answer.text is not None and answer.finish_reason in {"stop", "length"}
        assert 0 < answer.completion_tokens <= 8 + number % 2
        assert answer.prompt_tokens > 3
    assert {key: answer.text for key, answer in again.items()} == {f"r{n}": answers[f"r{n}"].text for n in range(3)}


@pytest.mark.ray
@pytest.mark.vllm
def test_pairs_through_a_real_worker_report_what_could_not_be_read(worker, tmp_path):
    """A million parameters cannot follow the prompts: every answer is a failure, counted and kept, and none a pair."""
    config = parse_tree(
        PairsConfig,
        {
            "pairs": {"out": str(tmp_path / "pairs.parquet"), "max_problems": 6, "max_tokens": 64},
            "chat": worker.model_dump(),
            "starter": {"train_problems": 32, "heldout_problems": 16},
        },
    )
    config.check()
    terminal = io.StringIO()
    with pytest.raises(PgrpoError, match="no pair came out"):
        job.make(config, Console(file=terminal, width=160))
    report = json.loads((tmp_path / "pairs.report.json").read_text())
    calls = report["calls"]
    failed = sum(calls["failed"]["original"].values())
    assert (failed, calls["not_asked"], calls["parsed"], calls["unanswered"]) == (6, 36, {}, {})
    assert set(calls["failed"]["original"]) <= {"cut", "missing_tags", "empty"}
    assert report["tokens"]["completion"] > 0
    kept = [json.loads(line) for line in (tmp_path / "pairs.failures.jsonl").read_text().splitlines()]
    assert len(kept) == 6 and all(line["stage"] == "original" and isinstance(line["text"], str) for line in kept)
    assert report["generator"] == "tiny"
    with pytest.raises(PgrpoError, match="no pair came out"):  # the same again: nothing is asked, no worker started
        job.make(config, Console(file=io.StringIO()))
