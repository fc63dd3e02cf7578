"""Delete the wheels that only development needs: `prune_wheels.py WHEELS EXTRA`.

The locks hold the `dev` extra too. What stays is what the project and its EXTRA (`cpu`, `cuda`) ask for, and what that
asks for in turn, as the wheels themselves say. Run by the Python for which the wheels are.
"""

import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def asks_for(wheel: Path) -> list[str]:
    """Return the requirements of a wheel, of all its extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        return message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []


def needed(wanted: Iterable[str], wheels: dict[str, Path]) -> set[str]:
    """Return the names of `wheels` that `wanted` comes to. What is in no wheel was left out of the lock on purpose."""
    todo, found = [Requirement(line) for line in wanted], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if name in wheels and (name, extra) not in found:
                found.add((name, extra))
                further = map(Requirement, asks_for(wheels[name]))
                todo += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def main(folder: Path, extra: str) -> None:
    """Delete, and say what."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wheels = {parse_wheel_filename(wheel.name)[0]: wheel for wheel in folder.glob("*.whl")}
    unneeded = wheels.keys() - needed([*project["dependencies"], *project["optional-dependencies"][extra]], wheels)
    for name in unneeded:
        wheels[name].unlink()
    kept = len(wheels) - len(unneeded)
    print(f"{kept} wheels; without those that only development needs: {' '.join(sorted(unneeded))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
