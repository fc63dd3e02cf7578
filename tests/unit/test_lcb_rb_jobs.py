"""`pgrpo lcb-rb build | score | agree` from files on: stages, judges, resuming, reports and refusals."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from pgrpo_ray.config import load_tree, parse_tree
from pgrpo_ray.config.lcb_rb import LcbRbConfig, ScoreConfig
from pgrpo_ray.data import arrow
from pgrpo_ray.errors import ConfigError, DataError, EnvironmentFault
from pgrpo_ray.jobs import lcb_rb, lcb_rb_agreement, lcb_rb_score
from pgrpo_ray.jobs.judges import AnswerBook
from pgrpo_ray.jobs.lcb_rb_samples import _check_settings
from pgrpo_ray.preflight.models import ModelFacts
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.starter.artifacts import StarterPaths
from pgrpo_ray.types import ChatAnswer, Judgement, Verdict

PASSING, FAILING = "the right way, item {}", "a wrong way, entry {}"


def quiet():
    return Console(file=io.StringIO(), width=200)


def problem_line(number, **metadata):
    tests = {"style": "stdin", "cases": [{"input": "1", "output": "1"}]}
    return {"id": f"p{number}", "prompt": f"Problem number {number}.", "tests": tests, "metadata": metadata}


def group(problem_id, verdicts, reasonings):
    size = len(verdicts)
    rollouts = arrow.build_table(
        arrow.ROLLOUT_SCHEMA,
        {
            "problem_id": [problem_id] * size,
            "sample_index": list(range(size)),
            "policy_version": [5] * size,
            "prompt": ["templated"] * size,
            "prompt_ids": [[1]] * size,
            "response_ids": [[2]] * size,
            "rollout_logprobs": [[-1.0]] * size,
            "versions": [[5]] * size,
            "version_starts": [[0]] * size,
            "response": ["r"] * size,
            "finish_reason": ["stop"] * size,
            "format_ok": [True] * size,
            "thinking": reasonings,
            "program": [f"code {at}" for at in range(size)],
        },
    )
    judgements = [Judgement(Verdict(verdict), 0, 1, 1.0, "process") for verdict in verdicts]
    return arrow.append_columns(rollouts, arrow.verdict_table(judgements))


@pytest.fixture
def workplace(tmp_path):
    """Six problems, each with two passing and two failing samples, and a config that reads them."""
    import pyarrow as pa

    lines = [problem_line(number, difficulty=("easy", "hard")[number % 2]) for number in range(6)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    verdicts = ["passed", "wrong_answer", "passed", "time_limit"]
    words = [PASSING, FAILING, PASSING, FAILING]
    tables = [
        group(line["id"], verdicts, [text.format(f"{line['id']}-{at}") for at, text in enumerate(words)])
        for line in lines
    ]
    arrow.write_ipc(tmp_path / "after.arrow", pa.concat_tables(tables), {"run": "my-run"})
    (tmp_path / "config.yaml").write_text(
        f"lcb_rb: {{dir: {tmp_path}, name: out}}\n"
        f"problems: {{file: {tmp_path}/problems.jsonl}}\n"
        f"samples: {{files: ['{tmp_path}/*.arrow']}}\n"
        "judge: {chat: {backend: endpoint, model: m, base_url: 'http://localhost:1/v1'}}\n"
    )
    return tmp_path


def build(workplace, *overrides):
    config = load_tree(LcbRbConfig, workplace / "config.yaml", list(overrides))
    folder = lcb_rb.build(config, quiet())
    return folder, json.loads((folder / "report.json").read_text())


class FakeJudge:
    """A chat model that finds the word `right`, or does what it is told instead."""

    name = "fake"

    def __init__(self, behaviour="honest", dies_after=None):
        self.behaviour = behaviour
        self.dies_after = dies_after
        self.asked = 0

    def answer(self, requests):
        for request in requests:
            if self.asked == self.dies_after:
                raise KeyboardInterrupt
            self.asked += 1
            yield self._one(request)

    def _one(self, request):
        if self.behaviour == "down" or (self.behaviour == "flaky" and "p0-" in request.prompt):
            return ChatAnswer(request.id, None, error="500 Internal Server Error")
        if self.behaviour == "strict" and "p0-" in request.prompt:
            return ChatAnswer(request.id, None, "rejected", "the prompt is too long")
        if self.behaviour == "refuses all":
            return ChatAnswer(request.id, None, "rejected", "max_tokens is too large")
        if self.behaviour == "nonsense" and "p0-" in request.prompt:
            return ChatAnswer(request.id, "As a model I like both.", "stop")
        a = re.search(r"<reasoning A (\w+)>\n(.*?)\n</reasoning A \1>", request.prompt, re.DOTALL)[2]
        first = "right" in a or self.behaviour == "biased"
        if "VERDICT" in request.prompt:
            second = not first if self.behaviour != "biased" else False
            words = ["sound" if side else "flawed" for side in (first, second)]
            text = f"Hm.\nVERDICT A: {words[0]}\nVERDICT B: {words[1]}"
        else:
            text = f"BETTER: {'A' if first else 'B'}"
        return ChatAnswer(request.id, text, "stop", prompt_tokens=10, completion_tokens=2)

    def close(self):
        pass


@pytest.fixture
def judged_by(monkeypatch):
    def use(judge):
        @contextlib.contextmanager
        def open_chat_model(section):
            yield judge

        monkeypatch.setattr("pgrpo_ray.actors.chat.open_chat_model", open_chat_model)
        return judge

    return use


def test_execution_alone_makes_pairs_with_all_their_provenance(workplace):
    folder, report = build(workplace)
    pairs = schema.read_pairs(folder / "pairs.jsonl")
    assert report["pairs"] == len(pairs) == 12  # two of each problem
    assert report["stages"]["candidates"] == report["stages"]["accept"] == 24
    for pair in pairs:
        assert pair.chosen.startswith("the right way") and pair.rejected.startswith("a wrong way")
        assert pair.chosen_verdict == "passed" and pair.rejected_verdict in ("wrong_answer", "time_limit")
        assert pair.prompt == f"Problem number {pair.problem_id[1:]}."  # the statement, not the templated prompt
        assert pair.difficulty == ("easy", "hard")[int(pair.problem_id[1:]) % 2]
        assert (pair.policy, pair.judge, pair.sampling_seed) == ("my-run", "none", -1)
        assert pair.chosen_sample == f"5/{pair.chosen[-1]}"
        assert pair.chosen_program == f"code {pair.chosen[-1]}"
    assert report["difficulty_from"] == "metadata"
    assert report["by_difficulty"]["easy"] == {"problems": 3, "candidates": 12, "accepted": 12, "pairs": 6}


def test_the_same_build_gives_the_same_bytes(workplace):
    folder, _ = build(workplace)
    before = {name: (folder / name).read_bytes() for name in ("pairs.jsonl", "candidates.jsonl", "report.json")}
    build(workplace)
    assert before == {name: (folder / name).read_bytes() for name in before}
    build(workplace, "lcb_rb.seed=1")
    assert before["pairs.jsonl"] != (folder / "pairs.jsonl").read_bytes()


def test_an_honest_judge_keeps_the_pairs_and_agrees_with_itself(workplace, judged_by):
    judge = judged_by(FakeJudge())
    folder, report = build(workplace, "judge.kind=llm", "judge.chat.prompt_price=1000000")
    assert judge.asked == report["judge"]["requests"] == 48
    assert report["stages"]["accept"] == 24
    assert report["judge"]["position_bias_rate"] == 0.0
    assert report["judge"]["agreement_between_orders"]["kappa"] == 1.0
    assert report["judge"]["cost"] == 480
    pair = schema.read_pairs(folder / "pairs.jsonl")[0]
    assert pair.judge == "llm:fake"
    assert [answer.count("sound") for answer in pair.judge_answers] == [1, 1]
    assert len(pair.prompt_hash) == 12


def test_a_judge_that_favours_a_place_keeps_nothing(workplace, judged_by):
    judged_by(FakeJudge("biased"))
    with pytest.raises(DataError, match="accepted none of 24 candidates"):
        build(workplace, "judge.kind=llm")
    report = json.loads((workplace / "out" / "report.json").read_text())
    assert report["judge"]["position_bias_rate"] == 1.0
    assert report["judge"]["sound_frac_when_first"] == 1.0
    assert report["judge"]["sound_frac_when_second"] == 0.0
    assert len(schema.read_pairs(workplace / "out" / "candidates.jsonl")) == 24


def test_answers_that_cannot_be_read_are_kept_and_counted(workplace, judged_by):
    judged_by(FakeJudge("nonsense"))
    folder, report = build(workplace, "judge.kind=llm")
    assert report["stages"]["unparsed"] == 4
    assert report["judge"]["answers_unparsed"] == 8
    lines = [json.loads(line) for line in (folder / "unparsed.jsonl").read_text().splitlines()]
    assert {line["answer"] for line in lines} == {"As a model I like both."}
    assert "p0" not in {pair.problem_id for pair in schema.read_pairs(folder / "pairs.jsonl")}


def test_a_killed_judge_is_asked_nothing_twice(workplace, judged_by):
    judged_by(FakeJudge(dies_after=20))
    with pytest.raises(KeyboardInterrupt):
        build(workplace, "judge.kind=llm")
    book = workplace / "out" / "judge-answers.jsonl"
    assert len(book.read_text().splitlines()) == 20
    with book.open("a") as file:
        file.write('{"key": "cut sh')  # what a power cut leaves
    judge = judged_by(FakeJudge())
    price = "judge.chat.prompt_price=1000000"
    folder, report = build(workplace, "judge.kind=llm", price)
    assert judge.asked == 28
    assert report["pairs"] == 12
    assert (report["judge"]["prompt_tokens"], report["judge"]["completion_tokens"]) == (480, 96)
    assert report["judge"]["cost"] == 480  # what all answers cost, not those of this run
    before = (folder / "report.json").read_bytes()
    judge = judged_by(FakeJudge("down"))  # all is in the book, so nobody notices
    build(workplace, "judge.kind=llm", price)
    assert judge.asked == 0
    assert (folder / "report.json").read_bytes() == before


def test_requests_without_an_answer_are_left_out_and_asked_again(workplace, judged_by):
    judged_by(FakeJudge("flaky"))
    _, report = build(workplace, "judge.kind=llm")
    assert report["stages"]["unanswered"] == 4
    assert report["judge"]["first_error"] == "500 Internal Server Error"
    judge = judged_by(FakeJudge())
    _, report = build(workplace, "judge.kind=llm")
    assert (judge.asked, report["stages"]["unanswered"], report["pairs"]) == (8, 0, 12)


def test_rejected_requests_are_unparsed_and_shown(workplace, judged_by):
    judged_by(FakeJudge("strict"))
    console = quiet()
    folder = lcb_rb.build(load_tree(LcbRbConfig, workplace / "config.yaml", ["judge.kind=llm"]), console)
    report = json.loads((folder / "report.json").read_text())
    assert (report["stages"]["unparsed"], report["stages"]["unanswered"], report["pairs"]) == (4, 0, 10)
    assert (report["judge"]["requests_rejected"], report["judge"]["first_rejection"]) == (8, "the prompt is too long")
    assert "rejected 8 of 48 requests" in console.file.getvalue()
    lines = [json.loads(line) for line in (folder / "unparsed.jsonl").read_text().splitlines()]
    assert [(line["answer"], line["rejected"]) for line in lines] == [("", "the prompt is too long")] * 8
    before = (folder / "report.json").read_bytes()
    judge = judged_by(FakeJudge("strict"))
    build(workplace, "judge.kind=llm")
    assert judge.asked == 8  # another model of the name may have more room
    assert (folder / "report.json").read_bytes() == before


def test_a_judge_that_rejects_everything_is_an_error(workplace, judged_by):
    judged_by(FakeJudge("refuses all"))
    with pytest.raises(
        EnvironmentFault, match=r"answered none of 48 requests \(48 rejected\).*max_tokens is too large"
    ):
        build(workplace, "judge.kind=llm")


def test_a_dead_endpoint_is_an_error_and_work_is_kept(workplace, judged_by):
    judged_by(FakeJudge("down"))
    with pytest.raises(EnvironmentFault, match=r"answered none of 48 requests.*500 Internal Server Error"):
        build(workplace, "judge.kind=llm")


def test_contamination_names_what_overlaps(workplace):
    words = "Problem number 3."
    pairs = [{"prompt": words, "better": "x", "worse": "y", "kind": ""}]
    (workplace / "rm.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    _, report = build(
        workplace,
        f"contamination.training_pairs=[{workplace}/rm.jsonl]",
        f"contamination.problems=[{workplace}/problems.jsonl]",
    )
    first, second = report["contamination"]
    assert (first["exact"], first["overlapping"], first["problems_here"]) == (1, 1, 6)
    assert first["worst"][0]["measured"] == "p3"
    assert second["exact"] == 6
    assert first["too_short_for_ngrams"] == 6


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("samples.files=[/nowhere/*.arrow]", DataError, "names no file"),
        ("problems.file=/nowhere.jsonl", DataError, "cannot be read"),
        ("judge.kind=starter", DataError, "knows the starter's own problems only"),
        ("contamination.problems=[/nowhere.jsonl]", DataError, "cannot be read"),
        ("judge.prompt=/nowhere.txt", None, ""),  # not asked for while judge.kind is none
        ("rollout.group_size=1", None, ""),  # nor is anything sampled
        ("selection.max_pairs_per_problems=1", ConfigError, "Did you mean 'max_pairs_per_problem'"),
        ("problems.max_problems=1", None, ""),
    ],
)
def test_bad_input_ends_before_any_work(workplace, override, error, words):
    if error is None:
        build(workplace, override)
        return
    with pytest.raises(error, match=words):
        build(workplace, override)
    assert not list(workplace.glob("out/*.jsonl"))


def test_samples_of_other_problems_and_files_without_verdicts_are_refused(workplace):
    (workplace / "others.jsonl").write_text(json.dumps(problem_line(99)) + "\n")
    with pytest.raises(DataError, match="no sample is of the problem set"):
        build(workplace, f"problems.file={workplace}/others.jsonl")
    table = arrow.read_ipc(workplace / "after.arrow").select(arrow.ROLLOUT_SCHEMA.names)
    arrow.write_ipc(workplace / "after.arrow", table, {})
    with pytest.raises(DataError, match="lacks the column 'verdict'"):
        build(workplace)


def test_samples_of_other_settings_are_not_mixed(workplace):
    config = load_tree(LcbRbConfig, workplace / "config.yaml")
    _check_settings(workplace, config, "hub/name", [])
    _check_settings(workplace, config, "hub/name", [])
    changed = load_tree(LcbRbConfig, workplace / "config.yaml", ["rollout.temperature=0.5"])
    with pytest.raises(ConfigError, match=r"rollout.temperature = 1.0, now it is 0.5"):
        _check_settings(workplace, changed, "hub/name", [])


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_settings_are_told(workplace, text):
    (workplace / "settings.json").write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.json is damaged .* to begin anew"):
        _check_settings(workplace, load_tree(LcbRbConfig, workplace / "config.yaml"), "hub/name", [])


def test_samples_of_another_policy_of_the_same_name_are_not_mixed(tmp_path, workplace):
    model, samples = tmp_path / "model", tmp_path / "samples"
    model.mkdir()
    samples.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    config = load_tree(LcbRbConfig, workplace / "config.yaml", [f"policy.model={model}"])
    _check_settings(samples, config, str(model), [])
    _check_settings(samples, config, str(model), [])
    (model / "model.safetensors").write_bytes(b"trained further")
    with pytest.raises(ConfigError, match="policy's version = 'sha256:"):
        _check_settings(samples, config, str(model), [])


def test_samples_of_another_starter_are_not_mixed(tmp_path, workplace, monkeypatch):
    config = load_tree(LcbRbConfig, workplace / "config.yaml", ["policy.model=starter"])
    _check_settings(tmp_path, config, "/cache/policy", [])
    _check_settings(tmp_path, config, "/elsewhere/policy", [])  # the same starter in another cache
    monkeypatch.setattr("pgrpo_ray.starter.artifacts._LIBRARIES", ("torch",))  # as another version of the code
    with pytest.raises(ConfigError, match="policy's version = 'starter-"):
        _check_settings(tmp_path, config, "/cache/policy", [])


def test_the_example_config_is_sound():
    config = load_tree(LcbRbConfig, Path(__file__).parents[2] / "cluster" / "lcb-rb.yaml")
    assert config.uses_starter and config.samples_itself and not config.judge.needs_starter
    asked = load_tree(
        LcbRbConfig, Path(__file__).parents[2] / "cluster" / "lcb-rb.yaml", ["judge.kind=llm", "rollout.group_size=50"]
    )
    assert asked.judge.needs_starter
    assert asked.judge.with_starter("/policy", "abc").chat.model == "/policy"
    assert asked.judge.with_starter("/policy", "abc").chat.label == "starter-abc"  # its answers are no other starter's
    with pytest.raises(ConfigError, match="needs a passing and a failing sample"):
        load_tree(LcbRbConfig, Path(__file__).parents[2] / "cluster" / "lcb-rb.yaml", ["rollout.group_size=1"])


def run_score(file, out, *, reward_model=None, judge=None, baselines=True):
    config = parse_tree(ScoreConfig, {})
    return lcb_rb_score.score(file, reward_model, judge, config, baselines, out, quiet())


@pytest.fixture
def reward_model(monkeypatch):
    """A reward model that likes the word `right`; of p0 it is always wrong, of p1 it cannot tell. Takes 100 tokens."""
    seen = []

    def raw_scores(items, model, scoring, console):
        seen.append((model, scoring.max_length_tokens))

        def one(prompt, text):
            likes = float("right" in text)
            return {"Problem number 0.": -likes, "Problem number 1.": 0.5}.get(prompt, likes)

        return [one(*item) for item in items]

    monkeypatch.setattr(lcb_rb_score, "raw_scores", raw_scores)
    monkeypatch.setattr("pgrpo_ray.jobs.raw_scores.model_facts", lambda *_, **__: ModelFacts(1, 100))
    return seen


def test_scoring_a_reward_model_against_baselines(workplace, reward_model, tmp_path):
    folder, _ = build(workplace)
    report = run_score(folder / "pairs.jsonl", tmp_path / "scores.json", reward_model="rm")
    found = report["results"]
    assert found["reward model"]["accuracy"]["value"] == pytest.approx((4 * 2 + 2 * 0.5) / 12)
    assert found["reward model"]["ties"] == 2
    assert found["reward model"]["max_length_tokens"] == 100 and reward_model == [("rm", 100)]  # not the default 2048
    assert found["reward model"]["by_difficulty"]["easy"]["value"] == pytest.approx(4 / 6)
    assert found["reward model"]["by_difficulty"]["hard"]["value"] == pytest.approx(5 / 6)
    assert found["random"]["accuracy"]["value"] == 0.5
    longer, shorter = (found[name]["accuracy"]["value"] for name in ("longer wins", "shorter wins"))
    assert longer + shorter == pytest.approx(1.0)
    compared = report["minus_best_length_baseline"]["reward model"]
    assert compared["baseline"] == ("longer wins" if longer > shorter else "shorter wins")
    assert compared["value"] == pytest.approx(9 / 12 - max(longer, shorter))
    assert json.loads((tmp_path / "scores.json").read_text()) == report
    buckets = found["reward model"]["by_length"]
    assert sum(bucket["num_pairs"] for bucket in buckets.values()) == 12


def judge_section(workplace):
    return load_tree(LcbRbConfig, workplace / "config.yaml", ["judge.kind=llm"]).judge


def test_scoring_a_judge_in_both_orders(workplace, judged_by, tmp_path):
    folder, _ = build(workplace)
    judge = judged_by(FakeJudge())
    report = run_score(folder / "pairs.jsonl", tmp_path / "s.json", judge=judge_section(workplace))
    assert report["results"]["judge"]["accuracy"]["value"] == 1.0
    assert judge.asked == 24
    judged_by(FakeJudge("biased"))  # another model of the same name: its answers are in the book
    report = run_score(folder / "pairs.jsonl", tmp_path / "other.json", judge=judge_section(workplace))
    assert report["results"]["judge"]["accuracy"]["value"] == 0.5
    assert report["results"]["judge"]["ties"] == 12
    assert report["results"]["judge"]["first_preferred_frac"] == 1.0
    assert report["results"]["judge"]["position_bias_rate"] == 1.0


def test_unreadable_answers_are_ties_and_missing_ones_stop_the_score(workplace, judged_by, tmp_path):
    folder, _ = build(workplace)
    judged_by(FakeJudge("nonsense"))
    report = run_score(folder / "pairs.jsonl", tmp_path / "s.json", judge=judge_section(workplace))
    assert report["results"]["judge"]["accuracy"]["value"] == pytest.approx(11 / 12)
    assert report["results"]["judge"]["answers_unparsed"] == 4
    judged_by(FakeJudge("flaky"))
    with pytest.raises(EnvironmentFault, match="no answer about 2 of 12 pairs"):
        run_score(folder / "pairs.jsonl", tmp_path / "t.json", judge=judge_section(workplace))
    assert len((tmp_path / "t.json.answers.jsonl").read_text().splitlines()) == 20
    judge = judged_by(FakeJudge())
    run_score(folder / "pairs.jsonl", tmp_path / "t.json", judge=judge_section(workplace))
    assert judge.asked == 4


def test_requests_that_a_judge_rejects_are_ties_and_do_not_stop_the_score(workplace, judged_by, tmp_path):
    folder, _ = build(workplace)
    judged_by(FakeJudge("strict"))
    section = judge_section(workplace)
    report = run_score(folder / "pairs.jsonl", tmp_path / "s.json", judge=section)
    found = report["results"]["judge"]
    assert found["accuracy"]["value"] == pytest.approx(11 / 12)
    assert (found["requests_rejected"], found["answers_unparsed"], found["ties"]) == (4, 4, 2)
    assert (found["prompt_tokens"], found["completion_tokens"]) == (200, 40)
    assert run_score(folder / "pairs.jsonl", tmp_path / "s.json", judge=section) == report


def test_starter_means_the_starter_of_the_build(workplace, reward_model, judged_by, tmp_path, monkeypatch):
    made = []

    def make_starter(section, stage):
        made.append(section.seed)
        return StarterPaths.inside(tmp_path / "starter")

    monkeypatch.setattr(lcb_rb_score, "make_starter", make_starter)
    folder, _ = build(workplace, "starter.seed=5")
    run_score(folder / "pairs.jsonl", tmp_path / "s.json", reward_model="starter")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "pairs.jsonl").write_bytes((folder / "pairs.jsonl").read_bytes())
    run_score(alone / "pairs.jsonl", tmp_path / "s.json", reward_model="starter")
    assert made == [5, 0]
    judge = load_tree(
        LcbRbConfig,
        workplace / "config.yaml",
        ["judge.kind=llm", "judge.chat.backend=vllm", "judge.chat.model=starter"],
    ).judge
    with pytest.raises(ConfigError, match="mean different starters"):
        run_score(folder / "pairs.jsonl", tmp_path / "s.json", judge=judge)
    (alone / "report.json").write_text("[]")
    with pytest.raises(DataError, match="no report of a build"):
        run_score(alone / "pairs.jsonl", tmp_path / "s.json", reward_model="starter")


def test_the_starters_own_training_problems_are_compared_by_themselves(workplace, monkeypatch):
    lines = (workplace / "problems.jsonl").read_text().splitlines(keepends=True)
    paths = StarterPaths.inside(workplace / "starter")
    paths.train.parent.mkdir()
    paths.heldout.write_text("".join(lines))
    paths.train.write_text(json.dumps(problem_line(77)) + "\n")
    (workplace / "starter" / "warmup.jsonl").write_text(lines[2] + json.dumps(problem_line(78)) + "\n")
    monkeypatch.setattr(lcb_rb, "make_starter", lambda section, stage: paths)
    _, report = build(workplace, "problems.file=starter")
    warmup, train = report["contamination"]
    assert (warmup["file"], warmup["problems_there"], warmup["exact"]) == ("starter/warmup.jsonl", 2, 1)
    assert warmup["worst"][0]["measured"] == "p2"
    assert (train["file"], train["overlapping"]) == ("starter/train.jsonl", 0)


def test_reward_bench_is_scored_by_subset(reward_model, tmp_path):
    lines = [
        {"prompt": f"q{at}", "chosen": "right", "rejected": "bad", "subset": ("code", "math")[at % 2], "id": at}
        for at in range(6)
    ]
    lines[1]["chosen"], lines[1]["rejected"] = "bad", "right"
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = run_score(tmp_path / "bench.jsonl", tmp_path / "s.json", reward_model="rm")
    subsets = report["results"]["reward model"]["by_subset"]
    assert (subsets["code"]["value"], subsets["math"]["value"]) == (1.0, pytest.approx(2 / 3))
    assert "by_difficulty" not in report["results"]["reward model"]
    assert report["results"]["longer wins"]["accuracy"]["value"] == pytest.approx(5 / 6)


def test_two_judges_and_a_person_are_compared(workplace, judged_by, tmp_path):
    one, _ = build(workplace, "lcb_rb.name=one")
    judged_by(FakeJudge("nonsense"))
    two, _ = build(workplace, "judge.kind=llm", "lcb_rb.name=two")
    ids = [pair.id for pair in schema.read_pairs(one / "candidates.jsonl")]
    rows = [f"{identity},{'accept' if at % 2 else 'reject'}\n" for at, identity in enumerate(ids[:10])]
    (tmp_path / "human.csv").write_text("pair_id,decision\n" + "".join(rows))
    files = [one / "candidates.jsonl", two / "candidates.jsonl"]
    report = lcb_rb_agreement.agree(files, tmp_path / "human.csv", 0, tmp_path / "agree.json", quiet())
    judges, first_human, second_human = report["agreement"]
    assert (judges["num_items"], judges["only_first"], judges["kappa"]) == (20, 4, None)  # the unparsed are undecided
    assert (first_human["num_items"], first_human["agreement_frac"], first_human["kappa"]) == (10, 0.5, 0.0)
    assert second_human["num_items"] < 10
    assert json.loads((tmp_path / "agree.json").read_text()) == report


def test_raters_with_nothing_in_common_and_a_single_rater_are_refused(workplace, tmp_path):
    folder, _ = build(workplace)
    (tmp_path / "human.csv").write_text("pair_id,decision\nnobody,accept\n")
    with pytest.raises(DataError, match="shares no pair"):
        lcb_rb_agreement.agree([folder / "pairs.jsonl"], tmp_path / "human.csv", 0, None, quiet())
    with pytest.raises(DataError, match="is the only rater"):
        lcb_rb_agreement.agree([folder / "pairs.jsonl"], None, 0, None, quiet())


@pytest.mark.parametrize(
    "line", ['{"no": "key"}', "[]", "null", "{", '{"key": "a", "text": "b", "prompt_tokens": "x"}']
)
def test_a_damaged_book_of_answers_is_refused(tmp_path, line):
    (tmp_path / "book").write_text('{"key": "a", "text": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match="is no answer of a judge") as caught:
        AnswerBook(tmp_path / "book")
    assert caught.value.line == 2


def test_a_report_that_cannot_be_written_is_said_before_scoring(workplace):
    folder, _ = build(workplace)
    for out in (folder, folder / "pairs.jsonl" / "x.json"):
        with pytest.raises(EnvironmentFault, match="--out"):
            run_score(folder / "pairs.jsonl", out)
