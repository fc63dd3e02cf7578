"""Rollouts of a run are found, shown and compared, and nothing that a model wrote reaches the terminal as it is."""

import io
import json
import re
import sys

import pyarrow as pa
import pytest
from recorded import PROGRAM, record
from rich.console import Console

from pgrpo_ray.cli import main
from pgrpo_ray.data.arrow import write_ipc
from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.jobs import rollouts_shown
from pgrpo_ray.jobs.rollouts import Choice, choose, describe, find
from pgrpo_ray.obs.terminal import visible, visible_lines

HOSTILE = "\x1b]0;owned\x07 \x1b[2J\x9b31m [red]red[/red] \rover \u202eflow\u2066 \u2028 \x7f \u200b :smile: \\x1b"
"""Renames the window, clears it, writes over lines, turns text round, and is markup to rich."""
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs"), 2)


@pytest.fixture
def run(folder):
    return RecordedRun(folder)


def pgrpo(monkeypatch, capsys, *arguments):
    """Run a command in this process; return exit status, output and errors."""
    monkeypatch.setattr(sys, "argv", ["pgrpo", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return (end.value.code, *capsys.readouterr())


def names(run, step=None, evaluation=None, **choice):
    return [row["name"] for row in choose(run, step, evaluation, Choice(**{"limit": 0} | choice)).rows]


def test_the_last_step_is_listed_unless_another_is_asked_for(run):
    assert choose(run, None, None, Choice()).source == 2
    listing = choose(run, 1, None, Choice(limit=5))
    assert (len(listing.rows), listing.matching, listing.total, listing.problems) == (5, 72, 72, 12)
    table = run.rollouts(1)
    first = table["problem_id"][0].as_py()
    assert [row["name"] for row in listing.rows] == [f"1/{first}/{sample}" for sample in range(5)]
    held = choose(run, None, "before", Choice(passed=True, limit=0))
    assert held.matching == held.passed == run.evaluation("before")["verdict"].to_pylist().count("passed")
    assert not held.rewarded


def test_every_filter_keeps_what_it_says(run):
    rows = {row["name"]: row for row in describe(run.rollouts(2), 2)}

    def named(meets):
        return [name for name, row in rows.items() if meets(row)]

    assert names(run, problem="set/p0-3") == named(lambda row: row["problem_id"] == "set/p0-3") != []
    assert names(run, problem="*-3") == named(lambda row: row["problem_id"].endswith("-3"))
    assert names(run, passed=True) == names(run, verdicts=("passed",)) == named(lambda row: row["verdict"] == "passed")
    assert names(run, verdicts=("not_run",)) == named(lambda row: not row["format_ok"]) != []
    failed = named(lambda row: row["execution_error"] is None and row["verdict"] != "passed")
    assert names(run, passed=False) == failed == names(run, verdicts=("not_run", "wrong_answer"))
    dropped = named(lambda row: row["reward"] is None)
    assert names(run, dropped=True) == dropped != []
    assert names(run, min_reward=2.0, max_reward=2.5) == named(
        lambda row: row["reward"] is not None and 2.0 <= row["reward"] <= 2.5
    )
    assert names(run, search="SAMPLE 7.") == named(lambda row: "Sample 7." in row["response"]) != []
    assert names(run, search="expected 4") == named(lambda row: row["verdict"] == "wrong_answer")
    assert names(run, min_reward=99.0) == []


def test_what_has_no_value_is_sorted_last_either_way(run):
    rows = {row["name"]: row for row in describe(run.rollouts(2), 2)}
    for turned in (False, True):
        values = [rows[name]["advantage"] for name in names(run, sort="advantage", smallest_first=turned)]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=not turned)
        assert None in values and None not in values[: len(known)]
    assert rows[names(run, sort="length")[0]]["response_length"] == max(r["response_length"] for r in rows.values())


def test_a_rollout_is_found_by_the_name_that_lists_give_it(run):
    for name in (*names(run, 2), *names(run, evaluation="before")):
        row, group = find(run, name)
        assert row["name"] == name
        assert row in group and len(group) == 6
    for name, message in {
        "nonsense": "names no rollout",
        "2/set/p0-3/x": "names no rollout",
        "9/set/p0-3/0": "There are steps 1 to 2",
        "2/set/p9/0": "no rollouts of the problem 'set/p9'",
        "2/set/p0-3/6": "samples 0 to 5",
        "after/set/p0-3/0": "There are: before",
    }.items():
        with pytest.raises(DataError, match=message):
            find(run, name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verdicts": ("pased",)}, "Did you mean 'passed'"),
        ({"sort": "lenght"}, "Did you mean 'length'"),
        ({"evaluation": "before", "min_reward": 1.0}, "held-out rollouts have no reward"),
        ({"evaluation": "before", "sort": "advantage"}, "held-out rollouts have no reward"),
        ({"evaluation": "before", "step": 1}, "not both"),
    ],
)
def test_words_that_mean_nothing_are_refused(run, given, message):
    with pytest.raises(ConfigError, match=message):
        names(run, **given)


