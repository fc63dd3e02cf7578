"""The reward server on a real Ray Serve: load with a killed replica, overload, deadlines, groups by handle, its end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import pyarrow as pa
import pytest
import ray
import torch
from ray import serve
from tiny_qwen3 import TOKENIZER, tiny_config
from transformers import Qwen3ForSequenceClassification

from pgrpo_ray.actors import waits
from pgrpo_ray.actors.reward_server import RewardReplica, RewardServer
from pgrpo_ray.actors.scoring import GroupScorer
from pgrpo_ray.actors.spawn import reward_env
from pgrpo_ray.actors.supervision import Supervisor
from pgrpo_ray.config import ClusterSection, RewardModelSection
from pgrpo_ray.config.serving import ServerSection
from pgrpo_ray.data import arrow
from pgrpo_ray.data.scalars import scalar_table, thinking_table
from pgrpo_ray.errors import DeadlineError, EnvironmentFault, ModelError, StageError
from pgrpo_ray.reward_model.http_api import make_app
from pgrpo_ray.reward_model.model import RewardModel
from pgrpo_ray.reward_model.scorer import RewardScorer
from pgrpo_ray.reward_model.version import folder_version
from pgrpo_ray.types import Judgement, Verdict

pytestmark = [pytest.mark.ray]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
CLIENTS, REQUESTS = 64, 4
"""Each client sends so many requests, one after the other."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    network = Qwen3ForSequenceClassification(tiny_config(num_labels=1, max_position_embeddings=4096)).eval()
    path = tmp_path_factory.mktemp("rm") / "model"
    RewardModel(network, TOKENIZER).save(path)
    return path


def started(folder, name, replicas, version=None):
    section = RewardModelSection(model=str(folder), replicas=replicas, gather=4)
    version = version or folder_version(Path(folder))
    server = RewardServer(name, section, version, reward_env(section), drain_s=1.0)
    server.deploy()
    return server


@pytest.fixture(scope="module")
def server(folder, local_ray):
    """Two replicas, to which bundles of four reasonings go."""
    server = started(folder, "under-test", 2)
    server.wait_ready(120)
    yield server
    server.close(cluster_ends=False)


def test_one_that_is_deployed_while_another_run_shuts_serve_down_comes_up(folder, local_ray):
    first = started(folder, "of-a-run-that-ends", 1)
    first.wait_ready(120)
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    ray.get(controller.graceful_shutdown.remote(wait=False))
    second = started(folder, "of-a-run-that-begins", 1)
    assert second.wait_ready(120).version == folder_version(Path(folder))
    second.close(cluster_ends=False)


@pytest.fixture(scope="module")
def scorer(folder):
    return RewardScorer(RewardModelSection(model=str(folder)))


def http_client(server, scorer):
    app = make_app(ServerSection(max_requests=16), scorer.served, server.score, server.replicas, token=None)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rm", timeout=60)


def test_a_replica_killed_under_load_loses_no_request(server, scorer):
    """The client does what docs/reward-server.md says: 429 and 503 are asked again after Retry-After seconds."""
    statuses, answers = Counter(), {}

    async def client(http, number):
        for turn in range(REQUESTS):
            items = [{"prompt": f"problem {number}", "reasoning": f"reason {turn} " * (1 + number % 7)}]
            while True:
                answer = await http.post("/score", json={"items": items})
                statuses[answer.status_code] += 1
                if answer.status_code not in (429, 503):
                    break
                await asyncio.sleep(int(answer.headers["Retry-After"]) * (0.5 + number / CLIENTS))
            answers[number, turn] = items[0], answer.json()["items"][0] if answer.status_code == 200 else answer.text

    async def story():
        async with http_client(server, scorer) as http:
            clients = [asyncio.create_task(client(http, number)) for number in range(CLIENTS)]
            while statuses[200] < CLIENTS // 4:
                await asyncio.sleep(0.001)
            ray.kill(next(iter(server.replica_actors().values())))
            done_before = statuses[200]
            await asyncio.wait_for(asyncio.gather(*clients), 120)
            return done_before

    done_before = asyncio.run(story())
    assert done_before < CLIENTS * REQUESTS  # the kill came in the middle
    assert set(statuses) <= {200, 429, 503}, statuses
    assert statuses[200] == CLIENTS * REQUESTS == len(answers)
    asked = [(item["prompt"], item["reasoning"]) for item, _ in answers.values()]
    assert [one["raw"] for _, one in answers.values()] == pytest.approx(
        [one.raw for one in scorer.assess(asked)], abs=1e-5
    )
    deadline = time.monotonic() + 60
    while server.replicas().get("RUNNING") != 2:  # the dead one is replaced
        assert time.monotonic() < deadline, server.replicas()
        time.sleep(0.2)


