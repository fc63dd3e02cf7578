"""Every block of code in README, CONTRIBUTING, the chart's README and `docs`: run, or held to the real thing, or named
with the reason why not. A block of no kind that is known here fails.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import dropwhile, groupby
from pathlib import Path

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from typer.main import get_command

from pgrpo_ray.algo.rewards import ENTRY_POINTS, Signals, compose, find_rule, outweighed
from pgrpo_ray.cli import app
from pgrpo_ray.config import RunConfig, apply_override, load_tree, parse, parse_tree
from pgrpo_ray.data import arrow
from pgrpo_ray.data.own_format import problem_from_json
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.preflight.reward import plan_reward

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "docs" / "hooks"))
import reference  # noqa: E402

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("deploy/helm/*/*.md")])
TREES = dict(reference.TREES.values()) | {"check": RunConfig}
"""Command -> the tree that its config and `--set` are of."""
NOT_RUN = {
    "curl": "asks a server that runs",
    "helm": "wants a cluster; tests/deploy renders the chart and installs it on an API server",
    "hf": "downloads",
    "kubectl": "wants a cluster",
    "ray": "starts or asks a Ray cluster; tests/integration/test_ray_job.py submits a job",
    "vllm": "wants GPUs and a model of 32B parameters",
}
"""First word of a shell command that is only parsed -> why it is not run."""
BUILTINS = {"cd", "export", "umask"}
"""Of the shell, for the lines below them."""
WALKS = {"docs/python.md": "its blocks are one program, which tests/integration/test_python_api.py runs"}
"""Page whose Python is not run block by block -> why."""
TEXT = {
    "reward = format": "a formula",
    "held-out pass@1 before": "output of a run",
    "references and scalars only": "a drawing",
    "runs/local/": "a folder",
    "pgrpo_ray/": "a folder; tests/unit/test_docs.py holds it to what is there",
    "7  __main__": "a drawing; tests/unit/test_site.py holds it to the code",
    "-(1 - e) log": "a formula",
    "R^t = sigmoid": "a formula",
}
"""Beginning of a block that is no code -> what it is."""
PLACEHOLDERS = re.compile(r"[A-Z]+$|mine\.yaml$|serving\.yaml$")
"""Configs that a reader writes."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def kind_of(info: str, text: str) -> str:
    """What a block is: what its fence says, else what it looks like."""
    first = text.split()[0].lstrip("(")
    if info.split():
        return info.split()[0]
    if first in {"pgrpo", ".venv/bin/pgrpo", "make", "bash"} | BUILTINS | set(NOT_RUN) or first.startswith(
        ("cluster/", "deploy/")
    ):
        return "sh"
    return "json" if first.startswith("{") else "python" if first in {"import", "from"} else "text"


def blocks() -> list[Block]:
    parser, found = MarkdownIt("commonmark"), []
    for page in PAGES:
        for token in parser.parse(page.read_text(encoding="utf-8")):
            if token.type in ("fence", "code_block"):
                name, kind = str(page.relative_to(REPOSITORY)), kind_of(token.info, token.content)
                found.append(Block(name, token.map[0] + 1, kind, token.content))
    return found


BLOCKS = blocks()


def of(kind: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.kind == kind and (kind != "python" or block.page not in WALKS)]
    return pytest.mark.parametrize("block", chosen, ids=str)


def test_every_block_is_of_a_kind_that_is_tested_here():
    kinds = {block.kind for block in BLOCKS}
    assert kinds == {"sh", "json", "toml", "yaml", "python", "text"}
    assert len(BLOCKS) > 60


def test_no_reason_is_given_for_what_is_not_there():
    words = {line[0] for block in BLOCKS if block.kind == "sh" for line in commands(block)}
    assert set(NOT_RUN) <= words
    texts = [block.text.strip() for block in BLOCKS if block.kind == "text"]
    assert all(any(text.startswith(beginning) for text in texts) for beginning in TEXT)


@of("text")
def test_a_block_of_text_is_named_with_what_it_is(block):
    assert any(block.text.strip().startswith(beginning) for beginning in TEXT), f"{block}: say in TEXT what it is"


@of("toml")
def test_a_block_of_toml_parses_and_names_our_entry_points(block):
    assert ENTRY_POINTS in tomllib.loads(block.text)["project"]["entry-points"]


