"""The loop on real Ray actors whose work is scripted: order, conservation, versions, failures."""

import itertools
import json
import re
import time
import urllib.request

import pytest
import ray
from scripted import GROUP, Ledger, remote, versions

from pgrpo_ray.actors import waits
from pgrpo_ray.actors.group_flow import STREAM_AHEAD
from pgrpo_ray.algo.rewards import RULES, Term, reward_rule
from pgrpo_ray.data import arrow
from pgrpo_ray.errors import CorruptionError, MismatchError, StageError, WeightSyncError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_every_row_with_gradient_is_trained_once_and_failures_never(make_driver):
    driver, fleet, log = make_driver()
    result = driver.run()
    rows = [row for rank in fleet.learner for row in ray.get(rank.trained.remote())]
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 * (GROUP - 1)  # sample 1 of each group was lost to the machinery
    assert {sample for _, sample, _ in rows} == {0, 2, 3}
    assert sorted({problem for problem, _, _ in rows}) == [f"p{n}" for n in range(6)]  # one epoch of two steps
    for metrics in steps:
        assert (metrics["issued"], metrics["dropped"]) == (12, 3)
        assert metrics["pass_rate"] == pytest.approx(1 / 3)
        assert metrics["staleness_max"] == 0
        assert metrics["cache_hit_frac"] == 0.5
    assert [metrics["runner_restarts"] for metrics in steps] == [0, 0]  # its one restart came before the first step
    assert result.policy_version == 4  # two mini-batches with gradient in each of two steps


