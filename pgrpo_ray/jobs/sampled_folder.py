"""A folder of samples that a repeated command goes on with: it can be written, and was made with the same settings."""

import json
from pathlib import Path
from typing import Any

from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.obs.disk import check_free, write_whole


def make_folder(folder: Path, setting: str, fix: str, limit: str, min_free_mib: int) -> None:
    """Make the folder. Raises `EnvironmentFault` when it cannot be written or its disk is full.

    `setting` names the folder and `limit` the bound; `fix` is how to choose another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".written").touch()
        (folder / ".written").unlink()
    except OSError as error:
        raise EnvironmentFault(
            f"{setting} {folder}: cannot be written: {error.strerror}. Choose another with {fix}."
        ) from error
    check_free(folder, setting, limit, min_free_mib, fix)


def check_settings(file: Path, settings: dict[str, Any], setting: str) -> None:
    """Write down what the samples beside `file` are made with, or refuse when it says otherwise. Raises `ConfigError`.

    `setting` names the folder, for who wants another one. Keys with a dot are those of the config.
    """
    if not file.is_file():
        write_whole(file, json.dumps(settings, indent=2) + "\n")
        return
    folder = file.parent
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise ConfigError(f"{file} is damaged ({error}). Remove {folder} to begin anew.") from error
    changed = next((key for key in settings if before.get(key) != settings[key]), None)
    if changed is not None:
        raise ConfigError(
            f"{folder} holds samples made with {changed} = {before.get(changed)!r}, now it is {settings[changed]!r}. "
            f"Choose another {setting}, or remove that folder to begin anew.",
            path=changed if "." in changed else "",
        )
