"""What the documentation promises about files and commands is there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from pgrpo_ray.algo.rewards import Signals, compose, outweighed
from pgrpo_ray.config import load_tree

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("deploy/helm/*/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_waits_to_be_filled_in(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z_]+@|TODO|TBD", text)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_the_folder_map_names_every_room():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    folder_map = text[text.index("## Folder map") :]
    rooms = [path for path in (REPOSITORY / "pgrpo_ray").iterdir() if path.is_dir() or path.suffix == ".py"]
    for room in rooms:
        if not room.name.startswith("__"):
            assert re.search(rf"\b{room.stem}\b", folder_map), room.name


def test_every_make_target_in_the_readme_exists():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(
        r"(?:`|^    )make ([\w-]+)", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {"demo", "test", "setup"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_number_of_a_step_is_documented():
    documented = set(re.findall(r"`([a-z_]+)`", (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")))
    source = "".join(
        (REPOSITORY / "pgrpo_ray" / name).read_text(encoding="utf-8")
        for name in ("obs/metrics.py", "learner/worker.py", "driver.py")
    )
    keys = set(re.findall(r'^ {8,12}"([a-z_]+)": ', source, flags=re.MULTILINE))
    columns = {"dropped", "advantage", "reward_format", "reward_outcome", "reward_thinking", "rank_tokens"}
    assert keys - columns <= documented, keys - columns - documented
    assert len(keys) > 20


def test_the_example_of_the_execution_pool_runs(capsys):
    text = (REPOSITORY / "docs" / "sandbox.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(example.strip().splitlines()) <= 12
    exec(compile(example.replace('"docker"', '"process"'), "docs/sandbox.md", "exec"), {})
    right, wrong = re.findall(r"verdict=<Verdict\.(\w+)", capsys.readouterr().out)
    assert (right, wrong) == ("PASSED", "WRONG_ANSWER")


def test_the_example_of_a_reward_rule_holds_its_own_declaration():
    text = (REPOSITORY / "docs" / "algorithms.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(compile(example, "docs/algorithms.md", "exec"), names)
    yes, no = np.array([True]), np.array([False])
    signals = Signals(yes, yes, np.ones(1), np.array([0.5]), np.array([2048]), no)
    assert compose(names["brief"], signals).reward.tolist() == pytest.approx([1 + 0.5 - 0.1])
    assert not outweighed(names["brief"])


def commands_of(page):
    """Every `pgrpo` command in the shell blocks of a page, as arguments."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("pgrpo ")]


@pytest.mark.parametrize("arguments", commands_of("reproduce.md"), ids=lambda arguments: " ".join(arguments)[:60])
def test_every_command_of_the_recipe_parses_and_its_config_loads(arguments, monkeypatch):
    from test_config import TREES
    from typer.main import get_command

    from pgrpo_ray.cli import app

    monkeypatch.setenv("JUDGE_API_KEY", "secret")
    command, context = get_command(app), None
    while hasattr(command, "resolve_command"):
        context = command.context_class(command, parent=context)
        name, command, arguments = command.resolve_command(context, arguments)
    given = command.make_context(name, arguments, parent=context).params  # raises for what the command does not know
    if "config" in given and given["config"] is not None:
        file = REPOSITORY / given["config"]
        first = next(iter(yaml.safe_load(file.read_text())))
        load_tree(TREES[first], file, given.get("overrides") or [])


def test_the_recipe_has_its_commands():
    names = {
        " ".join(word for word in arguments[:2] if word[0] not in "-./" and "/" not in word)
        for arguments in commands_of("reproduce.md")
    }
    assert {"check", "data prepare", "rm pairs", "rm train", "lcb-rb build", "train", "eval", "compare"} <= names
