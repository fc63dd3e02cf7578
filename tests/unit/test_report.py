"""A report's numbers against hand-computed ones, its embedded data, and what it refuses. The browser's side of it is in
`tests/integration/test_report.py`."""

import base64
import gzip
import html
import io
import json
import math
import re

import numpy as np
import pyarrow as pa
import pytest
from recorded_pages import table_of, write_run
from rich.console import Console

from pgrpo_ray.cli import app
from pgrpo_ray.cli.failures import status_of
from pgrpo_ray.data.recorded_run import RecordedRun, group_starts
from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.metrics import batch_metrics
from pgrpo_ray.report import aggregates, browser_data
from pgrpo_ray.report.charts import build_charts
from pgrpo_ray.report.facts import facts, settings
from pgrpo_ray.report.figures import write_figures
from pgrpo_ray.report.page import write_report
from pgrpo_ray.report.runs import ReportedRun, open_runs

PASSER = {"reward": 2.5, "reward_format": 1, "reward_outcome": 1, "reward_thinking": 0.5, "thinking_reward": 0.5}
FAILER = {"verdict": "wrong_answer", "reward": 1, "reward_format": 1, "thinking_reward": 0.25, "detail": "case 0"}
MUTE = {"verdict": None, "program": None, "thinking": None, "response": "no tags", "tests_total": 0, "sandbox": None}
LOST = {"verdict": None, "execution_error": "no container", "dropped": "execution_error", "reward_format": 1}
STEP = table_of({"a": [PASSER, FAILER, MUTE], "b": [{**PASSER, "tokens": 9}, PASSER, LOST]})


def quiet(folders, out, png=None, most=100_000):
    said = io.StringIO()
    write_report(folders, out, png, most, Console(file=said, width=400))
    return said.getvalue()


@pytest.fixture
def folder(tmp_path):
    heldout = {"before": [FAILER, PASSER], "after": [PASSER, PASSER]}
    evaluations = {name: table_of({"x": rows, "y": rows[:1] * 2}, rewarded=False) for name, rows in heldout.items()}
    metrics = {
        1: {"entropy": 0.5, "verdict_passed": 0.6, "advantage_share_outcome": 0.7, "busy_sync_s": 1, "step_s": 2}
    }
    return write_run(tmp_path / "mine", {1: STEP}, evaluations, metrics, {"steps": 1, "versions": {"ray": "2"}})


def test_numbers_of_a_step_are_those_of_its_rollouts(folder):
    (place, *_) = ReportedRun(RecordedRun(folder), "mine").places
    assert place.starts.tolist() == [0, 3, 6]
    found = aggregates.step_estimates(place, seed=0)
    by_hand = {
        "pass_rate": 3 / 5,  # the lost one counts in no rate
        "format_rate": 4 / 5,
        "reward": (2.5 + 1 + 0 + 2.5 + 2.5) / 5,
        "reward_thinking": 1.5 / 5,
        "thinking_passers": 0.5,
        "thinking_failers": 0.25,
        "gate_open_frac": 3 / 5,
        "response_tokens_mean": (5 * 5 + 9) / 6,
        "cut_frac": 0,
    }
    assert {name: found[name].value for name in by_hand} == pytest.approx(by_hand)
    # Two groups, of 1/3 and 2/2: draws of the same one twice, which happen half the time, are the ends.
    assert (found["pass_rate"].low, found["pass_rate"].high) == pytest.approx((1 / 3, 1))
    assert (found["thinking_failers"].low, found["thinking_failers"].high) == (0.25, 0.25)


def test_numbers_of_a_step_are_those_that_the_run_writes(folder):
    (place, *_) = ReportedRun(RecordedRun(folder), "mine").places
    names = ("reward_format", "reward_outcome", "reward_thinking", "reward_other", "reward", "advantage")
    columns = {name: place.numbers(name) for name in (*names, "thinking_reward", "policy_version")}
    columns |= {name: place.texts(name) for name in ("dropped", "masked", "verdict", "finish_reason")}
    lengths = place.numbers("response_tokens")
    columns |= {"format_ok": place.numbers("format_ok"), "response_length": lengths, "prompt_length": lengths}
    unworded = {"phrases_repeated_frac": np.full(len(lengths), np.nan), "wording_digest": np.zeros(len(lengths), "u8")}
    columns |= {"problem_id": place.texts("problem_id"), **unworded}
    written = batch_metrics(columns, place.group_index, 0)
    found = aggregates.step_estimates(place, seed=0)
    both = found.keys() & written.keys()
    assert {name: found[name].value for name in both} == pytest.approx({name: written[name] for name in both})
    assert len(both) == len(found) - 1  # the gate is the report's own


def test_an_interval_is_that_of_groups_and_not_of_rollouts():
    groups, size = 50, 8
    passed = np.repeat(np.arange(groups) % 2, size)  # members of a group all agree: 50 facts, not 400
    counted = np.ones(groups * size, bool)
    (found,) = aggregates.means_over_groups(
        {"pass_rate": (passed, counted)}, np.repeat(np.arange(groups), size), 0
    ).values()
    half = 1.96 * math.sqrt(0.25 / groups)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.02)
    assert not aggregates.means_over_groups({"x": (passed, ~counted)}, np.repeat(np.arange(groups), size), 0)