# Shell


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block as words, without comments and variables before them; what `&&` joins is two."""
    found: list[list[str]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();&")
        lexer.whitespace_split = True
        parts = [list(group) for joins, group in groupby(lexer, lambda word: set(word) <= set("();&")) if not joins]
        found += [list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words)) for words in parts]
    return found


@of("sh")
def test_a_block_of_commands_is_shell_and_each_command_exists(block, monkeypatch):
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for words in commands(block):
        first = words[0].removeprefix(".venv/bin/")
        if first == "export":
            monkeypatch.setenv(*words[1].split("=", 1))  # configs may want it
        if first == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), words
        elif first == "pgrpo":
            check_command(words[1:])
        elif first == "bash" or "/" in first:
            assert (REPOSITORY / (words[1] if first == "bash" else first)).is_file(), words
        else:
            assert first in {*NOT_RUN, *BUILTINS}, f"{block}: check {first!r} here, or say in NOT_RUN why it is not run"
        if first == "cluster/submit.sh":
            rest = words[words.index("--") + 1 :] if "--" in words else []
            check_command(["train", words[1], *rest])
        if words[:3] == ["ray", "job", "submit"]:
            assert words[words.index("--") + 1 :][:3] == ["python", "-m", "pgrpo_ray"]
            check_command(words[words.index("--") + 4 :])


def check_command(arguments: list[str]) -> None:
    """Raise unless the command line takes these; a config that ships must load with the overrides."""
    command, context, words = get_command(app), None, []
    if "--help" in arguments or not arguments:
        return
    while hasattr(command, "resolve_command"):
        context = command.context_class(command, parent=context)
        name, command, arguments = command.resolve_command(context, arguments)
        words.append(name)
    given = command.make_context(name, arguments, parent=context).params  # raises for what the command does not know
    config, overrides = given.get("config"), given.get("overrides") or []
    tree = TREES.get(" ".join(words))
    if config is not None and not PLACEHOLDERS.search(str(config)):
        load_tree(tree, REPOSITORY / config, overrides)
    for override in overrides:
        values: dict = {}
        apply_override(values, override)
        check_keys(tree, values)


def check_keys(model, values: dict) -> None:
    """Raise unless every key is one of the model's."""
    for key, value in values.items():
        assert key in model.model_fields, f"{key} is no key of {model.__name__}"
        inner = model.model_fields[key].annotation
        if isinstance(value, dict) and hasattr(inner, "model_fields"):
            check_keys(inner, value)


@pytest.fixture(autouse=True)
def judge_key(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "secret")  # configs of the recipe want it


