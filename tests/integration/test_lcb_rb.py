"""LCB-RB with every real part: a policy sampled by vLLM on Ray, programs judged in the sandbox, a reward model."""

import io
import json
from pathlib import Path

import pytest
import ray
from rich.console import Console

from pgrpo_ray.config import load_tree, parse_tree
from pgrpo_ray.config.lcb_rb import LcbRbConfig, ProbeConfig, ScoreConfig
from pgrpo_ray.data import arrow
from pgrpo_ray.errors import ModelError
from pgrpo_ray.jobs import lcb_rb, lcb_rb_samples, lcb_rb_score, probing
from pgrpo_ray.reward_model.lcb_rb import schema

pytestmark = [pytest.mark.ray, pytest.mark.vllm]

CONFIG = Path(__file__).parents[2] / "cluster" / "lcb-rb.yaml"
NUM_PROBLEMS, GROUP_SIZE, PER_FILE = 10, 6, 4


def quiet():
    return Console(file=io.StringIO(), width=200)


def build_config(folder, starter, *overrides):
    return load_tree(
        LcbRbConfig,
        CONFIG,
        [
            f"lcb_rb.dir={folder}",
            f"problems.file={starter.heldout}",
            f"problems.max_problems={NUM_PROBLEMS}",
            f"policy.model={starter.policy}",
            f"rollout.group_size={GROUP_SIZE}",
            f"rollout.prompts_per_step={PER_FILE}",
            "sandbox.backend=process",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def sampled(tiny_starter, tmp_path_factory):
    """A build's folder with samples, of which the second file was lost and sampled again."""
    folder = tmp_path_factory.mktemp("lcb-rb")
    config = build_config(folder, tiny_starter)
    problems = lcb_rb._load(config, None)
    model = str(tiny_starter.policy)
    paths = lcb_rb_samples.sample_all(config, model, problems, "process", lambda count: None)
    before = [path.stat().st_mtime_ns for path in paths]
    first = arrow.read_ipc(paths[1]).select(["problem_id", "response_ids", "verdict"])
    paths[1].unlink()
    done = []
    lcb_rb_samples.sample_all(config, model, problems, "process", done.append)
    assert done == [NUM_PROBLEMS - PER_FILE, PER_FILE]
    again = arrow.read_ipc(paths[1]).select(["problem_id", "response_ids", "verdict"])
    assert [path.stat().st_mtime_ns for path in paths][0::2] == before[0::2]  # the others were not touched
    assert not ray.is_initialized()
    return config, problems, paths, first, again


def test_every_problem_has_its_judged_samples(sampled):
    _, problems, paths, _, _ = sampled
    assert [path.name for path in paths] == [f"samples-{number:05d}.arrow" for number in range(3)]
    rows = [row for path in paths for row in arrow.read_ipc(path).to_pylist()]
    assert [row["problem_id"] for row in rows[::GROUP_SIZE]] == [problem.id for problem in problems]
    assert len(rows) == NUM_PROBLEMS * GROUP_SIZE
    for row in rows:
        assert (row["verdict"] is None) == (row["program"] is None)
        assert row["execution_error"] is None


def test_what_was_lost_is_sampled_again_as_it_was(sampled):
    *_, first, again = sampled
    assert first["problem_id"].to_pylist() == again["problem_id"].to_pylist()
    same = [
        one == two
        for one, two in zip(first["response_ids"].to_pylist(), again["response_ids"].to_pylist(), strict=True)
    ]
    # Seeds are the same; batching may change the last digit of a logprob, and with it now and then a token.
    assert sum(same) >= 0.8 * len(same)


def test_pairs_scores_and_probes_of_the_starter(sampled, tiny_starter, tmp_path):
    """The tiny policy writes half-formed programs, so verdicts are planted; the texts and the reward model are real."""
    _, _, paths, _, _ = sampled
    rows = [row for path in paths for row in arrow.read_ipc(path).to_pylist()]
    for row in rows:
        row["format_ok"], row["verdict"] = True, "passed" if row["sample_index"] % 2 else "wrong_answer"
        row["thinking"], row["program"] = row["thinking"] or row["response"] or "nothing", row["program"] or "x"
    import pyarrow as pa

    schema_ = pa.schema([*arrow.ROLLOUT_SCHEMA, *arrow.VERDICT_SCHEMA])
    arrow.write_ipc(tmp_path / "planted.arrow", pa.Table.from_pylist(rows, schema=schema_), {"run": "tiny"})
    planted = build_config(tmp_path, tiny_starter, f"samples.files=[{tmp_path}/planted.arrow]", "judge.kind=none")
    folder = lcb_rb.build(planted, quiet())
    pairs = schema.read_pairs(folder / "pairs.jsonl")
    assert pairs
    out = tmp_path / "scores.json"
    report = lcb_rb_score.score(
        folder / "pairs.jsonl", str(tiny_starter.reward_model), None, parse_tree(ScoreConfig, {}), True, out, quiet()
    )
    accuracy = report["results"]["reward model"]["accuracy"]
    assert accuracy["num_pairs"] == len(pairs)
    assert 0.0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1.0
    assert report["results"]["longer wins"]["accuracy"]["value"] == pytest.approx(0.5)  # balance_length
    with pytest.raises(ModelError, match="no reward model"):
        lcb_rb_score.score(
            folder / "pairs.jsonl", str(tiny_starter.policy), None, parse_tree(ScoreConfig, {}), True, out, quiet()
        )
    probed = probing.probe(
        str(tiny_starter.reward_model),
        None,
        tiny_starter.heldout,
        parse_tree(ProbeConfig, {"probe": {"max_reasonings": 20}}),
        tmp_path / "probes.json",
        quiet(),
    )
    assert probed["num_reasonings"] == 20
    assert all(0.0 <= one["fooled"]["value"] <= 1.0 for one in probed["probes"])
    assert json.loads((tmp_path / "probes.json").read_text())["worst"] == probed["probes"][0]["probe"]


def test_a_language_model_of_this_projects_own_judges(sampled, tiny_starter, tmp_path):
    """Plumbing: the tiny policy as the judge answers nonsense, which is kept and counted, never guessed."""
    _, _, paths, _, _ = sampled
    rows = [row for path in paths for row in arrow.read_ipc(path).to_pylist()]
    for row in rows:
        row["format_ok"], row["verdict"] = True, "passed" if row["sample_index"] % 2 else "wrong_answer"
        row["thinking"], row["program"] = f"words {row['sample_index']}", "x"
    import pyarrow as pa

    schema_ = pa.schema([*arrow.ROLLOUT_SCHEMA, *arrow.VERDICT_SCHEMA])
    arrow.write_ipc(tmp_path / "planted.arrow", pa.Table.from_pylist(rows, schema=schema_), {"run": "tiny"})
    (tmp_path / "short.txt").write_text("{{ problem }} {{ a }} {{ b }}")
    config = build_config(
        tmp_path,
        tiny_starter,
        f"samples.files=[{tmp_path}/planted.arrow]",
        "judge.kind=llm",
        f"judge.prompt={tmp_path}/short.txt",
        "judge.max_tokens=8",
        f"judge.chat.model={tiny_starter.policy}",
        "judge.chat.name=tiny",
        "judge.chat.dtype=float32",
        "judge.chat.max_model_tokens=256",
        "judge.chat.kv_cache_mib=64",
        "judge.chat.enforce_eager=true",
        "selection.max_candidates_per_problem=1",
    )
    with pytest.raises(Exception, match="accepted none of 10 candidates"):
        lcb_rb.build(config, quiet())
    report = json.loads((config.folder / "report.json").read_text())
    assert report["judge"]["name"] == "llm:tiny"
    assert report["stages"]["unparsed"] == 10
    assert report["judge"]["answers_unparsed"] == 20
    assert report["judge"]["completion_tokens"] > 0
    assert len((config.folder / "unparsed.jsonl").read_text().splitlines()) == 20
