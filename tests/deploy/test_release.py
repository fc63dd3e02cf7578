"""A release: what the archives hold, that versions agree, and that the hooks before a commit are a valid file."""

import subprocess
import sys
import tarfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy"))
import release_check  # noqa: E402 - a script beside, not a package


@pytest.fixture(scope="module")
def tracked():
    return release_check.tracked_files(ROOT)


@pytest.fixture(scope="module")
def built(tmp_path_factory, tracked):
    """A folder with the wheel and the sdist of what git has, built apart so that the checkout stays as it is."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "pgrpo_ray" / "own.key").write_text("a secret that somebody left there")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_archives_hold_the_package_and_nothing_else(built, tracked):
    assert release_check.archives(built, tracked) == []


def test_an_installed_wheel_prints_its_configs(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    target = tmp_path / "venv"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--prefix", str(target)]
    installed = distribution("pgrpo_ray").read_text("RECORD")
    # Not without --ignore-installed: pip would take the checkout's own installation away, for all later tests.
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True, timeout=60)
    assert distribution("pgrpo_ray").read_text("RECORD") == installed
    (site,) = target.glob("lib/python*/site-packages")
    read = "from pgrpo_ray.cli import recipes; print(recipes.text('local'), end='')"
    code = f"import sys; sys.prefix = {str(target)!r}; {read}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert done.stdout == (ROOT / "cluster" / "local.yaml").read_text(), done.stderr


def test_what_is_missing_or_has_no_place_is_named(built, tracked):
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        sdist = file.getnames()
    more = {*tracked, "pgrpo_ray/new/words.txt"}
    assert any("pgrpo_ray/new/words.txt is missing" in line for line in release_check.archives(built, more))
    assert release_check.check_wheel(["tests/test_x.py", "pgrpo_ray/.env"], set()) == [
        "wheel: pgrpo_ray/.env has no place in it",
        "wheel: tests/test_x.py has no place in it",
    ]
    found = release_check.check_sdist([*sdist, "p/tests/unit/test_errors.py", "p/pgrpo_ray/own.key"], tracked)
    assert "sdist: tests/unit/test_errors.py has no place in it" in found
    assert "sdist: pgrpo_ray/own.key is not in git" in found


@pytest.mark.parametrize(
    ("package", "heading", "wrong"),
    [
        ("1.2.3", "1.2.3, 2030-01-31", []),
        ("1.2.2", "1.2.3, 2030-01-31", ["__version__"]),
        ("1.2.3", "1.2.3, unreleased", ["CHANGELOG.md"]),
        ("1.2.3", "1.2.2, 2030-01-31", ["CHANGELOG.md"]),
    ],
)
def test_versions_must_agree_and_have_a_date(tmp_path, package, heading, wrong):
    (tmp_path / "pgrpo_ray").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "pgrpo_ray" / "__init__.py").write_text(f'"""A package."""\n\n__version__ = "{package}"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n\n- A line.\n\n## 1.0.0, 2029-01-01\n")
    found = release_check.versions(tmp_path)
    assert [any(name in line for line in found) for name in wrong] == [True] * len(wrong) and len(found) == len(wrong)


def test_hooks_before_a_commit_are_valid_and_fetch_nothing():
    file = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", str(file)], check=True, timeout=60)
    assert "http" not in file.read_text()