def test_overload_is_told_at_once_and_nothing_is_silent(server, scorer):
    items = [{"prompt": "p", "reasoning": "x " * 500}] * 16

    async def one(http):
        started = time.monotonic()
        answer = await http.post("/score", json={"items": items})
        return answer.status_code, answer.headers.get("Retry-After"), time.monotonic() - started

    async def flood():
        async with http_client(server, scorer) as http:
            return await asyncio.gather(*[one(http) for _ in range(64)])  # four times what may be on its way

    answers = asyncio.run(flood())
    refused = [(retry, seconds) for status, retry, seconds in answers if status == 429]
    assert Counter(status for status, _, _ in answers) == {200: 16, 429: 48}
    assert {retry for retry, _ in refused} == {"1"}
    assert max(seconds for _, seconds in refused) < min(seconds for status, _, seconds in answers if status == 200)


def test_a_deadline_that_passes_is_an_answer_and_the_server_goes_on(server, scorer):
    async def story():
        async with http_client(server, scorer) as http:
            long = [{"prompt": "p", "reasoning": "word " * 2000}] * 64
            late = await http.post("/score", json={"items": long, "timeout_s": 0.02})
            fine = await http.post("/score", json={"items": long[:1]})
            return late, fine

    late, fine = asyncio.run(story())
    assert (late.status_code, late.json()["error"]) == (504, "deadline")
    assert "64 reasonings within 0.02 s" in late.json()["message"]
    assert fine.status_code == 200
    assert fine.json()["items"][0]["truncated"] is True
    with pytest.raises(DeadlineError):
        asyncio.run(server.score([("p", "r")], 1e-9))


def test_every_answer_names_the_version_that_gave_it(server, scorer, folder):
    async def ask():
        async with http_client(server, scorer) as http:
            return (await http.post("/score", json={"items": [{"prompt": "p", "reasoning": "r"}]})).json()

    assert asyncio.run(ask())["version"] == folder_version(folder)


def group(verdicts, rollout_table):
    """References of a group's tables and its scalar table; None stands for a rollout without a program."""
    rollouts = rollout_table("echo", [None if verdict is None else "x" for verdict in verdicts])
    judged = arrow.verdict_table([verdict and Judgement(verdict, 1, 1, 1.0, "docker") for verdict in verdicts])
    return ray.put(rollouts), scalar_table(rollouts, judged)


def test_the_driver_gets_thinking_tables_by_handle_and_only_passers_have_scores(server, scorer, rollout_table):
    groups = GroupScorer(server.ask_groups, 30.0)
    tables = group([Verdict.PASSED, Verdict.WRONG_ANSWER, None, Verdict.PASSED], rollout_table)
    scoring = groups.score(*tables, {"echo": "the statement"})
    assert ray.wait([scoring.ref], timeout=30)[0]
    rewards = groups.answer(scoring, 30)["thinking_reward"].to_pylist()
    (expected,) = scorer.score([("the statement", "t")])
    assert rewards == [pytest.approx(expected, abs=1e-5), None, None, pytest.approx(expected, abs=1e-5)]


