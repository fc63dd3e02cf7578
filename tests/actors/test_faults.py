"""Parts that die, hang or fail while a scripted run goes on, and runs that go on from a checkpoint."""

import concurrent.futures
import json
import os
import signal
import threading
import time

import pytest
import ray
from scripted import GROUP, versions

from pgrpo_ray.actors import waits
from pgrpo_ray.data.ledger import audit
from pgrpo_ray.data.run_state import read_state
from pgrpo_ray.errors import EnvironmentFault, LostError, OwnershipError, StageError
from pgrpo_ray.obs.checkpoints import OWNER, CheckpointStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.3)


def trained(fleet):
    return [(problem, sample) for rank in fleet.learner for problem, sample, _ in ray.get(rank.trained.remote())]


def metrics(log):
    return [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mood", ["dies at once", "dies between groups", "dies over weights", "dies while it loads"])
def test_a_rollout_worker_that_dies_is_started_again_and_nothing_is_lost_or_doubled(make_driver, mood):
    steps = 100  # long enough for it to come back
    driver, fleet, log = make_driver(rollout=mood, prompts=4, steps=steps)
    driver.run()
    rows = trained(fleet)
    assert len(rows) == steps * 4 * (GROUP - 1)  # each sample that was not lost to its judge
    assert audit(log.folder / "ledger")["trained"] == len(rows)
    assert versions(fleet) == [2 * steps, 2 * steps]
    assert sum(step["worker_restarts"] for step in metrics(log)) >= 1
    assert "rollout worker 1 (pid " in driver.said()
    assert "died: " in driver.said()


def stop_after_a_step(log, actor, number=signal.SIGSTOP):
    """Have the process of an actor stopped once the run has taken a step; return its pid."""
    pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))

    def wait_and_stop():
        while not (log.folder / "metrics.jsonl").read_text():
            time.sleep(0.05)
        os.kill(pid, number)

    threading.Thread(target=wait_and_stop, daemon=True).start()
    return pid


def test_a_stopped_rollout_worker_is_found_named_and_replaced(make_driver):
    driver, fleet, log = make_driver(steps=300, cluster={"silence_s": 3.0})
    stopped = stop_after_a_step(log, fleet.rollout[1])
    driver.run()
    assert f"rollout worker 1 (pid {stopped} on " in driver.said()
    assert "its process is stopped" in driver.said()
    assert audit(log.folder / "ledger")["trained"] == 300 * 3 * (GROUP - 1)


def test_without_another_the_run_waits_for_the_one_that_comes_back(make_driver):
    driver, _, log = make_driver(rollout="fails", respawned="normal")
    driver.run()
    assert driver.said().count("ZeroDivisionError: no engine") >= 2  # both engines failed
    assert audit(log.folder / "ledger")["trained"] == 2 * 3 * (GROUP - 1)


@pytest.mark.parametrize(
    ("settings", "respawned", "kind", "words"),
    [
        ({"max_restarts": 1}, "fails", "StageError", "no engine It has been started again .*=1 times"),
        ({"max_restarts": 1}, "does not start", "StageError", "MemoryError: no room for the model It has been started"),
        ({"on_failure": "go_on"}, "normal", "LostError", "ZeroDivisionError: no engine No rollout worker is left"),
        ({"on_failure": "stop"}, "normal", "LostError", "ZeroDivisionError: no engine No rollout worker is left"),
    ],
)
def test_a_run_without_rollout_workers_ends_with_the_first_cause(make_driver, settings, respawned, kind, words):
    driver, _, _ = make_driver(rollout="fails", respawned=respawned, cluster=settings)
    with pytest.raises(StageError, match=words) as raised:
        driver.run()
    assert type(raised.value).__name__ == kind  # after a LostError all roles are started again


def test_with_what_is_left_a_run_goes_on_where_it_shall(make_driver):
    driver, _, log = make_driver(rollout="dies at once", steps=3, cluster={"on_failure": "go_on"})
    driver.run()
    assert audit(log.folder / "ledger")["trained"] == 3 * 3 * (GROUP - 1)
    assert sum(step["worker_restarts"] for step in metrics(log)) == 0


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_learner_rank_ends_the_attempt_and_is_named(make_driver, stop):
    driver, fleet, log = make_driver(steps=3000, cluster={"silence_s": 3.0})
    pid = stop_after_a_step(log, fleet.learner[1], stop)
    with pytest.raises(LostError, match=rf"learner rank 1 \(pid {pid} .* died: ") as raised:
        driver.run()
    assert raised.value.stage == "learner"
    assert ("its process is stopped" in driver.said()) is (stop == signal.SIGSTOP)


def test_a_run_goes_on_from_any_checkpoint_with_what_was_done_and_what_was_under_way(make_driver):
    settings = {"prompts": 3, "steps": 6, "algo": {"max_staleness": 4, "old_logprobs": "rollout"}}
    first, _, log = make_driver(**settings, checkpoint={"every_steps": 1, "keep": 9})
    first.run()
    whole = audit(log.folder / "ledger")
    store = CheckpointStore(str(log.folder / "checkpoints"))
    pending = [name for name in store.names() if any("pending" in file for file in store.open(name).manifest.files)]
    assert len(store.names()) == 6 and pending
    for name in pending[:2]:
        checkpoint = store.open(name)
        state = read_state(checkpoint)
        log.close()
        again, others, log = make_driver(**settings, resumed=(checkpoint, state), checkpoint={"every_steps": 0})
        done = sum(len(demand.done) for demand in state.asked)
        assert done > 0
        again.run()
        assert audit(log.folder / "ledger") == whole
        assert [step["step"] for step in metrics(log)] == list(range(1, 7))
        assert len(trained(others)) == (6 - state.step) * 3 * (GROUP - 1)


def test_a_run_whose_checkpoints_another_process_has_claimed_ends_and_leaves_them(make_driver):
    driver, _, log = make_driver(steps=3000, checkpoint={"every_steps": 1, "max_failures": 9})
    folder = log.folder / "checkpoints"

    def claim():
        while not (folder / "step-000001").exists():
            time.sleep(0.05)
        (folder / OWNER).write_text(json.dumps({"owner": "process 7 on elsewhere"}))

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        claimed = thread.submit(claim)
        with pytest.raises(OwnershipError, match="taken over by process 7 on elsewhere"):
            driver.run()
        claimed.result()
    assert "process 7" in (folder / OWNER).read_text()


def test_a_checkpoint_that_fails_is_told_and_too_many_end_the_run(make_driver):
    driver, _, log = make_driver(learner="meets a full disk", steps=3, checkpoint={"every_steps": 1, "max_failures": 9})
    driver.run()
    assert driver.said().count("no checkpoint of step") == 3
    assert CheckpointStore(str(log.folder / "checkpoints")).names() == []
    assert [path.name for path in (log.folder / "checkpoints").iterdir()] == [OWNER]
    log.close()
    driver, _, _ = make_driver(learner="meets a full disk", steps=9, checkpoint={"every_steps": 1, "max_failures": 1})
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        driver.run()
