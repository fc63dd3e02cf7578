"""`pgrpo rm probe` from files on, and what its commands say to bad input."""

import io
import json
import sys

import pytest
from rich.console import Console

from pgrpo_ray import cli
from pgrpo_ray.config import parse_tree
from pgrpo_ray.config.lcb_rb import ProbeConfig
from pgrpo_ray.errors import DataError
from pgrpo_ray.jobs import probing
from pgrpo_ray.preflight.models import ModelFacts
from pgrpo_ray.reward_model.probes import PROBES
from pgrpo_ray.starter.problems import generate, write_jsonl


@pytest.fixture
def likes_length(monkeypatch):
    """A reward model that scores by length alone."""
    monkeypatch.setattr(probing, "raw_scores", lambda items, *_: [float(len(text)) for _, text in items])
    monkeypatch.setattr("pgrpo_ray.jobs.raw_scores.model_facts", lambda *_, **__: ModelFacts(1, 64))


def run(tmp_path, *, reasonings=None, problems=None, **probe):
    config = parse_tree(ProbeConfig, {"probe": probe})
    return probing.probe(
        "rm", reasonings, problems, config, tmp_path / "probes.json", Console(file=io.StringIO(), width=200)
    )


def test_a_model_that_likes_length_is_found_out(tmp_path, likes_length):
    lines = [
        {"prompt": f"Problem {at}", "reasoning": f"First take {at + 10} items, then sort them. Return.", "program": "x"}
        for at in range(20)
    ]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = run(tmp_path, reasonings=tmp_path / "good.jsonl")
    by_name = {one["probe"]: one for one in report["probes"]}
    assert set(by_name) == set(PROBES)
    for name in ("padding", "repetition", "fluent_nonsense"):
        assert by_name[name]["fooled"]["value"] == 1.0
    for name in ("empty", "very_short", "copied_code"):
        assert by_name[name]["fooled"]["value"] == 0.0
    for name in ("swapped_steps", "wrong_constant", "other_problem"):  # same length: it cannot tell
        assert by_name[name]["fooled"]["value"] == pytest.approx(0.5, abs=0.1)
    assert report["worst"] in ("padding", "repetition", "fluent_nonsense")
    assert report["examples"]["empty"]["worse"] == ""
    assert report["max_length_tokens"] == 64  # the model's own bound, below the default
    assert json.loads((tmp_path / "probes.json").read_text()) == report


def test_the_starters_steps_are_swapped_only_where_that_is_wrong(tmp_path, likes_length):
    exercises = generate(0, 120)
    write_jsonl(tmp_path / "problems.jsonl", exercises, "x")
    report = run(tmp_path, problems=tmp_path / "problems.jsonl", max_reasonings=100)
    assert report["num_reasonings"] == 100
    swapped = next(one for one in report["probes"] if one["probe"] == "swapped_steps")
    matters = sum(not one.solved_by(one.steps[::-1], one.reduction) for one in exercises)
    assert 0 < swapped["skipped"] < 100
    assert matters - 20 <= swapped["fooled"]["num_pairs"] <= matters  # of 120, 20 were not drawn
    assert report == run(tmp_path, problems=tmp_path / "problems.jsonl", max_reasonings=100)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "p"}, "'reasoning' is missing"),
        ({"prompt": "p", "reasoning": " "}, "'reasoning' is blank"),
        ({"prompt": "p", "reasoning": "r", "program": 3}, "'program' must be a string"),
    ],
)
def test_unusable_reasonings_are_refused(tmp_path, likes_length, record, words):
    file = tmp_path / "good.jsonl"
    file.write_text(json.dumps({"prompt": "p", "reasoning": "r"}) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=words) as caught:
        run(tmp_path, reasonings=file)
    assert caught.value.line == 2
    with pytest.raises(DataError, match="no problem of the starter's"):
        run(tmp_path, problems=file)


@pytest.fixture
def pgrpo(monkeypatch, capsys):
    """Run the command line in this process; return (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pgrpo"])
        monkeypatch.setenv("COLUMNS", "300")
        status = cli.failures.status_of(cli.app, [str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def test_commands_end_bad_input_with_a_message_and_status_2(tmp_path, pgrpo):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "p", "chosen": "same", "rejected": "same"}) + "\n")
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "reasoning": "r"}) + "\n")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for arguments, words in (
        (["lcb-rb", "score", pairs], "same text"),
        (["lcb-rb", "score", good, "--reward-model", nothing], "no model folder"),
        (["lcb-rb", "score", good, "--dtype", "int8"], "scoring.dtype"),
        (["lcb-rb", "score", good, "--set", "judge.kind=none"], "Give --judge CONFIG"),
        (["lcb-rb", "build", tmp_path / "absent.yaml"], "cannot be read"),
        (["lcb-rb", "review", good, "--out", tmp_path / "r.html"], "is missing"),
        (["rm", "probe", "--reward-model", nothing, "--reasonings", good], "no model folder"),
        (["rm", "probe", "--reward-model", "x", "--reasonings", good, "--problems", good], "Give one of them"),
    ):
        status, _, error = pgrpo(*arguments)
        assert status == 2, (arguments, error)
        assert words in error, (arguments, error)


def test_a_probe_may_name_another_starter(tmp_path, pgrpo, monkeypatch):
    asked = []

    def make_starter(section, stage):
        asked.append(section.seed)
        raise DataError("stop here")

    monkeypatch.setattr(probing, "make_starter", make_starter)
    assert pgrpo("rm", "probe", "--reward-model", "starter", "--set", "starter.seed=7")[0] == 2
    status, _, error = pgrpo("rm", "probe", "--reward-model", "starter", "--set", "starter.sead=7")
    assert status == 2 and "Did you mean 'seed'" in error
    assert asked == [7]


def test_baselines_alone_need_no_model(tmp_path, pgrpo):
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps({"prompt": "p", "chosen": "longer", "rejected": "short"}) + "\n")
    status, out, _ = pgrpo("lcb-rb", "score", good)
    assert status == 0
    assert "longer wins" in out and "100.0" in out
    assert json.loads((tmp_path / "good.jsonl.scores.json").read_text())["num_pairs"] == 1