def test_of_groups_that_travel_together_one_that_fails_leaves_the_others_their_scores():
    class Failing(RewardReplica):
        def __init__(self):
            pass

        async def _with_others(self, items, timeout_s):
            if any(reasoning == "bad" for _, reasoning in items):
                raise ModelError("not a number")
            return [SimpleNamespace(score=float(statement)) for statement, _ in items]

    rollouts = pa.table({"problem_id": ["p", "p", "q", "q"], "thinking": ["a", "bad", "b", "c"]})
    table = asyncio.run(Failing().score_groups(rollouts, [0, 1, 3], ["0.5", "0.5", "0.25"], 1.0))
    assert table["thinking_reward"].to_pylist() == [None, None, None, 0.25]
    assert table["thinking_error"].to_pylist() == ["ModelError: not a number"] * 2 + [None] * 2


def test_a_group_without_passers_asks_nobody(rollout_table, local_ray):
    scoring = GroupScorer(None, 30.0).score(*group([Verdict.WRONG_ANSWER, None], rollout_table), {"echo": "?"})
    assert scoring.ref is None
    assert scoring.table.to_pylist() == [{"thinking_reward": None, "thinking_error": None}] * 2


def test_everyone_with_reasoning_is_scored_where_the_rule_asks_for_it(rollout_table, local_ray):
    asked = []
    tables = group([Verdict.WRONG_ANSWER, None, Verdict.PASSED], rollout_table)
    for scored in ("none", "passers", "all"):
        ask = lambda _, rows, *__: asked.append(rows) or "a reference"  # noqa: E731
        GroupScorer(ask, 30.0, scored).score(*tables, {"echo": "?"})
    assert asked == [[2], [0, 2]]


def test_a_server_without_replicas_ends_the_run_after_one_deadline(rollout_table):
    def ask(*_):
        raise TimeoutError

    with pytest.raises(StageError, match=r"no replica within reward_model\.deadline_s=30 s"):
        GroupScorer(ask, 30.0).score(*group([Verdict.PASSED], rollout_table), {"echo": "?"})


class Dying:
    """Dies for the first `deaths` groups."""

    def __init__(self, deaths):
        self.deaths = deaths

    def score(self, rollouts, rows, statements, timeout_s):
        if self.deaths:
            os._exit(1)
        return thinking_table(rollouts.num_rows, {0: 0.5})


@pytest.mark.parametrize(("deaths", "seconds", "row"), [([1, 1, 0], 30, (0.5, None)), ([1] * 99, 2, (None, "died"))])
def test_a_group_whose_replica_dies_goes_to_another_until_its_deadline(local_ray, rollout_table, deaths, seconds, row):
    replicas, deaths = [], list(deaths)

    def ask(*args):
        replicas.append(ray.remote(num_cpus=0)(Dying).remote(deaths.pop(0)))
        return replicas[-1].score.remote(*args)

    groups = GroupScorer(ask, seconds)
    scoring = groups.score(*group([Verdict.PASSED, Verdict.WRONG_ANSWER], rollout_table), {"echo": "?"})
    while scoring.ref is not None:
        ray.wait([scoring.ref], timeout=30)
        groups.answer(scoring, 30)
    reward, words = row
    first, second = scoring.table.to_pylist()
    assert first["thinking_reward"] == reward
    assert words in first["thinking_error"] if words else first["thinking_error"] is None
    assert second == {"thinking_reward": None, "thinking_error": None}
    assert len(replicas) > 1
    for replica in replicas:
        ray.kill(replica)


def test_a_replica_that_is_stopped_is_named_ended_and_replaced(server, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    said = []
    crew = Supervisor([], {}, ClusterSection(silence_s=3.0), None, said.append, server.replica_actors)
    name, replica = next(iter(server.replica_actors().items()))
    stopped = ray.get(replica.__ray_call__.remote(lambda _: os.getpid()), timeout=30)

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, said
            crew.look()
            time.sleep(0.1)

    until(lambda: crew._watchdog._watched and all(one.pulse for one in crew._watchdog._watched.values()))
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: len(said) == 2)
    assert re.match(rf"\[red\]{name} \(pid {stopped} on .*\) has not answered for .* stopped by a signal", said[0])
    assert said[1].startswith(f"[red]{name} (pid {stopped} ") and " died: " in said[1]
    until(lambda: len(server.replica_actors().keys() - {name}) == 2 and server.replicas().get("RUNNING") == 2)
    assert len(said) == 2


