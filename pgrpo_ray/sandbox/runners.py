"""From the config to a maker of runners: which isolation, which image, which labels."""

import os
import socket
from collections.abc import Callable, Collection

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.protocols import Runner
from pgrpo_ray.sandbox.docker_runner import DockerRunner, image_exists, remove_abandoned
from pgrpo_ray.sandbox.image import image_tag
from pgrpo_ray.sandbox.process_runner import ProcessRunner

LABEL = "pgrpo-ray.owner"
"""Every container carries this label with `host:pid` of the pool that owns it."""


def runner_factory(kind: str, section: SandboxSection, languages: Collection[str] = ()) -> Callable[[], Runner]:
    """Return what makes one runner of `kind` (`docker` or `process`); `languages` are those beside Python."""
    if kind == "process":
        return ProcessRunner
    image = resolve_image(section.image, languages)
    remove_abandoned(LABEL)
    labels = {LABEL: f"{socket.gethostname()}:{os.getpid()}"}
    return lambda: DockerRunner(image, memory_mib=section.memory_mib, runtime=section.runtime, labels=labels)


def resolve_image(configured: str | None, languages: Collection[str] = ()) -> str:
    """Return the runner image's tag. Raises `EnvironmentFault` when the engine does not have it."""
    tag = configured or image_tag(languages)
    if not image_exists(tag):
        target = f"sandbox-{'-'.join(sorted(languages))}" if languages else "setup"
        fix = "`docker pull` it or correct sandbox.image" if configured else f"run `make {target}`, which builds it"
        raise EnvironmentFault(f"the runner image {tag} is not on this Docker engine: {fix}.")
    return tag
