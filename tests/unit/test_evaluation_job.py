"""`pgrpo eval` without Ray: refusals before any work, resuming, what is judged. Sampling is scripted, judging real."""

import contextlib
import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from pgrpo_ray.actors import reservation, sampling
from pgrpo_ray.config import load_tree, parse_tree
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.data import arrow
from pgrpo_ray.errors import ConfigError, DataError, EnvironmentFault, StageError
from pgrpo_ray.evaluation import results
from pgrpo_ray.jobs import evaluation, evaluation_samples
from pgrpo_ray.preflight.models import ModelFacts
from pgrpo_ray.sandbox.pool import make_pool

NUM_PROBLEMS = 7


def quiet():
    return Console(file=io.StringIO(), width=200)


def configured(folder, **sections):
    values = {
        "benchmark": {"name": "mbpp", "data": [str(folder / "mbpp.jsonl")]},
        "evaluation": {"out": str(folder / "out"), "solutions": "reference"},
        "sandbox": {"backend": "process", "slots": 1},
        "rollout": {"prompts_per_step": 2},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    config = parse_tree(EvaluationConfig, values)
    config.check()
    return config


class Judging:
    """Stands for workers and pools: judges in a real pool here; breaks, or loses programs, when told to."""

    def __init__(self):
        self.asked = []
        self.break_after = None
        self.lose = set()
        self.responses = {}
        self.revise = None

    def tables(self, fleet, config, tables):
        for table in tables:
            yield self.judged(config, table)

    def groups(self, fleet, config, requests, revise=None):
        self.revise = revise
        for request in requests:
            texts = self.responses[request.problem_id]
            table = rollouts(request, texts)
            yield self.judged(config, table if revise is None else revise(table))

    def judged(self, config, table):
        if self.break_after is not None and len(self.asked) == self.break_after:
            raise KeyboardInterrupt
        name = table["problem_id"][0].as_py()
        self.asked.append(name)
        programs = table["program"].to_pylist()
        judgements = [None if text is None else self.pool.judge(self.problems[name], text) for text in programs]
        if name in self.lose:
            from pgrpo_ray.types import Judgement

            judgements = [Judgement(None, 0, 0, 0.0, "", error="it broke") for _ in judgements]
        return arrow.append_columns(table, arrow.verdict_table(judgements))


def rollouts(request, texts):
    from pgrpo_ray.data.response import parse

    parsed = [parse(text) for text in texts]
    size = len(texts)
    return arrow.build_table(
        arrow.ROLLOUT_SCHEMA,
        {
            "problem_id": [request.problem_id] * size,
            "sample_index": list(range(size)),
            "policy_version": [0] * size,
            "prompt": ["shown"] * size,
            "prompt_ids": [list(request.prompt_ids)] * size,
            "response_ids": [[5, 6]] * size,
            "rollout_logprobs": [[-1.0, -1.0]] * size,
            "versions": [[0]] * size,
            "version_starts": [[0]] * size,
            "response": texts,
            "finish_reason": ["stop"] * size,
            "format_ok": [one.format_ok for one in parsed],
            "thinking": [one.thinking for one in parsed],
            "program": [one.program for one in parsed],
        },
    )


@pytest.fixture
def judging(monkeypatch, tmp_path):
    """Seven problems in a file, and a stand-in for everything of Ray."""
    lines = [
        {
            "task_id": number,
            "text": f"Write a function f{number} that adds {number}.",
            "code": f"def f{number}(x):\n    return x + {number}",
            "test_list": [f"assert f{number}(1) == {number + 1}"],
            "test_setup_code": "",
        }
        for number in range(NUM_PROBLEMS)
    ]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = Judging()

    @contextlib.contextmanager
    def fleet(config, model, kind, problems):
        found.problems = {problem.id: problem for problem in problems}
        found.pool = make_pool(kind, config.sandbox)
        try:
            yield found
        finally:
            found.pool.close()

    monkeypatch.setattr(reservation, "ray_session", lambda config: contextlib.nullcontext())
    monkeypatch.setattr(sampling, "sampling_fleet", fleet)
    monkeypatch.setattr(sampling, "judged_tables", found.tables)
    monkeypatch.setattr(sampling, "judged_groups", found.groups)
    monkeypatch.setenv("PGRPO_CACHE", str(tmp_path / "cache"))
    return found


def summary_of(folder):
    return json.loads((folder / "out" / results.SUMMARY).read_text())


def test_reference_solutions_pass_and_corrupted_ones_do_not(judging, tmp_path):
    evaluation.evaluate(configured(tmp_path), quiet())
    assert summary_of(tmp_path)["pass_at_k"]["1"]["value"] == 1.0
    table = results.load_result(tmp_path / "out").table
    assert table["problem_id"].to_pylist() == [str(number) for number in range(NUM_PROBLEMS)]
    assert set(table["finish_reason"].to_pylist()) == {"solution"}
    assert not (tmp_path / "out" / results.PARTS).exists()
    out = {"out": str(tmp_path / "wrong"), "solutions": "corrupted"}
    evaluation.evaluate(configured(tmp_path, evaluation=out), quiet())
    wrong = results.load_result(tmp_path / "wrong").table
    assert set(wrong["verdict"].to_pylist()) == {"wrong_answer"}


def test_what_was_judged_before_an_interruption_is_not_judged_again(judging, tmp_path):
    judging.break_after = 5
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(configured(tmp_path), quiet())
    assert not (tmp_path / "out" / results.SAMPLES).exists()
    judging.break_after, first = None, list(judging.asked)
    judging.asked.clear()
    console = quiet()
    evaluation.evaluate(configured(tmp_path), console)
    assert "5 of 7 problems are judged already" in console.file.getvalue()
    assert sorted(first + judging.asked) == [str(number) for number in range(NUM_PROBLEMS)]
    assert summary_of(tmp_path)["num_samples"] == NUM_PROBLEMS
    judging.asked.clear()
    evaluation.evaluate(configured(tmp_path), quiet())  # finished: only the summary is made again
    assert judging.asked == []


def test_what_the_machinery_lost_is_told_and_tried_again(judging, tmp_path):
    judging.lose = {"3"}
    with pytest.raises(EnvironmentFault, match="1 of 7 samples could not be judged"):
        evaluation.evaluate(configured(tmp_path), quiet())
    assert summary_of(tmp_path)["num_unjudged"] == 1
    assert summary_of(tmp_path)["pass_at_k"]["1"]["num_problems"] == 6
    judging.lose = set()
    judging.asked.clear()
    evaluation.evaluate(configured(tmp_path), quiet())
    assert judging.asked == ["3"]
    assert summary_of(tmp_path)["num_unjudged"] == 0
    assert results.load_result(tmp_path / "out").table["problem_id"].to_pylist()[3] == "3"


def test_machinery_that_fails_on_all_programs_ends_it(judging, tmp_path):
    judging.lose = {str(number) for number in range(NUM_PROBLEMS)}
    with pytest.raises(StageError, match="all 2 programs were lost to failing machinery: it broke"):
        evaluation.evaluate(configured(tmp_path), quiet())


def test_one_problem_that_nobody_can_judge_at_the_end_does_not_stop_it(judging, tmp_path):
    judging.lose = {"6"}  # the last, alone in its part; and alone again when the command is given again
    for _ in range(2):
        with pytest.raises(EnvironmentFault, match="1 of 7 samples could not be judged"):
            evaluation.evaluate(configured(tmp_path), quiet())
        assert summary_of(tmp_path)["pass_at_k"]["1"]["num_problems"] == 6


def test_parts_of_one_problem_do_not_stop_at_one_that_nobody_can_judge(judging, tmp_path):
    judging.lose = {"0"}
    with pytest.raises(EnvironmentFault, match="1 of 7 samples could not be judged"):
        evaluation.evaluate(configured(tmp_path, rollout={"prompts_per_step": 1}), quiet())


def test_an_interruption_stays_one_though_the_last_programs_were_lost(judging, tmp_path):
    judging.lose, judging.break_after = {"2"}, 3
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(configured(tmp_path), quiet())
    assert evaluation_samples.attempted(tmp_path / "out") == {"0", "1", "2"}


def test_a_full_disk_does_not_hide_what_ended_the_evaluation(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "no space left")

    group = results.SCHEMA.empty_table()
    with pytest.raises(KeyboardInterrupt), evaluation_samples.Parts(tmp_path, {}, 2) as parts:
        parts.add(group)
        monkeypatch.setattr(results, "write_table", full)
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="no space left"), evaluation_samples.Parts(tmp_path, {}, 2) as parts:
        parts.add(group)  # nothing else went wrong, so the loss is told


