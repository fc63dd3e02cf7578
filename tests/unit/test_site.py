"""The documentation as pages: it builds without a network, and its reference has every key and every command."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pgrpo_ray.config
from pgrpo_ray.config import ConfigTree

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY / "docs" / "hooks"), str(Path(__file__).parent)]
import reference  # noqa: E402
import test_import_rules as rules  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="mkdocs-material (the extra `docs`) is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)", text)
        assert not loaded, (page.name, loaded)
        assert 'class="mermaid"' not in text, f"{page.name}: the theme fetches mermaid from a CDN"
        assert "fonts.googleapis" not in text
    assert (site / "repository" / "cluster" / "local.yaml").is_file()


def test_every_config_tree_has_a_page():
    for module in pkgutil.iter_modules(pgrpo_ray.config.__path__):
        importlib.import_module(f"pgrpo_ray.config.{module.name}")
    trees = {tree for tree in ConfigTree.__subclasses__() if tree.__module__.startswith("pgrpo_ray.")}
    assert trees == {tree for _, tree in reference.TREES.values()}
    nav = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for page in reference.pages():
        assert f" {page}\n" in nav, page


@pytest.mark.parametrize("page", reference.TREES)
def test_every_key_stands_in_the_reference_with_type_default_and_meaning(page):
    command, tree = reference.TREES[page]
    text = reference.config_page(command, tree)
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", text, re.MULTILINE))

    def keys(values, path=""):
        for name, value in values.items():
            inner = isinstance(value, dict) and value  # an empty one is the default of a key that maps
            yield from keys(value, f"{path}{name}.") if inner else [f"{path}{name}"]

    assert set(rows) == set(keys(tree.model_construct().model_dump()))  # of the defaults, not of what the page walks
    for key, row in rows.items():
        kind, default, meaning = re.split(r"(?<!\\) \| ", row)
        assert kind and default, key
        assert len(meaning) > 2, f"{key}: say below the field in pgrpo_ray/config what it means"


def test_the_reference_of_a_key_worked_out_by_hand():
    text = reference.pages()["reference/run.md"]
    assert (
        "| `learner.grad_spike_factor` | number > 1 or null | `20.0` | A step whose gradient norm (before clipping) "
        "exceeds so many times the median of the last 64 steps is skipped; None: never." in text
    )
    assert "| `run.seed` | whole number >= 0, < 2,147,483,648 | `0` |" in text
    evaluation = reference.pages()["reference/evaluation.md"]  # one class's fields over another's
    assert "| `rollout.group_size` | whole number >= 1 | `1` | n: samples per problem. |" in evaluation


def test_every_command_and_option_stands_in_the_reference():
    text = reference.commands_page()
    words = [name for name, _ in reference.commands()]
    assert {"train", "check", "grade", "doctor", "eval", "compare", "rm pairs", "lcb-rb build", "data prepare"} <= set(
        words
    )
    for name, command in reference.commands():
        part = text[text.index(f"## `pgrpo {name}`") :].split("\n## ")[0]
        for parameter in command.params:
            for option in [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []:
                assert f"`{option}`" in part, (name, option)
            assert parameter.help, (name, parameter.name)


def test_the_architecture_page_draws_the_house_as_it_is():
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = {row[1]: row for row in re.findall(r"^\| (\d) \| `(\w+)` \| (.*?) \| ?(.*) \|$", text, re.MULTILINE)}
    seen: dict[str, set[str]] = {}
    for path in rules.modules():
        own = path.relative_to(rules.PACKAGE).parts[0].removesuffix(".py")
        rooms = {rules.room_of(name) for name in rules.imports(path)} - {None, own}
        seen.setdefault(own, set()).update(rooms)
    del seen["__init__"]
    missing = []
    for room, imported in seen.items():
        names = ", ".join(f"`{name}`" for name in sorted(imported))
        owns = drawn[room][2] if room in drawn else "WHAT IT OWNS"
        line = f"| {rules.LEVEL[room]} | `{room}` | {owns} | {names} |".replace("|  |", "| |")
        missing += [line] if line not in text else []
    assert not missing, "docs/architecture.md should have the lines\n" + "\n".join(missing)
    assert set(drawn) == set(seen)
    floors = {floor: sorted(room for room in seen if rules.LEVEL[room] == floor) for floor in range(8)}
    drawing = "\n".join(f"{floor}  {'  '.join(floors[floor])}" for floor in reversed(range(8)))
    assert drawing in text, f"docs/architecture.md should have the drawing\n{drawing}"
