"""Prompt files, what of a response is judged, summaries and comparisons: numbers worked out by hand."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from pgrpo_ray.config import DEFAULT_SYSTEM_PROMPT, MATHS_SYSTEM_PROMPT, RunConfig, load_tree
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.evaluation import results
from pgrpo_ray.evaluation.benchmarks import BENCHMARKS
from pgrpo_ray.evaluation.prompting import TEMPLATES, judged_part, load_prompt_file
from pgrpo_ray.evaluation.summary import summarise
from pgrpo_ray.jobs.comparison import compare
from pgrpo_ray.types import Problem, StdinCase, TestStyle

PROBLEM = Problem("p", "Add two numbers.\n", TestStyle.STDIN, (StdinCase("", ""),))


def test_default_prompts_are_what_training_says():
    assert load_prompt_file("code").system == DEFAULT_SYSTEM_PROMPT
    assert load_prompt_file("maths").system == MATHS_SYSTEM_PROMPT
    assert load_prompt_file("code").render(PROBLEM) == load_prompt_file("maths").render(PROBLEM) == PROBLEM.prompt
    assert load_prompt_file("code_fenced").render(PROBLEM).startswith("Add two numbers.\n\nThink")


@pytest.mark.parametrize("name", ["qwen2.5-coder-7b-8gpu", "qwen2.5-math-7b-8gpu"])
def test_the_papers_configs_train_on_the_prompts_that_are_measured(name):
    config = load_tree(RunConfig, Path(__file__).parents[2] / "cluster" / f"{name}.yaml")
    assert config.data.system_prompt is None  # the default of each problem's style, as the prompt files have it


def test_every_benchmark_has_its_two_prompt_files():
    wanted = {f"{benchmark.template}{end}" for benchmark in BENCHMARKS.values() for end in ("", "_fenced")}
    assert wanted == {file.stem for file in TEMPLATES.iterdir()}
    for name in wanted:
        assert "Add two numbers." in load_prompt_file(name).render(PROBLEM)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ prompt }}", "must be a part under a line"),
        ("[user]\n{{ prompt }}\n[user]\nx", "must be a part under a line"),
        ("[user]\nSolve it.", "leaves the problem out"),
        ("[user]\n{{ prompt }} {{ answer }}", "is no Jinja template"),
        ("[user]\n{{ prompt", "is no Jinja template"),
    ],
)
def test_a_prompt_file_that_cannot_work_is_refused(tmp_path, text, message):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_prompt_file("code", tmp_path / "mine.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prompt_file("code", tmp_path / "none.txt")


def test_another_text_is_another_hash(tmp_path):
    (tmp_path / "mine.txt").write_text(
        "[system]\nBe brief.\n[user]\nQ: {{ prompt | trim }} ({{ id }}{{ entry_point }})\n"
    )
    mine = load_prompt_file("code", tmp_path / "mine.txt")
    assert (mine.system, mine.render(PROBLEM)) == ("Be brief.", "Q: Add two numbers. (p)")
    assert mine.hash != load_prompt_file("code").hash
    assert len(mine.hash) == 12


@pytest.mark.parametrize(
    ("response", "tags", "fenced"),
    [
        ("<think>a</think><answer>\n```python\nx = 1\n```\n</answer>", "x = 1", "x = 1"),
        ("First\n```python\nx = 0\n```\nthen\n```py\nx = 1\n```\nDone.", None, "x = 1"),
        ("<think>```\nno\n```</think>\n```\nx = 2\n```", None, "x = 2"),
        ("<think>```\nno\n```</think>\nnothing", None, None),
        ("````\n```\ninner\n```\n````", None, "inner"),
        ("```python\nnever closed", None, None),
        ("```\n    return 1\n```", None, "    return 1"),
        ("```\n\n```", None, None),
    ],
)
def test_what_of_a_response_is_judged(response, tags, fenced):
    assert judged_part(response, TestStyle.STDIN, "tags") == tags
    assert judged_part(response, TestStyle.STDIN, "fenced") == fenced


def test_in_maths_all_behind_the_reasoning_is_judged():
    assert judged_part("<think>7?</think> It is \\boxed{8}.", TestStyle.ANSWER, "fenced") == "It is \\boxed{8}."
    assert judged_part("<think>7?</think> It is \\boxed{8}.", TestStyle.ANSWER, "tags") is None


def rows(*samples, tokens=10):
    """(problem, difficulty, passed) to a table; None: the machinery failed."""
    made = []
    for index, (problem, difficulty, passed) in enumerate(samples):
        row = {
            field.name: "" if pa.types.is_string(field.type) else False if pa.types.is_boolean(field.type) else 0
            for field in results.SCHEMA
        }
        row |= {"problem_id": problem, "difficulty": difficulty, "passed": passed, "response_tokens": tokens + index}
        row |= {"verdict": "passed" if passed else "wrong_answer" if passed is False else None}
        row |= {"error": None if passed is not None else "broken", "finish_reason": "stop", "format_ok": True}
        made.append(row)
    return pa.Table.from_pylist(made, schema=results.SCHEMA)


def test_one_sample_a_problem_gets_wilsons_interval():
    summary = summarise(rows(("a", "", True), ("b", "", False), ("c", "", True)), [1], 0)
    share = summary["pass_at_k"]["1"]
    assert (share["value"], share["interval"], share["num_problems"]) == (2 / 3, "wilson", 3)
    assert (share["low"], share["high"]) == pytest.approx((0.2077, 0.9385), abs=5e-5)  # by the formula, by hand
    assert summary["verdicts"] == {"passed": 2, "wrong_answer": 1}
    assert (summary["mean_response_tokens"], summary["mean_response_tokens_passed"]) == (11, 11)
    assert summary["by_difficulty"] == {}


def test_several_samples_and_difficulties():
    table = rows(("a", "easy", True), ("a", "easy", False), ("b", "hard", False), ("b", "hard", False))
    summary = summarise(table, [1, 2], 0)
    assert summary["pass_at_k"]["1"]["value"] == 0.25
    assert summary["pass_at_k"]["1"]["interval"] == "bootstrap"
    assert summary["pass_at_k"]["2"]["value"] == 0.5
    assert summary["by_difficulty"]["easy"]["pass_at_1"]["value"] == 0.5
    assert summary["by_difficulty"]["hard"]["pass_at_1"]["value"] == 0.0


def test_what_the_machinery_lost_is_in_no_share():
    table = rows(("a", "", True), ("a", "", None), ("b", "", None), ("b", "", None))
    summary = summarise(table, [1, 2], 0)
    assert summary["num_unjudged"] == 3
    assert (summary["pass_at_k"]["1"]["value"], summary["pass_at_k"]["1"]["num_problems"]) == (1.0, 1)
    assert summary["pass_at_k"]["2"]["value"] is None
    assert summary["verdicts"] == {"error": 3, "passed": 1}
    assert summary["mean_response_tokens_failed"] is None
    summary = summarise(rows(("a", "", True), ("a", "", None), ("b", "", False)), [1], 0)
    assert (summary["mean_response_tokens_passed"], summary["mean_response_tokens_failed"]) == (10, 12)


SETTINGS = {"benchmark": "mbpp", "problems": "x", "temperature": 0.0, "template": "t", "model": "m"}


def result(folder, table, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    results.write_table(folder / results.SAMPLES, table, SETTINGS | settings)
    return folder


def quiet():
    return Console(file=io.StringIO(), width=250)


def test_two_results_on_the_same_problems(tmp_path):
    first = [("a", "easy", False), ("b", "easy", False), ("c", "hard", True), ("d", "hard", False)]
    second = [("d", "hard", False), ("c", "hard", True), ("b", "easy", True), ("a", "easy", True)]  # another order
    one = result(tmp_path / "one", rows(*first), model="base")
    two = result(tmp_path / "two", rows(*second, tokens=20), model="trained")
    console = quiet()
    whole, easy, hard = compare(one, two, [], tmp_path / "out.json", 0, console)
    assert (whole.first, whole.second, whole.difference.value) == (0.25, 0.75, 0.5)
    assert (whole.difference.only_first, whole.difference.only_second) == (0, 2)
    assert whole.difference.p_value == 0.5  # two coins alike
    assert (whole.first_tokens, whole.second_tokens) == (11.5, 21.5)
    assert (easy.bucket, easy.difference.value) == ("easy", 1.0)
    assert (hard.bucket, hard.difference.value, hard.difference.p_value) == ("hard", 0.0, 1.0)
    shown = console.file.getvalue()
    assert "A = base, B = trained" in shown
    assert "McNemar" in shown
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["difference"]["value"] == 0.5


def test_lengths_are_compared_over_what_was_judged(tmp_path):
    table = rows(("a", "easy", True), ("a", "easy", None), ("b", "", False))  # of 10, 11 and 12 tokens
    one, two = result(tmp_path / "one", table), result(tmp_path / "two", rows(*[("a", "easy", True), ("b", "", True)]))
    whole, easy = compare(one, two, [], None, 0, quiet())
    assert (whole.first_tokens, easy.first_tokens) == (11.0, 10.0)


def test_unequal_settings_and_problems_are_refused(tmp_path):
    table = rows(("a", "", True))
    one = result(tmp_path / "one", table)
    other = result(tmp_path / "other", table, temperature=1.0)
    with pytest.raises(DataError, match=r"temperature differs: 0\.0 .*1\.0 .*--allow temperature"):
        compare(one, other, [], None, 0, quiet())
    console = quiet()
    assert compare(one, other, ["temperature"], None, 0, console)[0].difference.value == 0
    assert "A and B differ in temperature" in console.file.getvalue()
    with pytest.raises(ConfigError, match="is no setting that may differ"):
        compare(one, other, ["problems"], None, 0, quiet())
    with pytest.raises(DataError, match="problems differs"):
        compare(one, result(tmp_path / "set", table, problems="y"), [], None, 0, quiet())
    with pytest.raises(DataError, match="1 problems are in one result alone, such as 'b'"):
        compare(one, result(tmp_path / "more", rows(("a", "", True), ("b", "", True))), [], None, 0, quiet())
    with pytest.raises(DataError, match="no sample of 'a' has a verdict"):
        compare(one, result(tmp_path / "lost", rows(("a", "", None))), [], None, 0, quiet())


def test_folders_of_several_benchmarks(tmp_path):
    table = rows(("a", "", True))
    for side in ("one", "two"):
        result(tmp_path / side / "x", table, benchmark="mbpp")
        result(tmp_path / side / "y", table, benchmark="humaneval")
    found = compare(tmp_path / "one", tmp_path / "two", [], None, 0, quiet())
    assert [row.benchmark for row in found] == ["mbpp", "humaneval"]
    result(tmp_path / "two" / "z", table, benchmark="gsm8k")
    with pytest.raises(DataError, match="holds a result z, the other folder does not"):
        compare(tmp_path / "one", tmp_path / "two", [], None, 0, quiet())
    with pytest.raises(DataError, match=r"has no samples\.parquet"):
        compare(tmp_path, tmp_path / "two", [], None, 0, quiet())


def test_a_file_of_somebody_elses_is_refused(tmp_path):
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"a": [1]}), tmp_path / results.SAMPLES)
    with pytest.raises(DataError, match="lacks the column 'problem_id'"):
        results.load_result(tmp_path)
    (tmp_path / results.SAMPLES).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        results.load_result(tmp_path)