def test_a_sandbox_or_version_is_not_changed_half_way(judging, monkeypatch, tmp_path):
    evaluation.evaluate(configured(tmp_path), quiet())
    settings = json.loads((tmp_path / "out" / results.SETTINGS).read_text())
    assert (settings["sandbox"], settings["sandbox_image"]) == ("process", "")
    with monkeypatch.context() as patched, pytest.raises(ConfigError, match=r"pgrpo_ray = .*, now it is '9\.9'"):
        patched.setattr(evaluation, "__version__", "9.9")
        evaluation.evaluate(configured(tmp_path), quiet())
    file = tmp_path / "out" / results.SETTINGS
    file.write_text(json.dumps(settings | {"sandbox": "docker", "sandbox_image": "mine"}))
    with pytest.raises(ConfigError, match="sandbox = 'docker', now it is 'process'"):
        evaluation.evaluate(configured(tmp_path), quiet())


@pytest.mark.parametrize("text", ["[]", "null", "{"])
def test_damaged_settings_are_told(judging, tmp_path, text):
    evaluation.evaluate(configured(tmp_path), quiet())
    (tmp_path / "out" / results.SETTINGS).write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.json is damaged .* to begin anew"):
        evaluation.evaluate(configured(tmp_path), quiet())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"evaluation": {"solutions": "corrupted"}}, "solutions = 'reference', now it is 'corrupted'"),
        ({"evaluation": {"seed": 3}}, "seed = 0, now it is 3"),
        ({"benchmark": {"limit": 2}}, "problems = "),
    ],
)
def test_another_evaluation_in_the_same_folder_is_refused(judging, tmp_path, change, named):
    evaluation.evaluate(configured(tmp_path), quiet())
    out = {"out": str(tmp_path / "out"), "solutions": "reference"}
    change = {**change, "evaluation": out | change.get("evaluation", {})}
    with pytest.raises(ConfigError, match=named):
        evaluation.evaluate(configured(tmp_path, **change), quiet())


