"""The hacking monitor: silent on honest runs, loud on those that hacked, once for each finding."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pgrpo_ray.config import MonitorSection, parse
from pgrpo_ray.data import arrow
from pgrpo_ray.data.recorded_findings import findings_of
from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.data.wording import NO_WORDING, wording
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.obs.hacking import CHECKS, HackingMonitor, Probe, read_probe
from pgrpo_ray.obs.run_log import RunLog

REPOSITORY = Path(__file__).parents[2]
RECORDED = sorted((REPOSITORY / "benchmarks/results/reward-hacking/runs").glob("*/*/steps.parquet"))
HONEST = {
    "pass_rate": 0.5,
    "thinking_passers": 0.7,
    "thinking_failers": 0.6,
    "advantage_share_thinking": 0.4,
    "response_tokens_mean": 100.0,
    "phrases_repeated_frac": 0.02,
    "same_words_frac": 0.1,
}


def watch(steps, section=None, probe=None):
    monitor = HackingMonitor(section or MonitorSection(), probe)
    return monitor, [monitor.observe(number, metrics) for number, metrics in enumerate(steps, start=1)]


def series(num_steps, **changed):
    """Steps of an honest run; `changed` gives a number as a function of the step from 0."""
    return [HONEST | {key: of(step) for key, of in changed.items()} for step in range(num_steps)]


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: "-".join(file.parts[-3:-1]))
def test_recorded_runs_that_hacked_are_found_and_the_others_are_not(file):
    monitor, _ = watch(pq.read_table(file).to_pylist())
    found = {finding.name: finding for finding in monitor.findings}
    model, arm = file.parts[-3], file.parts[-2].rpartition("-")[0]
    hacked = (model, arm) == ("brief", "linear")
    # The model is at fault under every arm; only without the gate does the policy make use of it.
    assert set(found) == ({"thinking", "failers"} if hacked else {"failers"} if model == "brief" else set())
    if hacked:
        assert found["thinking"].step <= 11  # before the last fact is gone, at step 13 to 25
        assert monitor.num_open


def test_there_are_as_many_recorded_runs_as_the_documentation_counts():
    assert len(RECORDED) == 67


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("thinking", {"thinking_passers": lambda step: min(1.0, 0.5 + step / 20)}),
        ("failers", {"thinking_failers": lambda step: 0.95}),
        ("failers", {"thinking_failers": lambda step: 0.75}),  # above that of passers
        ("share", {"advantage_share_thinking": lambda step: 0.8}),
        ("length", {"response_tokens_mean": lambda step: 100.0 + 20 * step}),
        ("length", {"response_tokens_mean": lambda step: max(10.0, 100.0 - 8 * step)}),
        ("phrases", {"phrases_repeated_frac": lambda step: 0.02 * step}),
        ("same_words", {"same_words_frac": lambda step: min(1.0, 0.1 * step)}),
    ],
)
def test_each_check_finds_what_it_is_for_and_nothing_else(name, changed):
    monitor, observed = watch(series(20, **changed))
    assert [finding.name for finding in monitor.findings] == [name]  # once, though it holds for many steps
    last = observed[-1].metrics
    assert math.isnan(last.pop("hacking_probe"))  # there is no report of one
    assert last == {f"hacking_{check}": float(check == name) for check in CHECKS if check != "probe"}
    key = next(iter(changed))
    assert not watch(series(20, **{key: lambda step: HONEST[key]}))[0].findings


def test_reasoning_that_gets_better_with_passing_is_no_finding():
    both = {"thinking_passers": lambda step: 0.6 + step / 60, "pass_rate": lambda step: 0.2 + step / 60}
    assert not watch(series(20, **both))[0].findings
    alone = {"thinking_passers": both["thinking_passers"]}
    assert [finding.name for finding in watch(series(20, **alone))[0].findings] == ["thinking"]


def test_a_finding_is_over_after_a_window_without_it_and_told_again_when_it_comes_back():
    high = {5, 6, 7, 8, 9, 10, 11, *range(30, 40)}
    monitor, observed = watch(series(40, thinking_failers=lambda step: 1.0 if step in high else 0.5))
    assert [finding.name for finding in monitor.findings] == ["failers", "failers"]
    first, second = monitor.findings
    assert (first.over, second.over) == (next(i for i, one in enumerate(observed, 1) if one.over), None)
    holds = [one.metrics["hacking_failers"] for one in observed]
    assert holds[first.over - 6 : first.over] == [1, 0, 0, 0, 0, 0]  # five steps without
    assert monitor.num_open == 1


def test_what_is_not_known_is_neither_found_nor_denied():
    names = {key: (lambda step: None) for key in HONEST}
    monitor, observed = watch(series(20, **names))
    assert not monitor.findings
    assert all(math.isnan(value) for one in observed for value in one.metrics.values())
    assert all(math.isnan(value) for value in watch(series(4))[1][-1].metrics.values())  # no window is full
    assert not watch(series(20), MonitorSection(enabled=False))[1][-1].metrics


def test_a_model_that_a_probe_fools_is_told_of_at_once(tmp_path):
    fooled = [{"probe": "empty", "fooled": {"value": 0.1}}, {"probe": "padding", "fooled": {"value": 0.7}}]
    file = tmp_path / "probes.json"
    file.write_text(json.dumps({"reward_model": "rm", "probes": [*fooled, {"probe": "none", "fooled": None}]}))
    assert read_probe(file) == Probe("rm", "padding", 0.7)
    monitor, _ = watch(series(3), probe=read_probe(file))
    assert [str(finding) for finding in monitor.findings] == ["probe: the probe padding fools rm in 70 % of its texts."]
    assert not watch(series(3), MonitorSection(max_fooled_frac=0.8), read_probe(file))[0].findings
    for text in ("{", "[]", '{"probes": [{}]}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"monitor\.probe.*is no report"):
            read_probe(file)
    with pytest.raises(ConfigError, match=r"monitor\.probe.*cannot be read"):
        read_probe(tmp_path / "nowhere.json")


def test_words_are_counted_as_worked_out_by_hand():
    loop = "a b c d e " * 2  # six phrases of five words, five of them different
    found = wording([loop, "a  b\nc d e a b c d e", "too short", "", None])
    assert found["phrases_repeated_frac"][:4] == pytest.approx([1 / 6, 1 / 6, 0, 0])
    assert math.isnan(found["phrases_repeated_frac"][4])
    digests = found["wording_digest"]
    assert digests[0] == digests[1]
    assert len(set(digests.tolist())) == 4
    assert digests[4] == NO_WORDING


def rollouts(words, failers_score):
    """A step's rollouts, two of each problem; the first passes. `words`: of each rollout's reasoning."""
    names = [f"p{row // 2}" for row in range(len(words))]
    passed = [row % 2 == 0 for row in range(len(words))]
    return arrow.pa.table(
        {
            "problem_id": names,
            "sample_index": np.arange(len(words), dtype=np.int32) % 2,
            "verdict": ["passed" if one else "wrong_answer" for one in passed],
            "thinking_reward": np.array([0.5 if one else failers_score + row / 100 for row, one in enumerate(passed)]),
            "reward_thinking": np.zeros(len(words)),
            "dropped": arrow.pa.array([None] * len(words), arrow.pa.string()),
            "response_ids": [[1, 2, 3]] * len(words),
            "thinking": words,
        }
    )


def test_a_recorded_run_says_what_it_said_live_and_names_rollouts_to_read(tmp_path):
    log = RunLog(parse({"run": {"name": "mine", "dir": str(tmp_path)}}))
    words = ["easy", "easy", "easy", "easy", "7 + 7 = 14", "sum the list"]
    for step in range(1, 13):
        late = step > 6
        numbers = {"thinking_failers": 0.95 if late else 0.4, "same_words_frac": 0.66 if late else 0.0}
        log.step(step, HONEST | numbers)
        arrow.write_ipc(log.rollouts_path(step), rollouts(words, 0.9), {})
    log.close()
    found = {finding.name: finding for finding in findings_of(RecordedRun(log.folder))}
    assert set(found) == {"failers", "same_words"}
    worst = found["failers"].suspects
    assert [(one.problem_id, one.sample_index, one.verdict) for one in worst] == [
        (f"p{problem}", 1, "wrong_answer") for problem in (2, 1, 0)
    ]
    assert {one.problem_id for one in found["same_words"].suspects} == {"p0", "p1"}  # one each
    assert re.search(r"Read \d+/p2/1 \(wrong_answer, R\^t 0\.95\)", str(found["failers"]))
    strict = MonitorSection(max_failers_thinking=1.0, max_failers_lead=1.0, max_same_words_rise=1.0)
    assert not findings_of(RecordedRun(log.folder), strict)


def test_every_finding_is_documented():
    text = (REPOSITORY / "docs" / "reward-hacking.md").read_text(encoding="utf-8")
    assert set(CHECKS) <= set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    assert "`hacking_<name>`" in (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