def test_who_waits_for_a_replica_that_hangs_can_see_to_it(server, rollout_table, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    replicas, looks = server.replica_actors(), []
    pids = ray.get([one.__ray_call__.remote(lambda _: os.getpid()) for one in replicas.values()], timeout=30)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def look():
        looks.append(time.monotonic())
        if len(looks) == 3:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    server.meanwhile = look
    ref = server.ask_groups(ray.put(rollout_table("echo", ["print(1)"])), [0], ["?"], 60.0)
    assert ray.get(ref, timeout=60).num_rows == 1
    assert len(looks) >= 3
    server.meanwhile = lambda: None


def test_a_server_whose_process_is_killed_leaves_no_replica(server, folder):
    """On a cluster, where Serve is detached from who deployed."""
    code = (
        "import sys, time, ray; from test_reward_server import started\n"
        f"ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False)\n"
        f"started({str(folder)!r}, 'doomed', 1).wait_ready(120); print('ready', flush=True); time.sleep(600)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        assert "doomed" in serve.status().applications
        process.kill()
    deadline = time.monotonic() + 60
    while "doomed" in serve.status().applications:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server.replicas().get("RUNNING") == 2  # whose process lives


def test_what_cannot_start_says_why_and_leaves_the_other_server_alone(server, folder):
    wrong = started(folder, "wrong", 1, version="sha256:0")
    try:
        with pytest.raises(EnvironmentFault, match=r"is version sha256:\w+ on this node, the server was started with"):
            wrong.wait_ready(120)
        with pytest.raises(EnvironmentFault, match="application named 'under-test' already"):
            started(folder, "under-test", 1)
    finally:
        wrong.close(cluster_ends=False)
    assert set(serve.status().applications) == {"under-test"}
    assert server.replicas().get("RUNNING") == 2


def test_the_command_serves_and_an_interrupt_ends_all_of_it(folder, tmp_path):
    log = tmp_path / "terminal.log"
    entry = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()"]
    command = [*entry, "rm", "serve", "--model", str(folder), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "PGRPO_REWARD_TOKEN"}
    environment["PGRPO_CACHE"] = str(tmp_path / "cache")
    with log.open("wb") as terminal:
        run = subprocess.Popen(command, stdout=terminal, stderr=terminal, start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + 120
        while "serving version" not in (text := log.read_text()):
            assert run.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
        url = text.partition(" at ")[2].split()[0]
        token = (tmp_path / "cache" / "reward-server-token").read_text()
        bearer, body = {"Authorization": f"Bearer {token}"}, {"items": [{"prompt": "p", "reasoning": "r"}]}
        assert httpx.post(f"{url}/score", json=body, timeout=30).status_code == 401
        answer = httpx.post(f"{url}/score", json=body, headers=bearer, timeout=30)
        assert (answer.status_code, answer.json()["version"]) == (200, folder_version(folder))
        example = json.loads(text.partition(" -d '")[2].rpartition("'")[0])
        assert httpx.post(f"{url}/score", json=example, headers=bearer, timeout=30).status_code == 200
        assert f"Bearer $(cat {tmp_path}/cache/reward-server-token)" in text
        assert token not in text
        os.killpg(run.pid, signal.SIGINT)  # as a terminal's Ctrl-C
        assert run.wait(30) == 0, log.read_text()
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
    assert "Traceback" not in log.read_text()
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and session_of(pid) == run.pid]
    assert left == []


def session_of(pid):
    """The session that a living process belongs to; 0 for one that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, _, _, session = file.read().rpartition(")")[2].split()[:4]
    except OSError:
        return 0
    return 0 if state == "Z" else int(session)
