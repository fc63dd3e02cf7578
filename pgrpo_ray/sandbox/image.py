"""The runner image: Python's standard library and nothing else. `python -m pgrpo_ray.sandbox.image` makes it.

No registry is needed. Two ways, in this order:
1. apt: the package closure of `python3-minimal` is downloaded, unpacked without running its scripts, trimmed, and
   imported. First because it is quick (about 20 s), needs no root, and works behind a mirror, while a registry that
   cannot be reached may take minutes to say so.
2. pull `python:3.11-slim`, where apt does not exist.
(debootstrap needs root and what apt needs as well, so it is no third way.)

Byte code is compiled once, inside the image: the container's root is read-only, so every import of every program
would compile anew otherwise. The tag is a key of the recipe: a changed recipe makes a new image, an existing tag
returns at once.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pgrpo_ray.errors import EnvironmentFault, SandboxError
from pgrpo_ray.sandbox.docker_runner import engine_problem, image_exists, import_image, pull_image

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libgcc-s1")
_UNUSED = ("debconf", "perl-base", "dpkg", "tar", "readline-common", "gcc-12-base", "media-types", "netbase")
"""Packages of the closure that only maintainer scripts or shells would use."""
_TRIMMED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/perl5",
    "usr/lib/python3.*/ensurepip",
    "usr/lib/python3.*/idlelib",
    "usr/lib/python3.*/lib2to3",
    "usr/lib/python3.*/pydoc_data",
    "usr/lib/python3.*/test",
)
_COMPILE = "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=2, workers=1)"
_PULLED = "python:3.11-slim"
_RECIPE = "\n".join([*PACKAGES, *_UNUSED, *_TRIMMED, _COMPILE, _PULLED])
DEFAULT_TAG = f"pgrpo-sandbox:{hashlib.sha256(_RECIPE.encode()).hexdigest()[:12]}"
"""The image that `make setup` builds and that runs use when `sandbox.image` is unset."""


def ensure_image(tag: str = DEFAULT_TAG) -> None:
    """Make image `tag` unless the engine has it. Prints what it does.

    Raises `EnvironmentFault` when no engine answers or neither way works, with the reason of each.
    """
    problem = engine_problem()
    if problem:
        raise EnvironmentFault(problem)
    if image_exists(tag):
        return
    reasons = []
    ways = [("apt packages", _from_apt), (f"pulling {_PULLED}", lambda tag: pull_image(_PULLED, tag))]
    for name, make in ways:
        print(f"sandbox image {tag}: trying {name}", flush=True)
        try:
            make(tag)
        except (SandboxError, EnvironmentFault, OSError) as error:
            reasons.append(f"{name}: {error}")
            print(f"  did not work: {error}", flush=True)
        else:
            print(f"sandbox image {tag}: ready", flush=True)
            return
    raise EnvironmentFault(f"cannot make the sandbox image {tag}. " + " | ".join(reasons))


def _from_apt(tag: str) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb", "tar") if shutil.which(tool) is None]
    if missing:
        raise EnvironmentFault(f"{', '.join(missing)} not found: this is no Debian-like system")
    with tempfile.TemporaryDirectory(prefix="pgrpo-image-") as name:
        stage = Path(name)
        packages = _download(stage)
        root = _unpack(packages, stage / "root")
        tarball = stage / "root.tar"
        _run(["tar", "--numeric-owner", "--owner=0", "--group=0", "-C", str(root), "-cf", str(tarball), "."])
        print(f"  importing {tarball.stat().st_size >> 20} MiB, compiling byte code", flush=True)
        import_image(tarball, tag, prepare=["python3", "-I", "-c", _COMPILE])


def _download(stage: Path) -> list[Path]:
    """Download the closure as if nothing were installed here; needs no root. Return the .deb files."""
    archives = stage / "archives"
    (archives / "partial").mkdir(parents=True)
    (stage / "status").touch()  # an empty dpkg status: every dependency counts as missing
    options = {
        "Dir::State::status": stage / "status",
        "Dir::Cache": stage,
        "Dir::Cache::archives": archives,
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",  # the stage is private, user _apt could not enter it
        "APT::Install-Recommends": "0",
        "Acquire::Retries": "3",
        "Acquire::Languages": "none",
    }
    if not any(Path("/var/lib/apt/lists").glob("*Packages*")):
        (stage / "lists" / "partial").mkdir(parents=True)
        options["Dir::State::lists"] = stage / "lists"
        print("  no apt lists here: fetching private ones", flush=True)
        _run(["apt-get", *_options(options), "-qq", "update"])
    try:
        _run(["apt-get", *_options(options), "-qq", "-y", "--download-only", "install", *PACKAGES])
    except EnvironmentFault:
        # Lists of an old container image may name versions that the mirror no longer has.
        (stage / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        options["Dir::State::lists"] = stage / "lists"
        _run(["apt-get", *_options(options), "-qq", "update"])
        _run(["apt-get", *_options(options), "-qq", "-y", "--download-only", "install", *PACKAGES])
    return [deb for deb in sorted(archives.glob("*.deb")) if deb.name.split("_")[0] not in _UNUSED]


def _options(options: dict[str, object]) -> Iterator[str]:
    for key, value in options.items():
        yield from ("-o", f"{key}={value}")


def _unpack(packages: list[Path], root: Path) -> Path:
    """Unpack without maintainer scripts and drop what a program cannot need."""
    for folder in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "tmp", "etc"):
        (root / folder).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")  # merged /usr; `base-files` would bring it, among much else
    for deb in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as content:
            _run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)], content.stdout)
        if content.returncode:
            raise EnvironmentFault(f"dpkg-deb cannot unpack {deb.name}: status {content.returncode}")
    for pattern in _TRIMMED:
        for path in root.glob(pattern):
            shutil.rmtree(path)
    for path in root.rglob("*"):  # a staged read-only or private file must still be readable by any uid inside
        with contextlib.suppress(FileNotFoundError):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return root


def _run(command: list[str], stdin=subprocess.DEVNULL) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True
    )
    if done.returncode:
        raise EnvironmentFault(f"{command[0]} ended with status {done.returncode}: {done.stdout.strip()[-500:]}")


def main() -> None:
    """Make the default image. Without an engine say so and succeed: local runs fall back to the process sandbox."""
    problem = engine_problem()
    if problem:
        print(f"no sandbox image: {problem}\nUntil then local runs use the weaker process sandbox.", file=sys.stderr)
        return
    try:
        ensure_image()
    except (EnvironmentFault, SandboxError) as error:
        sys.exit(f"error: {error}")
    print(f"sandbox image {DEFAULT_TAG} is there")


if __name__ == "__main__":
    main()
