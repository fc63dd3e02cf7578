"""Look into what is to be published: `python deploy/check_wheel.py WHEEL SDIST`.

The wheel holds every file of the package that git knows, and nothing else beside its own facts; the sdist what a wheel
is built from.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def findings(wheel: Path, sdist: Path) -> list[str]:
    """Say what is wrong with the two files; empty where nothing is."""
    listed = subprocess.run(["git", "ls-files", "pgrpo_ray"], cwd=ROOT, capture_output=True, text=True, check=True)
    package = set(listed.stdout.split())
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    found = [f"{wheel.name} lacks {name}" for name in sorted(package - held)]
    found += [f"{wheel.name} holds {name}, which is no file of the package" for name in sorted(held - package)]
    wanted = package | {"pyproject.toml", "README.md", "LICENSE"}
    return found + [f"{sdist.name} lacks {name}" for name in sorted(wanted - source)]


if __name__ == "__main__":
    wrong = findings(Path(sys.argv[1]), Path(sys.argv[2]))
    for line in wrong:
        print(f"release: {line}", file=sys.stderr)
    sys.exit(bool(wrong))