@pytest.mark.parametrize(
    "line", ["train cluster/none.yaml", "train cluster/local.yaml --none", "check X --set run.nmae=a", "none"]
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises(BaseException):  # noqa: B017 - of typer, of pydantic, of the assert
        check_command(line.split())


def test_the_recipe_has_its_commands():
    blocks = [block for block in BLOCKS if block.page == "docs/reproduce.md" and block.kind == "sh"]
    lines = [" ".join(words[1:3]) for block in blocks for words in commands(block) if words[0] == "pgrpo"]
    for wanted in ("check", "data prepare", "rm pairs", "rm train", "lcb-rb build", "train", "eval", "compare"):
        assert any(line.startswith(wanted) for line in lines), wanted


# Data


@of("yaml")
def test_a_block_of_yaml_is_a_config(block):
    values = yaml.safe_load(block.text)
    fitting = [tree for tree in TREES.values() if set(values) <= set(tree.model_fields)]
    assert fitting, f"{block}: no tree has the sections {sorted(values)}"
    parse_tree(fitting[0], values, where=str(block)).check()


@of("json")
def test_a_block_of_json_is_a_problem_or_what_a_server_says(block):
    values = json.loads(block.text)
    if "tests" in values:
        assert problem_from_json(values).id == values["id"]
    else:
        assert {"model", "items"} <= set(values)  # tests/unit/test_reward_server_http.py holds the answer's form


# Python


ROWS = 4


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The folder of a small run, `runs/local`, and one of its tables as `step.arrow`; the working directory."""
    monkeypatch.chdir(tmp_path)
    rollouts = {
        "problem_id": ["a", "a", "b", "b"],
        "sample_index": [0, 1, 0, 1],
        "policy_version": [0] * ROWS,
        "prompt": ["Add."] * ROWS,
        "prompt_ids": [[1, 2]] * ROWS,
        "response_ids": [[3, 4, 5]] * ROWS,
        "rollout_logprobs": [[-0.5] * 3] * ROWS,
        "versions": [[0]] * ROWS,
        "version_starts": [[0]] * ROWS,
        "response": ["<think>t</think><answer>p</answer>"] * ROWS,
        "finish_reason": ["stop"] * ROWS,
        "format_ok": np.ones(ROWS, dtype=bool),
        "thinking": ["t"] * ROWS,
        "program": ["print(3)"] * ROWS,
    }
    verdicts = {
        "verdict": ["passed", "wrong_answer", "passed", "passed"],
        "tests_passed": [2, 1, 2, 2],
        "tests_total": [2] * ROWS,
        "first_failed": [None, 1, None, None],
        "duration_ms": [1.0] * ROWS,
        "cpu_ms": [1.0] * ROWS,
        "peak_mib": [9.0] * ROWS,
        "sandbox": ["process"] * ROWS,
        "detail": [""] * ROWS,
        "execution_error": [None] * ROWS,
    }
    rewards = {
        "reward_format": [1.0] * ROWS,
        "reward_outcome": [1.0, 0.0, 1.0, 1.0],
        "reward_thinking": [0.5, 0.0, 0.4, 0.8],
        "reward_other": [0.0] * ROWS,
        "reward": [2.5, 1.0, 2.4, 2.8],
        "advantage": [1.0, -1.0, -1.0, 1.0],
        "dropped": [None] * ROWS,
        "masked": [None] * ROWS,
    }
    thinking = {"thinking_reward": [0.5, None, 0.4, 0.8], "thinking_error": [None] * ROWS}
    schemas = arrow.ROLLOUT_SCHEMA, arrow.VERDICT_SCHEMA, arrow.THINKING_SCHEMA, arrow.REWARD_SCHEMA
    columns = zip(schemas, (rollouts, verdicts, thinking, rewards), strict=True)
    table = arrow.append_columns(*(arrow.build_table(schema, values) for schema, values in columns))
    log = RunLog(parse({"run": {"name": "local"}}))
    log.step(40, {"pass_rate": 0.75, "thinking_passers": 0.57, "no_gradient_groups_frac": 0.0})
    arrow.write_ipc(log.rollouts_path(40), table, {"step": "40", "run": "local"})
    arrow.write_ipc(Path("step.arrow"), table, {"step": "40", "run": "local"})
    Path("my_rewards.py").write_text(python("docs/tutorial.md", "@reward_rule"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    log.summary({"pass_at_1_after": 0.75})
    log.close()
    return tmp_path


@of("python")
def test_a_block_of_python_runs(block, recorded):
    """With a small run's folder; programs are judged by the process sandbox, as Docker is not there for every test."""
    assert len(block.text.strip().splitlines()) <= 40, f"{block}: too long to be read as an example"
    exec(compile(block.text.replace('"docker"', '"process"'), str(block), "exec"), {"__name__": "example"})


def python(page: str, holding: str) -> str:
    (text,) = [
        block.text for block in BLOCKS if block.page == page and block.kind == "python" and holding in block.text
    ]
    return text


def test_the_example_of_the_execution_pool_judges_rightly(capsys):
    example = python("docs/sandbox.md", "make_pool")
    assert len(example.strip().splitlines()) <= 12
    exec(compile(example.replace('"docker"', '"process"'), "docs/sandbox.md", "exec"), {})
    right, wrong = re.findall(r"verdict=<Verdict\.(\w+)", capsys.readouterr().out)
    assert (right, wrong) == ("PASSED", "WRONG_ANSWER")


def test_the_example_of_a_checker_judges_rightly():
    names: dict = {}
    exec(compile(python("docs/problems.md", "def divisor"), "docs/problems.md", "exec"), names)
    case = type("Case", (), {"input": "91\n"})
    assert names["divisor"](None, case, "13\n") == ""
    assert names["divisor"](None, case, "91\n") == "not a proper divisor"
    assert names["divisor"](None, case, "x" * 30) == "not a whole number"


def signals(**changes) -> Signals:
    """Of a rollout that passed: 2,048 tokens long, its reasoning scored 0.5."""
    yes, no = np.array([True]), np.array([False])
    given = {"format_ok": yes, "passed": yes, "pass_frac": np.ones(1), "thinking": np.array([0.5]), "failed": no}
    return Signals(**(given | {"response_tokens": np.array([2048])} | changes))


def test_the_example_of_a_reward_rule_holds_its_own_declaration():
    names: dict = {}
    exec(compile(python("docs/algorithms.md", "def brief"), "docs/algorithms.md", "exec"), names)
    assert compose(names["brief"], signals()).reward.tolist() == pytest.approx([1 + 0.5 - 0.1])
    assert not outweighed(names["brief"])


def test_the_worked_example_of_the_tutorial_pays_as_it_says(recorded):
    rule = find_rule("my_rewards:partial")
    no, half = np.array([False]), np.array([0.5])
    unscored = np.array([np.nan])
    assert compose(rule, signals()).reward.tolist() == [1 + 1 + 0.5]
    failed = signals(passed=no, pass_frac=half, thinking=unscored)
    assert compose(rule, failed).reward.tolist() == [1 + 0.25]
    assert compose(rule, signals(format_ok=no, passed=no, thinking=unscored)).reward.tolist() == [0]
    assert not outweighed(rule)
    values = {"algo": {"reward": "my_rewards:partial"}, "sandbox": {"fail_fast": False}}
    assert plan_reward(parse(values)).scored == "passers"
    with pytest.raises(ConfigError, match=r"Set sandbox\.fail_fast=false"):
        plan_reward(parse({"algo": values["algo"]}))