def test_groups_begin_with_another_problem_and_with_the_same_ones_samples_anew():
    table = table_of({"a": [{}, {}], "b": [{}]})
    again = table_of({"b": [{}, {}]})
    assert group_starts(pa.concat_tables([table, again])).tolist() == [0, 2, 3, 5]
    assert group_starts(table.slice(0, 0)).tolist() == [0]


def test_heldout_points_and_their_paired_difference(folder, tmp_path):
    run = ReportedRun(RecordedRun(folder), "mine")
    assert {step: point.value for step, point in run.heldout.items()} == {0: 1 / 4, 1: 1.0}  # x 1/2, y 0/2; then all
    assert (run.heldout[1].low, run.heldout[1].high) == (1, 1)
    other = ReportedRun(RecordedRun(write_run(tmp_path / "other", {1: STEP}, summary={})), "other")
    assert other.heldout == {}
    said = {fact.name: fact.values for fact in facts([run, other])}
    assert said["pass@1 before"][0].startswith("25.0 % (") and said["pass@1 after"] == [
        "100.0 % (100.0 to 100.0)",
        "unknown",
    ]
    assert said["gain"] == ["+75.0 points", "unknown"] and said["after, minus mine"] == ["-", "not comparable"]
    assert said["versions"] == ["ray 2", "unknown"] and said["seed"] == ["3", "3"]
    places = {place.name: place for place in run.places}
    assert aggregates.difference(places["before"], places["after"]).value == 0.75


def test_without_rollouts_the_runs_own_numbers_remain(tmp_path):
    summary = {"pass_at_1_before": 0.5, "pass_at_1_before_low": 0.4, "pass_at_1_before_high": 0.6}
    metrics = {1: {"pass_rate": 0.25}, 2: {"pass_rate": 0.5, "heldout_pass_at_1": 0.7}}
    run = ReportedRun(RecordedRun(write_run(tmp_path / "bare", metrics=metrics, summary=summary)), "bare")
    charts = {chart.id: chart for chart in build_charts([run])}
    (heldout,), (rate,) = charts["heldout"].series, charts["pass_rate"].series
    assert (heldout.x, heldout.y, heldout.low) == ([0, 2], [0.5, 0.7], [0.4, None])
    assert (rate.x, rate.y, rate.low) == ([1, 2], [0.25, 0.5], [])


def test_a_run_that_goes_on_says_so(tmp_path):
    run = ReportedRun(
        RecordedRun(write_run(tmp_path / "on", {1: STEP}, run={"steps": 9, "name": "on", "dir": str(tmp_path)})), "on"
    )
    said = {fact.name: fact.values[0] for fact in facts([run])}
    assert said["state"] == "step 1 of 9: going on, or ended early (no summary.json)"
    assert said["pass@1 after"] == "unknown"


def test_charts_hold_what_is_known_and_nothing_else(folder):
    charts = {chart.id: chart for chart in build_charts([ReportedRun(RecordedRun(folder), "mine")])}
    assert {
        "heldout",
        "pass_rate",
        "reward",
        "thinking",
        "gate_open",
        "entropy",
        "advantage_share",
        "verdicts",
        "stages",
    } <= set(charts)
    assert not {"mismatch", "staleness", "grad_norm"} & set(charts)
    assert [series.name for series in charts["reward"].series] == ["reward", "format", "outcome", "thinking"]
    assert [(series.name, series.y) for series in charts["stages"].series] == [("sync", [1.0]), ("total", [2.0])]
    json.dumps([series.low for chart in charts.values() for series in chart.series], allow_nan=False)


def test_settings_are_those_that_differ(folder, tmp_path):
    other = write_run(tmp_path / "other", {1: STEP}, algo={"clip_high": 1.0, "reward": "linear"})
    one, two = open_runs([folder, other])
    between = {setting.path: setting.values for setting in settings([one, two])}
    assert between == {
        "run.name": ["mine", "other"],
        "algo.reward": ["posterior", "linear"],
        "algo.clip_high": ["0.28", "1.0"],
    }
    own = {setting.path: setting.values for setting in settings([one])}
    assert own["run.seed"] == ["0", "3"] and set(own) == {"run.name", "run.dir", "run.seed"}


def blocks_of(page, kind):
    found = re.findall(rf'<script type="text/plain" id="{kind}-(\d+)(?:-\d+)?">([^<]*)</script>', page)
    return [json.loads(gzip.decompress(base64.b64decode(data, validate=True))) for _, data in found]