def test_two_at_a_time_in_one_folder_are_refused(judging, tmp_path):
    (tmp_path / "out").mkdir()
    with evaluation._hold(tmp_path / "out"), pytest.raises(ConfigError, match="another evaluation is going on"):
        evaluation.evaluate(configured(tmp_path), quiet())


@pytest.fixture
def sampled(judging, monkeypatch):
    """A model that knows its lines."""
    shown = {}

    def encode(model, items, prompt):
        shown.update({item.problem.id: prompt.render(item.problem) for item in items})
        return {item.problem.id: (1, 2, 3) for item in items}

    monkeypatch.setattr(evaluation_samples, "encode", encode)
    monkeypatch.setattr(evaluation_samples, "model_version", lambda model: "sha256:x")
    facts = ModelFacts(num_parameters=1, max_positions=100)
    monkeypatch.setattr(evaluation, "model_facts", lambda *_, **__: facts)
    judging.shown = shown
    return judging


def right(number):
    return f"def f{number}(x):\n    return x + {number}"


def test_samples_of_a_model(sampled, tmp_path):
    tagged = "<think>so</think><answer>\n{}\n</answer>"
    for number in range(NUM_PROBLEMS):
        wrong = right(number).replace("+", "-") if number else "def f0(x): return 7"
        sampled.responses[str(number)] = [tagged.format(right(number)), tagged.format(wrong), "no tags"]
    config = configured(
        tmp_path,
        evaluation={"solutions": "", "k": [1, 2]},
        policy={"model": "m"},
        rollout={"group_size": 3, "temperature": 0.8},
    )
    evaluation.evaluate(config, quiet())
    summary = summary_of(tmp_path)
    assert sampled.revise is None
    assert sampled.shown["2"].startswith("Write a function f2 that adds 2.")
    assert summary["pass_at_k"]["1"]["value"] == pytest.approx(1 / 3)
    assert summary["pass_at_k"]["2"]["value"] == pytest.approx(2 / 3)  # 1 - C(2, 2) / C(3, 2)
    assert summary["verdicts"] == {"passed": 7, "wrong_answer": 7, "no_program": 7}
    assert summary["max_response_tokens"] == 97  # 100 positions, a prompt of 3
    assert (summary["mean_response_tokens"], summary["format_ok_frac"]) == (2.0, pytest.approx(2 / 3))
    assert summary["model_version"] == "sha256:x"