def test_a_run_that_has_only_begun_says_what_there_is(tmp_path):
    folder = record(tmp_path, 0)
    with pytest.raises(DataError, match=r"no rollouts of a step\. See an evaluation with --evaluation NAME: before"):
        choose(RecordedRun(folder), None, None, Choice())
    (folder / "rollouts" / ".step-000001.arrow.12.tmp").write_bytes(b"half")  # a step that is being written
    assert RecordedRun(folder).steps == []


def test_everything_a_terminal_acts_on_is_written_out():
    assert visible("plain é 漢\u3000字 \\x1b") == "plain é 漢\u3000字 \\x1b"
    assert visible("\x1b[31m\x9b\x00\r\n\t") == "\\x1b[31m\\x9b\\x00\\r\\n\\t"
    assert visible("a\u202eb\u200b\u2028\U000e0041") == "a\\u202eb\\u200b\\u2028\\U000e0041"
    assert visible_lines("a\n\tb\r\n") == "a\n\tb\\r\n"
    assert not ACTS.search(visible_lines(HOSTILE))


@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_text_is_shown_and_not_obeyed(run, tmp_path, terminal):
    table = run.rollouts(2)
    texts = {"problem_id", "prompt", "response", "thinking", "program", "detail", "execution_error", "thinking_error"}
    for name in texts:
        field = table.schema.field(name)
        values = [value and f"{value} {HOSTILE}\n{HOSTILE}" for value in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), field, pa.array(values, field.type))
    hostile = record(tmp_path, 0)
    write_ipc(hostile / "rollouts" / "step-000001.arrow", table, {})
    run = RecordedRun(hostile)
    out = io.StringIO()
    # Without colours rich itself writes no escape sequence, so that all there are would be the model's.
    console = Console(file=out, force_terminal=terminal, color_system=None, width=400)
    rollouts_shown.show_list(choose(run, None, None, Choice()), "runs/x", console)
    kinds = [("passed",), ("wrong_answer",), ("not_run",)]
    shown = [choose(run, None, None, Choice(verdicts=kind)).rows[0]["name"] for kind in kinds]
    shown += [row["name"] for row in choose(run, None, None, Choice(dropped=True)).rows]
    for name in shown:
        rollouts_shown.show_one(*find(run, name), console)
        rollouts_shown.show_two(find(run, shown[0])[0], find(run, name)[0], console)
    text = out.getvalue()
    assert not ACTS.search(text)
    assert "\\x1b]0;owned\\x07" in text and "[red]red[/red]" in text and ":smile:" in text


