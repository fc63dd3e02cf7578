"""`pgrpo config`: the run configs of the repository's cluster/ folder, from wherever the package was installed."""

import sys
from importlib import metadata
from pathlib import Path

import pgrpo_ray
from pgrpo_ray.errors import ConfigError

_SHARED = "share/pgrpo-ray"
"""Where a wheel puts them, under the environment's prefix; pyproject.toml says the same."""


def configs() -> dict[str, Path]:
    """Return the configs by name: of this checkout, else of the environment that the package is installed in."""
    checkout = Path(pgrpo_ray.__file__).parents[1]
    folder = checkout / "cluster" if (checkout / "pyproject.toml").is_file() else Path(sys.prefix) / _SHARED
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} or _recorded()


def text(name: str) -> str:
    """Return one config as its file has it, with its comments. Raises `ConfigError` for a name that there is not."""
    found = configs()
    if name not in found:
        raise ConfigError(f"there is no config {name!r}. There are: {', '.join(found) or 'none'}.", path="NAME")
    return found[name].read_text(encoding="utf-8")


def _recorded() -> dict[str, Path]:
    """Where an installer put them elsewhere than under the prefix, such as `pip install --user`, its record says so."""
    try:
        files = metadata.files("pgrpo-ray") or []
    except metadata.PackageNotFoundError:
        return {}
    return {file.stem: Path(str(file.locate())) for file in files if _SHARED in str(file) and file.suffix == ".yaml"}
