"""What the documentation promises about files and commands is there."""

import ast
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "docs" / "hooks"))
import reference  # noqa: E402

GENERATED = reference.pages()
"""Pages that exist in the built site alone."""
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("deploy/helm/*/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_waits_to_be_filled_in(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z_]+@|TODO|TBD", text)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        path = page.parent / target
        made = path.is_relative_to(REPOSITORY / "docs") and str(path.relative_to(REPOSITORY / "docs")) in GENERATED
        assert path.exists() or made, target


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


PROSE = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""The changelog tells of what was."""
KEYS = {
    f"{path}.{key}"
    for _, tree in reference.TREES.values()
    for path, model in reference.sections(tree)
    for key in model.model_fields
}
FOREIGN = {"model.load_weights"}
"""Of other projects."""
SECTIONS = {key.split(".")[0] for key in KEYS}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_every_key_and_file_that_a_page_names_exists(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    package = REPOSITORY / "pgrpo_ray"
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?:[:=][^`]*)?`", text):
        section, *rest = name.split(".")
        file = package.joinpath(*name.split("."))
        module = file.with_suffix(".py").exists() or file.is_dir() or file.parent.with_suffix(".py").exists()
        if section in SECTIONS and rest[-1] not in {"py", "json", "jsonl", "yaml", "arrow", "parquet", "md", "html"}:
            assert name in KEYS or module or name in FOREIGN, f"{page.name} names {name}, which is no key of any config"
    for path in re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)`", text):
        assert any((root / path).exists() for root in (REPOSITORY, package, page.parent)), f"{page.name} names {path}"


def said_by_the_code() -> str:
    """Every text in the package, one after another; what an f-string fills in is a space."""
    texts = []
    for path in (REPOSITORY / "pgrpo_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else " " for part in node.values))
    return " ".join("\n".join(texts).split())


def test_every_message_that_the_faq_quotes_is_one():
    source = said_by_the_code()
    page = (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")
    table = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8").split("## Symptoms")[1]
    quoted = [" ".join(text.split()) for text in re.findall(r"`([A-Za-z][^`]*)`", page + table)]
    parts = [part.strip() for text in quoted for part in text.split("...") if re.fullmatch(r"[A-Za-z' ,.]+", part)]
    messages = [part for part in parts if part.count(" ") >= 2 and not part.startswith("pgrpo ")]
    assert len(messages) > 20
    assert [message for message in messages if message not in source] == []