def test_colours_are_the_only_sequences_on_a_terminal(run):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=100)
    rollouts_shown.show_one(*find(run, names(run, passed=True)[0]), console)
    text = out.getvalue()
    assert re.search(r"\x1b\[\d", text)  # the program is highlighted
    assert PROGRAM in re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert not ACTS.search(re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_two_members_of_a_group_are_compared():
    one = {"name": "1/p/0", "format_ok": True, "thinking": ("First. " * 20).strip(), "program": "a\nb\nc"}
    other = {"name": "1/p/1", "format_ok": True, "thinking": "First. " * 19 + "Last.", "program": "a\nB\nc"}
    found = rollouts_shown.differences(one, other)
    assert found["program"] == ["--- 1/p/0", "+++ 1/p/1", "@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"]
    changed = [line for line in found["reasoning"][2:] if line[0] in "+-"]
    assert sorted(changed) == ["+Last.", "-First."]  # a sentence, though the whole is one line
    broken = {"name": "1/p/2", "format_ok": False, "thinking": None, "program": None, "response": "x"}
    assert rollouts_shown.differences(broken, one | {"response": "y"}) == {
        "response": ["--- 1/p/2", "+++ 1/p/0", "@@ -1 +1 @@", "-x", "+y"]
    }


def test_the_commands_read_as_they_print(folder, monkeypatch, capsys):
    status, out, _ = pgrpo(monkeypatch, capsys, "rollouts", folder, "--failed", "--limit", 2)
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("name") and "2 of " in lines[-1]
    assert "\x1b" not in out
    first, second = (line.split()[0] for line in lines[1:3])
    status, out, _ = pgrpo(monkeypatch, capsys, "rollouts", folder, first)
    assert (status, out.splitlines()[0]) == (0, first)
    assert "first failed test  number" in out or "not_run" in out
    status, out, _ = pgrpo(monkeypatch, capsys, "rollouts", folder, first, second)
    assert status == 0 and {first, second} <= set(out.split())
    assert re.search("^--- (reasoning|response)$", out, re.MULTILINE)


def test_machines_get_json(folder, monkeypatch, capsys):
    status, out, _ = pgrpo(monkeypatch, capsys, "rollouts", folder, "--json", "--limit", 0, "--step", 1)
    rows = json.loads(out)
    assert (status, len(rows)) == (0, 72)
    assert {"name", "verdict", "reward", "advantage", "response_length"} <= set(rows[0])
    assert not {"response", "response_ids"} & set(rows[0])
    one, other = rows[0]["name"], rows[1]["name"]
    assert json.loads(pgrpo(monkeypatch, capsys, "rollouts", folder, one, "--json")[1])["response"]
    both = json.loads(pgrpo(monkeypatch, capsys, "rollouts", folder, one, other, "--json")[1])
    assert [row["name"] for row in both["rollouts"]] == [one, other]
    assert both["differences"]
    status, out, _ = pgrpo(monkeypatch, capsys, "replay", folder, "--reward", "outcome_only", "--json")
    found = json.loads(out)
    assert (status, found["replayed"]["reward"], len(found["steps"])) == (0, "outcome_only", 2)
    assert pgrpo(monkeypatch, capsys, "rollouts", folder, found["most_changed"][0]["name"])[0] == 0


def test_wrong_input_and_drift_have_their_exit_status(folder, tmp_path, monkeypatch, capsys):
    status, _, errors = pgrpo(monkeypatch, capsys, "rollouts", tmp_path)
    assert (status, "no config.yaml" in errors) == (2, True)
    status, _, errors = pgrpo(monkeypatch, capsys, "rollouts", folder, "1/set/p0-3/0", "--failed")
    assert (status, "filters choose what is listed" in errors) == (2, True)
    status, _, errors = pgrpo(monkeypatch, capsys, "rollouts", folder, "1/a/0", "1/a/1", "1/a/2")
    assert (status, "one name" in errors) == (2, True)
    own = record(tmp_path)
    config = own / "config.yaml"
    config.write_text(config.read_text().replace("advantage_std_floor: 0.1", "advantage_std_floor: 0.3"))
    out = tmp_path / "replay.json"
    status, _, errors = pgrpo(monkeypatch, capsys, "replay", own, "--out", out)
    assert status == 1
    assert re.search(r"row \d+ of step 1 \(1/set/p\d-\d/\d\): advantage is recorded as", errors)
    assert not out.exists()


def test_a_replay_is_written_where_out_says(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "replay.json"
    status, shown, _ = pgrpo(
        monkeypatch, capsys, "replay", folder, "--advantage", "rloo", "--std-floor", 1, "--out", out
    )
    assert status == 0
    found = json.loads(out.read_text())
    assert found["replayed"] == {"reward": "posterior", "advantage": "rloo", "advantage_std_floor": 1.0}
    assert "bit for bit" in shown
    assert found["most_changed"][0]["name"] in shown
