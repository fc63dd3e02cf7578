"""From the config to a maker of runners: which isolation, which image, which labels."""

import os
import socket
from collections.abc import Callable

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.protocols import Runner
from pgrpo_ray.sandbox.docker_runner import DockerRunner, image_exists, remove_abandoned
from pgrpo_ray.sandbox.image import DEFAULT_TAG
from pgrpo_ray.sandbox.process_runner import ProcessRunner

LABEL = "pgrpo-ray.owner"
"""Every container carries this label with `host:pid` of the pool that owns it."""


def runner_factory(kind: str, section: SandboxSection) -> Callable[[], Runner]:
    """Return what makes one runner of `kind` (`docker` or `process`)."""
    if kind == "process":
        return ProcessRunner
    image = resolve_image(section.image)
    remove_abandoned(LABEL)
    labels = {LABEL: f"{socket.gethostname()}:{os.getpid()}"}
    return lambda: DockerRunner(image, memory_mib=section.memory_mib, runtime=section.runtime, labels=labels)


def resolve_image(configured: str | None) -> str:
    """Return the runner image's tag. Raises `EnvironmentFault` when the engine does not have it."""
    tag = configured or DEFAULT_TAG
    if not image_exists(tag):
        fix = "`docker pull` it or correct sandbox.image" if configured else "run `make setup`, which builds it"
        raise EnvironmentFault(f"the runner image {tag} is not on this Docker engine: {fix}.")
    return tag
