"""What judges a run's problems: which sandbox, and whether it can judge every one of them."""

import contextlib
from dataclasses import dataclass

from pgrpo_ray.config import SANDBOX_OVERHEAD_MIB, STARTER, RunConfig
from pgrpo_ray.errors import ConfigError, EnvironmentFault, SandboxError
from pgrpo_ray.types import Problem, TestStyle


@dataclass(frozen=True)
class Sandbox:
    """Which isolation a run will use."""

    kind: str
    """`docker` or `process`; `maths` where no program is run at all."""
    reason: str = ""
    """Why it is not Docker; empty when it is."""

    @property
    def name(self) -> str:
        """What a person reads, such as `docker sandbox`."""
        return "maths judge" if self.kind == "maths" else f"{self.kind} sandbox"


def choose_sandbox(config: RunConfig, problems: list[Problem] | None = None) -> Sandbox:
    """Say which sandbox a run will use. Raises `EnvironmentFault` where Docker is needed and does not answer.

    `problems`: those of the run; None: the starter's. Where all answers are compared, no sandbox is asked for.
    On a cluster the nodes that judge need Docker, not this machine: each pool examines its own when it starts.
    """
    from pgrpo_ray.sandbox.docker_runner import engine_problem
    from pgrpo_ray.sandbox.runners import resolve_image

    if problems is None:
        runs_programs = config.data.problems != STARTER or config.starter.family == "code"
    else:
        runs_programs = any(problem.style is not TestStyle.ANSWER for problem in problems)
    if not runs_programs:
        return Sandbox("maths", "answers are compared, no program is run.")
    section = config.sandbox
    if section.backend == "process":
        return Sandbox("process", "sandbox.backend=process chooses it.")
    if config.cluster.address != "local":
        return Sandbox("docker")
    problem = engine_problem()
    if problem is None:
        resolve_image(section.image)
        return Sandbox("docker")
    if section.backend == "docker":
        raise EnvironmentFault(
            f"sandbox.backend={section.backend}: {problem} "
            "A local run may use the weaker process sandbox with --set sandbox.backend=process."
        )
    return Sandbox("process", problem)


def check_memory_limits(config: RunConfig, problems: list[Problem]) -> None:
    """Raise `ConfigError` when a program may use more memory than its container has."""
    room = config.sandbox.memory_mib - SANDBOX_OVERHEAD_MIB
    in_containers = [problem for problem in problems if problem.style is not TestStyle.ANSWER]
    hungry = max(in_containers, key=lambda problem: problem.limits.memory_mib, default=None)
    if hungry is not None and hungry.limits.memory_mib > room:
        needed = hungry.limits.memory_mib + SANDBOX_OVERHEAD_MIB
        raise ConfigError(
            f"sandbox.memory_mib is {config.sandbox.memory_mib}, but problem {hungry.id!r} allows its programs "
            f"{hungry.limits.memory_mib} MiB: the container would stop them first, and they would be blamed. Set "
            f"sandbox.memory_mib={needed} or more.",
            path="sandbox.memory_mib",
        )


def check_judging(config: RunConfig, sandbox: Sandbox, problems: list[Problem]) -> None:
    """Check what judging these problems needs: checkers that work, an image with their languages, readable references.

    Raises `DataError` and `EnvironmentFault`.
    """
    from pgrpo_ray.evaluation.maths.pool import MathsPool
    from pgrpo_ray.sandbox import checkers
    from pgrpo_ray.sandbox.languages import compiled
    from pgrpo_ray.sandbox.runners import resolve_image

    runnable = [problem for problem in problems if problem.style is not TestStyle.ANSWER]
    compared = [problem for problem in problems if problem.style is TestStyle.ANSWER]
    for problem in runnable:
        checkers.prove(problem)
    if compared:
        try:
            with contextlib.closing(MathsPool(config.sandbox)) as pool:
                pool.prove(compared)
        except SandboxError as error:
            raise EnvironmentFault(f"the maths judge does not work: {error}") from error
    languages = compiled(runnable)
    if languages and sandbox.kind == "docker" and config.cluster.address == "local":
        resolve_image(config.sandbox.image, languages)
