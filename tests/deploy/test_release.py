"""What would be published holds the package, whole, and nothing else. `make release` proves that it runs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "deploy"))
import check_wheel  # noqa: E402


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of the files that git knows, as they are now."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0")[:-1]:
        if name.startswith("pgrpo_ray/") or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, source / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_and_sdist_hold_the_package_and_nothing_else(built):
    assert check_wheel.findings(*built) == []


def test_a_wheel_that_lacks_or_adds_a_file_is_refused(built, tmp_path):
    wheel, sdist = built
    other = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            if name != "pgrpo_ray/py.typed":
                new.writestr(name, old.read(name))
        new.writestr("pgrpo_ray/notes.txt", "mine")
    assert check_wheel.findings(other, sdist) == [
        f"{wheel.name} lacks pgrpo_ray/py.typed",
        f"{wheel.name} holds pgrpo_ray/notes.txt, which is no file of the package",
    ]


def test_the_hooks_before_a_commit_are_a_valid_config():
    validate = [sys.executable, "-m", "pre_commit", "validate-config", str(REPOSITORY / ".pre-commit-config.yaml")]
    subprocess.run(validate, check=True, capture_output=True)