def test_rewards_and_advantages_on_disk_are_right(make_driver):
    driver, _, log = make_driver()
    driver.run()
    table = arrow.read_ipc(log.rollouts_path(2))
    assert table.schema.equals(arrow.BATCH_SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 3 * GROUP
    assert {row["policy_version"] for row in rows} == {2}  # sampled with what step 1 published
    for group in range(3):
        members = rows[group * GROUP : (group + 1) * GROUP]
        assert len({row["problem_id"] for row in members}) == 1
        assert [row["reward"] for row in members] == [2.5, None, 1.0, 1.0]
        assert [row["dropped"] for row in members] == [None, "execution_error", None, None]
        # mean 1.5, sample deviation sqrt((1 + .25 + .25) / 2)
        assert members[0]["advantage"] == pytest.approx(1.0 / 0.75**0.5)
        assert sum(row["advantage"] or 0.0 for row in members) == pytest.approx(0.0, abs=1e-6)


def test_groups_without_a_gradient_are_replaced_up_to_the_bound_of_rounds(make_driver):
    driver, fleet, log = make_driver(execution="half flat", algo={"sampling_rounds": 5})
    driver.run()
    trained = [row for rank in fleet.learner for row in ray.get(rank.trained.remote())]
    # Three of the six problems have a gradient; every step finds all of them, whichever it began with.
    assert len(trained) == 2 * 3 * (GROUP - 1)
    assert {problem for problem, _, _ in trained} == {"p0", "p2", "p4"}
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    for number, metrics in enumerate(steps, 1):
        table = arrow.read_ipc(log.rollouts_path(number)).to_pylist()
        groups = {row["problem_id"] for row in table}
        assert len(table) == metrics["issued"] == GROUP * len(groups)  # no problem twice
        flat = {problem for problem in groups if int(problem[1:]) % 2}
        assert metrics["masked"] == (GROUP - 1) * len(flat)
        masked = {(row["problem_id"], row["masked"]) for row in table if row["masked"]}
        assert masked == {(problem, "no_gradient") for problem in flat}
    assert max(metrics["issued"] for metrics in steps) > 3 * GROUP


def test_cut_responses_count_in_their_group_and_not_in_the_loss(make_driver):
    driver, fleet, log = make_driver(algo={"mask_cut": True})
    driver.run()
    trained = {sample for rank in fleet.learner for _, sample, _ in ray.get(rank.trained.remote())}
    assert trained == {0, 2}
    last = arrow.read_ipc(log.rollouts_path(1)).to_pylist()[GROUP - 1]
    assert (last["masked"], last["reward"]) == ("cut", 1.0)
    assert last["advantage"] < 0


def test_a_budget_of_rollouts_ends_the_run_with_the_batch_that_reaches_it(make_driver):
    driver, _, log = make_driver(steps=9, max_rollouts=13)  # a batch has 12
    driver.run()
    assert len((log.folder / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("given", [{"outcome": [9.0] * 12}, None], ids=["beyond its range", "fails"])
def test_a_rule_of_ones_own_that_breaks_ends_the_run_by_name(make_driver, given):
    rule = reward_rule(terms=(Term("outcome", 0, 1),), scores="none")(lambda signals: given or given["outcome"])
    driver, _, _ = make_driver(rule=rule)
    with pytest.raises(StageError, match=r"failed on a batch: (ValueError.*declared in|TypeError)"):
        driver.run()


def test_an_arm_without_thinking_asks_no_reward_server(make_driver):
    driver, _, log = make_driver(rule=RULES["outcome_only"], reward="has no scores")
    driver.run()
    members = arrow.read_ipc(log.rollouts_path(1)).to_pylist()[:GROUP]
    assert [row["reward"] for row in members] == [2.0, None, 1.0, 1.0]
    assert {row["thinking_error"] for row in members} == {None}


def test_the_shares_of_the_advantages_variance_are_reported(make_driver):
    driver, _, log = make_driver()
    driver.run()
    metrics = json.loads((log.folder / "metrics.jsonl").read_text().splitlines()[0])
    # The passer has 1 of outcome and 0.5 of thinking over the others, the format is everyone's.
    shares = {term: metrics[f"advantage_share_{term}"] for term in ("format", "outcome", "thinking")}
    assert shares == pytest.approx({"format": 0.0, "outcome": 2 / 3, "thinking": 1 / 3})


def test_heldout_problems_are_measured_but_not_trained(make_driver):
    driver, fleet, _ = make_driver(heldout=5)
    result = driver.run()
    trained = {problem for rank in fleet.learner for problem, _, _ in ray.get(rank.trained.remote())}
    assert not {problem for problem in trained if problem.startswith("h")}
    assert result.before.value == pytest.approx(1 / 3)  # of four samples one passes, one is lost, two are wrong
    assert result.before.low <= result.before.value <= result.before.high


def test_a_batch_lost_to_machinery_stops_the_run_with_its_cause(make_driver):
    driver, _, _ = make_driver(execution="broken")
    with pytest.raises(StageError, match=r"all 12 rollouts.*container gone"):
        driver.run()


def test_dead_pools_stop_the_run_and_are_named(make_driver):
    driver, _, _ = make_driver(execution="dies")
    with pytest.raises(StageError, match=r"all 12 rollouts.*execution pool: its process died"):
        driver.run()


def test_a_hanging_pool_costs_time_and_no_verdict(make_driver, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    driver, _, log = make_driver(execution="hangs", beside=["normal"])
    driver.run()
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert [step["dropped"] for step in steps] == [3, 3]  # sample 1 of each group, as ever
    assert steps[0]["judged_again"] > 0


def test_hanging_pools_stop_the_run_and_are_named(make_driver, monkeypatch):
    monkeypatch.setattr(waits, "LOOK_S", 0.2)
    driver, _, _ = make_driver(execution="hangs")
    with pytest.raises(StageError, match=r"all 12 rollouts.*execution pool: no answer within 2 s"):
        driver.run()


def test_when_judging_lags_sampling_waits(make_driver):
    ledger = remote(Ledger)
    driver, fleet, _ = make_driver(execution="slow", prompts=40, queue=4 * GROUP, ledger=ledger)
    driver.run()
    bound = fleet.pools.max_groups(GROUP)
    assert bound == 4  # groups of four programs in a queue for 16
    assert fleet.pools.most == bound
    # What the workers finish beyond it is what they may be ahead; without a bound all 40 would wait.
    assert bound < ray.get(ledger.seen.remote()) <= bound + len(fleet.rollout) * STREAM_AHEAD
    ray.kill(ledger)


def test_a_version_that_one_worker_refuses_no_worker_loads(make_driver):
    driver, fleet, _ = make_driver(rollout="refuses weights")
    with pytest.raises(WeightSyncError, match=r"version 2 .* none has loaded any of it\. a checksum differs"):
        driver.run()
    assert versions(fleet) == [0, 0]


def test_a_worker_that_is_late_with_a_version_keeps_all_from_loading_it(make_driver):
    driver, fleet, _ = make_driver(rollout="hangs over weights", sync={"deadline_s": 6.0})
    ray.get([actor.__ray_call__.remote(lambda _: None) for actor in fleet.all()])  # else they would still be starting
    with pytest.raises(WeightSyncError, match=r"within 6 s, so none has loaded any of it. Raise sync.deadline_s"):
        driver.run()
    assert ray.get(fleet.rollout[0].held.remote()) == 0


def test_a_worker_that_breaks_while_it_loads_ends_the_run_and_is_named(make_driver):
    driver, fleet, _ = make_driver(rollout="breaks while it loads")
    with pytest.raises(WeightSyncError, match=r"1 of 2 rollout workers failed .* version 2.*no room for the head"):
        driver.run()
    assert versions(fleet) == [2, "a mixture"]


def test_rollouts_of_another_version_than_asked_for_end_the_run(make_driver):
    driver, _, _ = make_driver(rollout="samples with old weights")
    with pytest.raises(CorruptionError, match=r"policy version 0, before it was asked for, .* version 2"):
        driver.run()


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("answers twice", "came twice"),
        ("answers nobody", "q7 was not asked for"),
        ("answers another", "answers another prompt"),
        ("mixes two prompts", "answers another prompt"),
        ("reorders", r"has the samples \[3, 2, 1, 0\] in this order, 4 were asked for"),
        ("repeats a sample", r"has the samples \[0, 0, 1, 2\]"),
        ("loses a rollout", r"has the samples \[0, 1, 2\]"),
    ],
)
def test_groups_that_are_not_what_was_asked_for_end_the_run_before_they_are_trained_on(make_driver, mood, words):
    driver, fleet, _ = make_driver(rollout=mood)
    with pytest.raises(CorruptionError, match=rf"rollout worker: a group of problem .*{words}"):
        driver.run()
    assert ray.get([rank.trained.remote() for rank in fleet.learner]) == [[], []]


def test_a_learner_that_has_other_rows_than_were_rewarded_ends_the_run_before_it_publishes(make_driver):
    driver, fleet, log = make_driver(learner="swaps two rows")
    with pytest.raises(CorruptionError, match=r"rank 1 trained on are not those that were judged"):
        driver.run()
    assert versions(fleet) == [0, 0]
    assert arrow.read_ipc(log.rollouts_path(1)).num_rows == 12


@pytest.mark.parametrize(("rollout", "frac"), [("normal", 0.0), ("says the same", 0.75)])
def test_rollouts_that_are_one_another_are_counted(make_driver, rollout, frac):
    driver, _, log = make_driver(rollout=rollout, execution="flat", prompts=1)
    driver.run()
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    # The scripted responses are alike for every problem, and nothing was learned between the steps.
    assert [step["repeated_frac"] for step in steps] == [frac, 1.0]


@pytest.mark.parametrize(("mood", "version"), [("skips one", 2), ("skips all", 0)])
def test_a_skipped_step_is_counted_told_and_makes_no_version(make_driver, mood, version):
    driver, fleet, log = make_driver(learner=mood)
    assert driver.run().policy_version == version
    assert versions(fleet) == [version] * 2
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    skipped = 1 if version else 2
    assert [(step["skipped_steps"], step["optimizer_steps"]) for step in steps] == [(skipped, 2 - skipped)] * 2
    assert [step["policy_version"] for step in steps] == [version // 2, version]
    assert [step["staleness_max"] for step in steps] == [0, 0]
    assert driver._display.console.file.getvalue().count("[it] was no number") == 2 * skipped


def test_wall_clocks_that_jump_change_nothing(make_driver, monkeypatch):
    jumps = itertools.cycle([0.0, 1e6, -1e6, 40.0])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    driver, _, log = make_driver(heldout=2)
    assert driver.run().steps == 2
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= step[key] < 30 for step in steps for key in step if key.endswith("_s") and key != "tokens_per_s")


@pytest.mark.parametrize("learner", ["disagrees", "has no logprobs"])
def test_a_learner_that_disagrees_with_the_engine_ends_the_run_after_its_rollouts_are_written(make_driver, learner):
    driver, fleet, log = make_driver(learner=learner)
    with pytest.raises(MismatchError, match=r"(0\.2|nan) nats apart .*sync.max_mismatch is 0\.1 for .*=bfloat16"):
        driver.run()
    assert arrow.read_ipc(log.rollouts_path(1)).num_rows == 12
    assert versions(fleet) == [0, 0]  # what was learned from them is not published


def test_a_batch_without_a_gradient_changes_nothing_and_ends_nothing(make_driver):
    driver, fleet, log = make_driver(execution="flat")
    assert (driver.run().policy_version, versions(fleet)) == (0, [0, 0])
    steps = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert [step["no_gradient_groups_frac"] for step in steps] == [1.0, 1.0]


def test_the_bound_of_the_gap_can_be_set(make_driver):
    driver, _, _ = make_driver(learner="disagrees", sync={"max_mismatch": 0.21})
    assert driver.run().steps == 2


@pytest.mark.parametrize(
    ("moods", "words"),
    [
        ({"rollout": "loses a group"}, "3 groups asked for, 1 came"),
        ({"learner": "loses a token"}, "learner: trained on .* tokens"),
        ({"learner": "ranks disagree"}, r"\[\(1, 1\), \(2, 0\)\] steps"),
        ({"reward": "scores with no numbers"}, "reward server: ValueError: R.t of the rows .* is no finite number"),
        ({"reward": "has no scores"}, "reward server: none of the 3 rollouts that were to be scored .* no number"),
        ({"learner": "cannot publish"}, "learner: MemoryError: object store is full"),
        ({"learner": "one cannot gather"}, "learner: MemoryError: no room for the head"),
    ],
)
def test_what_a_role_loses_or_breaks_is_noticed_and_named(make_driver, moods, words):
    driver, _, _ = make_driver(**moods)
    with pytest.raises(StageError, match=words):
        driver.run()


def test_the_nodes_metrics_port_tells_how_the_run_goes(make_driver):
    driver, _, log = make_driver()
    driver.run()
    last = json.loads((log.folder / "metrics.jsonl").read_text().splitlines()[-1])
    (node,) = ray.nodes()
    worker = ray.get_runtime_context().get_worker_id()
    wanted = {"step": 2.0, "pass_rate": last["pass_rate"], "reward": last["reward"], "hacking_findings": 0.0}
    deadline = time.monotonic() + 60  # Ray exports every 10 s
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
            lines = re.findall(r"^ray_pgrpo_run_(\w+)\{(.*)\} (\S+)$", answer.read().decode(), re.MULTILINE)
        mine = [line for line in lines if f'WorkerId="{worker}"' in line[1] and 'run="scripted"' in line[1]]
        seen = {name: pytest.approx(float(value)) for name, _, value in mine}
        if wanted.items() <= seen.items():
            break
        assert time.monotonic() < deadline, mine
        time.sleep(0.5)
    stages = {re.search(r'stage="(\w+)"', labels)[1] for name, labels, _ in mine if name == "busy_seconds"}
    assert {"sampling", "judging", "learning", "sync"} <= stages


def test_a_sign_of_hacking_is_told_once_with_rollouts_to_read(make_driver):
    driver, _, log = make_driver(steps=3, monitor={"window_steps": 2, "max_thinking_share": 0.001})
    driver.run()
    lines = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["hacking_share"] for line in lines] == [None, 1.0, 1.0]
    assert all(line["hacking_failers"] is None for line in lines)  # under `posterior` nobody scores failers
    said = driver._display.console.file.getvalue()
    assert said.count("a sign of reward hacking") == 1
    assert "step 2: a sign of reward hacking, share: " in said
    assert "Read 2/p" in said