def test_answers_without_tags_can_be_taken_from_fences(sampled, tmp_path):
    for number in range(NUM_PROBLEMS):
        sampled.responses[str(number)] = [f"Here:\n```python\n{right(number)}\n```\n"]
    config = configured(tmp_path, evaluation={"solutions": ""}, policy={"model": "m"}, prompt={"answers": "fenced"})
    evaluation.evaluate(config, quiet())
    summary = summary_of(tmp_path)
    assert summary["pass_at_k"]["1"]["value"] == 1.0
    assert summary["format_ok_frac"] == 0.0
    assert summary["prompt_file"] == "code_fenced.txt"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"benchmark": {"name": None}}, "benchmark.name is missing"),
        ({"benchmark": {"data": []}}, "benchmark.data is empty"),
        ({"benchmark": {"data": ["starter"]}}, "stands alone and is of benchmark jsonl"),
        ({"benchmark": {"first_day": "August"}}, "Write a day as 2024-08-01"),
        ({"benchmark": {"release": "v5"}}, "LiveCodeBench's alone"),
        ({"evaluation": {"k": [2]}}, r"pass@2 needs 1 <= k <= 1"),
        ({"evaluation": {"solutions": "", "k": [1]}, "rollout": {"group_size": 2}}, "would be one and the same"),
        ({"sandbox": {"backend": "process"}, "cluster": {"address": "auto"}}, "isolates too weakly"),
        ({"sandbox": {"deadline_s": 4000.0}}, "must be less than"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, sections, message):
    with pytest.raises(ConfigError, match=message):
        configured(tmp_path, **sections)


def test_a_response_that_does_not_fit_is_refused(sampled, tmp_path):
    config = configured(
        tmp_path, evaluation={"solutions": ""}, policy={"model": "m"}, rollout={"max_response_tokens": 98}
    )
    with pytest.raises(ConfigError, match="longest prompt has 3 tokens and the model 100 positions, so 98 tokens"):
        evaluation.evaluate(config, quiet())


def test_solutions_are_asked_for_only_where_there_are_some(judging, tmp_path):
    record = {"id": "a", "prompt": "b", "tests": {"style": "assert", "cases": ["assert f() == 1"]}}
    (tmp_path / "own.jsonl").write_text(json.dumps(record) + "\n")
    config = configured(tmp_path, benchmark={"name": "jsonl", "data": [str(tmp_path / "own.jsonl")]})
    with pytest.raises(DataError, match="1 problems have no reference solution, such as 'a'"):
        evaluation.evaluate(config, quiet())


def bigcode(name, libs):
    return {
        "task_id": name,
        "instruct_prompt": "Return one.",
        "code_prompt": "def task_func():\n",
        "canonical_solution": "    return 1\n",
        "test": "import unittest\nclass TestCases(unittest.TestCase):\n"
        "    def test_one(self):\n        self.assertEqual(task_func(), 1)\n",
        "entry_point": "task_func",
        "libs": libs,
    }


