"""Folders that a run writes to: can they be made, will they last, and do they hold what comes."""

import os
import shutil
from pathlib import Path

from pgrpo_ray.config import RunConfig
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.obs.checkpoints import CheckpointStore
from pgrpo_ray.obs.disk import check_free
from pgrpo_ray.preflight.models import ModelFacts

UPLOADED = "working_dir_files"
"""Folder of a node's in which Ray keeps what jobs upload."""

CHECKPOINT_BYTES = 12
"""Of a checkpoint for each parameter: weight and both of Adam's moments, float32."""


def cache_folder() -> Path:
    """Where artifacts are cached: `PGRPO_CACHE`, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PGRPO_CACHE") or Path(base) / "pgrpo_ray")


def check_disk(config: RunConfig, uses_starter: bool) -> None:
    """Raise `EnvironmentFault` unless the run's folder can be made and has `run.min_free_mib` free.

    Raises `ConfigError` for it, or a folder of checkpoints, inside of what Ray unpacked for a job, which Ray removes
    after it.
    """
    folders = {"run.dir": config.run.dir}
    if config.checkpoint.dir is not None and "://" not in config.checkpoint.dir:
        folders["checkpoint.dir"] = config.checkpoint.dir
    for path, folder in folders.items():
        if UPLOADED in Path(folder).absolute().parts:
            raise ConfigError(
                f"{path}={folder!r} is relative to this job's copy of its working_dir, which Ray removes after the job "
                f"with all that is in it. Name a folder that all nodes share: --set {path}=/shared/runs.",
                path=path,
            )
    _check_folder(Path(config.run.dir), "run.dir", "--set run.dir=FOLDER", config.run.min_free_mib)
    if uses_starter:
        _check_folder(cache_folder(), "the starter's cache", "PGRPO_CACHE=FOLDER", config.run.min_free_mib)


def _check_folder(folder: Path, what: str, fix: str, min_free_mib: int) -> None:
    folder = folder.absolute()
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:
        raise EnvironmentFault(f"{what}: {folder}: {error.strerror}. Choose another with {fix}.") from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise EnvironmentFault(
            f"{what}: {folder} cannot be made: {existing} is not a folder that you may write to. Choose another with "
            f"{fix}."
        )
    check_free(existing, what, "run.min_free_mib", min_free_mib, fix)


def check_checkpoint_room(config: RunConfig, policy: ModelFacts) -> None:
    """Raise `EnvironmentFault` when the disk cannot hold the checkpoints that a run keeps; a URL's is not known.

    `ConfigError` for a kind of URL that nobody knows.
    """
    section, root = config.checkpoint, config.checkpoint_root
    if not section.every_steps:
        return
    if "://" in root:
        _check_url(root)
        return
    each_mib = policy.num_parameters * CHECKPOINT_BYTES >> 20
    kept = section.keep + 2  # the best, and the one that is being written
    # Of a run that is resumed. What it superseded stays, so its room does not come back.
    own = CheckpointStore(root).names()
    there_mib = sum(file.stat().st_size for name in own for file in (Path(root) / name).iterdir()) >> 20
    existing = next(parent for parent in (Path(root).absolute(), *Path(root).absolute().parents) if parent.exists())
    free_mib = shutil.disk_usage(existing).free >> 20
    wanted_mib = kept * each_mib - there_mib
    if wanted_mib > free_mib:
        raise EnvironmentFault(
            f"checkpoint.dir: {root} has {free_mib:,} MiB free; {kept} checkpoints of {each_mib:,} MiB "
            f"(checkpoint.keep={section.keep}, the best, one being written) take {wanted_mib:,} MiB more. Free space, "
            "choose another folder or URL with --set checkpoint.dir=..., lower checkpoint.keep, or set "
            "checkpoint.every_steps=0 for none."
        )


def _check_url(root: str) -> None:
    import fsspec

    if (kind := root.partition("://")[0]) not in fsspec.available_protocols():
        raise ConfigError(
            f"checkpoint.dir: {root} begins with {kind!r}, a kind of URL that fsspec does not know. s3://, gs:// and "
            "abfs:// are usual; or give a folder.",
            path="checkpoint.dir",
        )
