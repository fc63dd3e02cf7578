"""What a release must be: one version everywhere, and archives that hold the project and nothing else.

    python deploy/release_check.py versions         pyproject.toml, the package and CHANGELOG.md agree, with a date
    python deploy/release_check.py archives FOLDER  the wheel and the sdist in FOLDER

Reads the checkout that it is called in, by git. `deploy/release.sh` calls it.
"""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

CONFIGS = "share/pgrpo-ray/"
"""Where the wheel puts cluster/*.yaml, under the environment's prefix; `pgrpo config` reads them there."""
OUTSIDE = re.compile(r"(^|/)(tests|benchmarks|runs|\.venv|\.git|\.ci|\.cache)/|\.(pem|key|env)$")
"""What no archive holds, wherever it lies."""


def versions(root: Path) -> list[str]:
    """Say where the versions of a checkout differ, or that its newest one has no date yet."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    source = (root / "pgrpo_ray" / "__init__.py").read_text(encoding="utf-8")
    package = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    heading = re.search(r"^## (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    found = []
    if package is None or package[1] != project:
        found.append(f"pgrpo_ray/__init__.py: __version__ is not {project}, which pyproject.toml says.")
    if heading is None or not re.fullmatch(rf"{re.escape(project)}, \d{{4}}-\d\d-\d\d", heading[1]):
        found.append(
            f"CHANGELOG.md: its first heading is {heading[1] if heading else 'missing'!r}; write "
            f"'## {project}, YYYY-MM-DD', the day of the release."
        )
    return found


def check_wheel(names: list[str], tracked: set[str]) -> list[str]:
    """Say what a wheel lacks of the package and the run configs, and what it has beyond them."""
    held = {name for name in names if ".dist-info/" not in name}
    configs = {name for name in held if ".data/" in name}
    wanted = {name for name in tracked if name.startswith("pgrpo_ray/")}
    wanted_configs = {Path(name).name for name in tracked if re.fullmatch(r"cluster/[^/]+\.yaml", name)}
    found = _differences("wheel", held - configs, wanted)
    found += _differences("wheel, " + CONFIGS, {name.split(CONFIGS)[-1] for name in configs}, wanted_configs)
    return found


def check_sdist(names: list[str], tracked: set[str]) -> list[str]:
    """Say what an sdist lacks that a wheel is built from, and what it holds that has no place in it."""
    held = {name.split("/", 1)[1] for name in names if "/" in name}
    held = {name for name in held if ".egg-info" not in name and name not in ("PKG-INFO", "setup.cfg", "")}
    needed = {
        name for name in tracked if re.match(r"pgrpo_ray/|cluster/[^/]+\.yaml$|(LICENSE|README\.md|pyproject)", name)
    }
    found = [f"sdist: {name} is missing" for name in sorted(needed - held)]
    found += [f"sdist: {name} is not in git" for name in sorted(held - tracked)]
    return found + [f"sdist: {name} has no place in it" for name in sorted(held) if OUTSIDE.search(name)]


def archives(folder: Path, tracked: set[str]) -> list[str]:
    """Check the one wheel and the one sdist of a folder. Raises `ValueError` unless there is one of each."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        found = check_wheel(file.namelist(), tracked)
    with tarfile.open(sdist) as file:
        return found + check_sdist([member.name for member in file if member.isfile()], tracked)


def tracked_files(root: Path) -> set[str]:
    """Return the names of what git has, or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    return {name for name in listed.split("\0") if name and (root / name).exists()}


def _differences(where: str, held: set[str], wanted: set[str]) -> list[str]:
    lacks = [f"{where}: {name} is missing; see package-data in pyproject.toml" for name in sorted(wanted - held)]
    return lacks + [f"{where}: {name} has no place in it" for name in sorted(held - wanted)]


def main() -> None:
    """Check; exit with status 1 where something is wrong."""
    root = Path.cwd()
    match sys.argv[1:]:
        case ["versions"]:
            found = versions(root)
        case ["archives", folder]:
            found = archives(Path(folder), tracked_files(root))
        case _:
            sys.exit(__doc__)
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