def test_problems_whose_libraries_are_missing_are_named_or_left_out(judging, tmp_path):
    records = [bigcode("B/0", ["json"]), bigcode("B/1", ["json", "no_such_library"])]
    (tmp_path / "big.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    benchmark = {"name": "bigcodebench", "data": [str(tmp_path / "big.jsonl")]}
    with pytest.raises(EnvironmentFault, match=r"1 of 2 problems need .* B/1 \(no_such_library\)"):
        evaluation.evaluate(configured(tmp_path, benchmark=benchmark), quiet())
    config = configured(tmp_path, benchmark=benchmark | {"skip_missing_libs": True})
    evaluation.evaluate(config, quiet())
    assert judging.asked == ["B/0"]
    assert summary_of(tmp_path)["problems_skipped"] == {"B/1": ["no_such_library"]}
    table = results.load_result(tmp_path / "out").table
    assert table["verdict"].to_pylist() == ["passed"]
    assert "TestCases" not in table["program"][0].as_py()


def test_raw_plus_files_are_judged_by_what_their_references_put_out(judging, tmp_path):
    record = {
        "task_id": "HumanEval/0",
        "entry_point": "double",
        "prompt": "def double(x):\n    '''Double.'''\n",
        "canonical_solution": "    return 2 * x\n",
        "base_input": [[1]],
        "plus_input": [[0.1]],
    }
    (tmp_path / "plus.jsonl").write_text(json.dumps(record) + "\n")
    benchmark = {"name": "humaneval_plus", "data": [str(tmp_path / "plus.jsonl")]}
    evaluation.evaluate(configured(tmp_path, benchmark=benchmark), quiet())
    assert summary_of(tmp_path)["pass_at_k"]["1"]["value"] == 1.0
    assert results.load_result(tmp_path / "out").table["tests_total"].to_pylist() == [2]


def test_options_set_the_keys_that_the_help_names(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from pgrpo_ray.cli.evaluation import app

    taken = []
    monkeypatch.setattr(evaluation, "evaluate", lambda config, console: taken.append(config))
    (tmp_path / "file.yaml").write_text("rollout: {group_size: 9, temperature: 0.5}\nbenchmark: {limit: 5}\n")
    arguments = shlex.split(
        "eval --model 1 --benchmark livecodebench --data a --data b --n 4 --k 1 --k 2 --temperature 0.8 --limit 3 "
        "--from 2024-08-01 --to 2024-09-01 --release v5 --template t.txt --answers fenced --skip-missing-libs --out o "
        "--set rollout.num_workers=3"
    )
    done = CliRunner().invoke(app, [*arguments, "--config", str(tmp_path / "file.yaml")])
    assert done.exit_code == 0, done.output
    (config,) = taken
    assert config.policy.model == "1"
    assert config.benchmark.model_dump(exclude_defaults=True) == {
        "name": "livecodebench",
        "data": ["a", "b"],
        "release": "v5",
        "first_day": "2024-08-01",
        "last_day": "2024-09-01",
        "limit": 3,
        "skip_missing_libs": True,
    }
    assert (config.rollout.group_size, config.rollout.temperature, config.rollout.num_workers) == (4, 0.8, 3)
    assert (config.evaluation.k, config.evaluation.out) == ([1, 2], "o")
    assert config.prompt.model_dump() == {"template": "t.txt", "answers": "fenced"}
    assert CliRunner().invoke(app, ["eval", "--data", "starter", "--solutions", "reference"]).exit_code == 0
    assert taken[-1].folder == Path("evaluations/reference-solutions/jsonl")


def test_the_shipped_config_is_the_starters():
    config = load_tree(EvaluationConfig, Path(__file__).parents[2] / "cluster" / "evaluation.yaml")
    assert config.uses_starter_data
    assert config.folder == Path("evaluations/starter/jsonl")


def test_the_columns_are_documented():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert results.describe_columns() in page