def test_every_rollout_is_in_the_page_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(browser_data, "CHUNK_TOKENS", 15)  # a chunk a group
    quiet([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    (columns,), texts = blocks_of(page, "columns"), blocks_of(page, "texts")
    assert columns["groups"]["size"] == [3, 3, 2, 2, 2, 2]
    assert columns["problems"] == ["a", "b", "x", "y"]
    assert [columns["states"][state] for state in columns["rows"]["state"][:6]] == [
        *("passed", "wrong_answer", "no_program", "passed", "passed", "error")
    ]
    assert columns["rows"]["reward"][:6] == [2.5, 1, 0, 2.5, 2.5, None]
    assert columns["rows"]["dropped"][:6] == [0, 0, 0, 0, 0, "execution_error"]
    assert columns["rows"]["reward"][6:] == [None] * 8  # held-out rollouts have none
    assert len(texts) == len(set(columns["groups"]["chunk"])) > 2
    assert (texts[0]["program"], texts[0]["response"]) == (["print(1)", "print(1)", None], [None, None, "no tags"])
    assert texts[1]["execution_error"] == [None, None, "no container"]


def test_what_does_not_fit_is_left_out_evenly_in_whole_groups_and_said(tmp_path):
    steps = {step: table_of({name: [{}] * 4 for name in "abcdefgh"}) for step in (1, 2)}
    folder = write_run(tmp_path / "many", steps)
    said = quiet([folder], tmp_path / "report.html", most=30)
    assert "many: 28 of its 64 rollouts can be browsed" in said
    (columns,) = blocks_of(page := (tmp_path / "report.html").read_text(), "columns")
    assert columns["groups"]["size"] == [4] * 7 and 3 <= columns["groups"]["place"].count(0) <= 4
    assert sum(len(chunk["prompt"]) for chunk in blocks_of(page, "texts")) == 7
    assert "28 of its 64" in page
    assert "browsed" not in quiet([folder], tmp_path / "report.html")
    assert (
        blocks_of((quiet([folder], tmp_path / "none.html", most=0), (tmp_path / "none.html").read_text())[1], "texts")
        == []
    )


HOSTILE = "</script><script>document.title='broken out'</script><!-- <img src=x onerror=alert(1)> \u2028 & \"'"


def test_text_of_models_is_data_and_nothing_else(tmp_path):
    rows = [{"thinking": HOSTILE, "program": HOSTILE, "detail": HOSTILE, "prompt": HOSTILE}] * 2
    folder = write_run(
        tmp_path / "hostile", {1: table_of({HOSTILE: rows})}, metrics={1: {f"advantage_share_{HOSTILE}": 1}}
    )
    quiet([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "broken out" not in re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert page.count("<script") == page.count("</script>") == 5  # data, columns, the page's own, plotly, texts
    assert "<img" not in page and "<!--" not in page
    assert blocks_of(page, "texts")[0]["program"] == [HOSTILE, HOSTILE]
    policy = html.unescape(re.search(r'content="(default-src[^"]*)"', page)[1])
    assert policy.startswith("default-src 'none'; ") and policy.count("'sha256-") == 2
    assert "unsafe" not in policy.split("script-src")[1]
    assert not re.search(
        r"""(?:src|href)\s*=\s*["'](?!#)|@import|url\(""", page.split('<script type="application/json"')[0]
    )


def test_signs_of_hacking_are_told_with_rollouts_to_read(folder, tmp_path):
    hacked = {"thinking_failers": 0.95, "thinking_passers": 0.5, "pass_rate": 0.5}
    rows = [{"verdict": "wrong_answer", "thinking_reward": 0.95}] * 2
    steps = range(1, 7)
    odd = write_run(
        tmp_path / "odd", {at: table_of({HOSTILE: rows}) for at in steps}, metrics=dict.fromkeys(steps, hacked)
    )
    quiet([odd, folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    signs = page[page.index('<section id="signs"') : page.index('<section id="curves"')]
    assert re.search(r"<h3>odd</h3>\s*<ul>\s*<li>From step 5: failers: .*0\.95.* Read 5/", signs)
    assert "wrong_answer, R^t 0.95" in signs and "<script" not in signs and "<img" not in signs
    assert re.search(r"<h3>mine</h3>\s*<p>None", signs)


def test_plots_for_papers(folder, tmp_path):
    drawn = ("heldout", "reward", "verdicts", "stages")
    charts = [chart for chart in build_charts(open_runs([folder])) if chart.id in drawn]
    files = write_figures(charts, tmp_path / "deep" / "plots", 1)
    assert [file.stem for file in files] == [chart.id for chart in charts]
    assert all(file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for file in files)


def test_what_is_no_run_is_refused_with_a_fix(folder, tmp_path, capsys):
    with pytest.raises(DataError, match=r"no folder of a run.*runs/local"):
        quiet([tmp_path], tmp_path / "report.html")
    with pytest.raises(DataError, match=r"no steps to report yet.*Wait for the first step"):
        quiet([write_run(tmp_path / "empty")], tmp_path / "report.html")
    with pytest.raises(DataError, match="given twice"):
        quiet([folder, folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command(folder, tmp_path, capsys):
    assert status_of(app, ["report", str(folder), "--out", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").stat().st_size > 1e6
    assert status_of(app, ["report", str(tmp_path)]) == 2 and "no config.yaml" in capsys.readouterr().err
