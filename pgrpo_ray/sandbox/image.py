"""The runner image: Python's standard library, and compilers or libraries where they are asked for.

`python -m pgrpo_ray.sandbox.image` makes it, `... --with cpp` one that has C++ as well, `... --with libraries` one with
the libraries that BigCodeBench's programs import.

No registry is needed. Two ways, in this order:
1. apt: the closure of the packages is downloaded, unpacked without running its scripts, trimmed, and
   imported. First because it is quick (about 20 s; C++ 10 more), needs no root, and works behind a mirror, while a
   registry that cannot be reached may take minutes to say so.
2. pull an image that has Python and the compilers, where apt does not exist.
(debootstrap needs root and what apt needs as well, so it is no third way.)

Byte code is compiled once, inside the image: the container's root is read-only, so every import of every program
would compile anew otherwise. Then every addition is tried. The tag is a key of the recipe: a changed recipe makes a new
image, an existing tag returns at once.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from pgrpo_ray.errors import DataError, EnvironmentFault, SandboxError
from pgrpo_ray.sandbox.additions import LIBRARIES, Addition
from pgrpo_ray.sandbox.docker_runner import engine_problem, image_exists, import_image, pull_image
from pgrpo_ray.sandbox.languages import LANGUAGES, PYTHON, toolchain

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


def image_tag(names: Collection[str] = ()) -> str:
    """Return the tag of the image with Python and the additions `names`: languages, `libraries`.

    Raises `DataError` for an unknown one.
    """
    recipe = [*PACKAGES, *_UNUSED, *_TRIMMED, _COMPILE, _PULLED]
    for addition in _additions(names):
        recipe += [*addition.packages, *addition.unneeded, addition.prepare, *addition.probe, str(addition.registry)]
    return f"pgrpo-sandbox:{hashlib.sha256(chr(10).join(recipe).encode()).hexdigest()[:12]}"


def _additions(names: Collection[str]) -> list[Addition]:
    """Return what must be added for `names`: in one order, each once, as the tag demands."""
    found = (LIBRARIES if name == LIBRARIES.name else toolchain(name) for name in sorted(set(names)))
    return [addition for addition in found if addition]


DEFAULT_TAG = image_tag()
"""The image that `make setup` builds, and that runs use when `sandbox.image` is unset and all programs are Python."""


def ensure_image(names: Collection[str] = ()) -> str:
    """Make the image with the additions `names` unless the engine has it; return its tag. Prints what it does.

    Raises `EnvironmentFault` when no engine answers or no way works, with the reason of each, and `DataError` for an
    unknown addition.
    """
    tag, additions = image_tag(names), _additions(names)
    problem = engine_problem()
    if problem:
        raise EnvironmentFault(problem)
    if image_exists(tag):
        return tag
    ways = [("apt packages", lambda: _from_apt(tag, additions))]
    reference = _pulled(additions)
    if reference is not None:
        ways.append((f"pulling {reference}", lambda: pull_image(reference, tag)))
    reasons = []
    for name, make in ways:
        print(f"sandbox image {tag}: trying {name}", flush=True)
        try:
            make()
        except (SandboxError, EnvironmentFault, OSError) as error:
            reasons.append(f"{name}: {error}")
            print(f"  did not work: {error}", flush=True)
        else:
            print(f"sandbox image {tag}: ready", flush=True)
            return tag
    raise EnvironmentFault(f"cannot make the sandbox image {tag}. " + " | ".join(reasons))


def _pulled(additions: list[Addition]) -> str | None:
    """Return the registry image that has all `additions`; None when no single one is known to."""
    references = {addition.registry for addition in additions} or {_PULLED}
    return references.pop() if len(references) == 1 else None


def _from_apt(tag: str, additions: list[Addition]) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb", "tar") if shutil.which(tool) is None]
    if missing:
        raise EnvironmentFault(f"{', '.join(missing)} not found: this is no Debian-like system")
    with tempfile.TemporaryDirectory(prefix="pgrpo-image-") as name:
        stage = Path(name)
        packages = _download(stage, [*PACKAGES, *(name for addition in additions for name in addition.packages)])
        unneeded = [*_TRIMMED, *(pattern for addition in additions for pattern in addition.unneeded)]
        root = _unpack(packages, stage / "root", unneeded)
        tarball = stage / "root.tar"
        _run(["tar", "--numeric-owner", "--owner=0", "--group=0", "-C", str(root), "-cf", str(tarball), "."])
        print(f"  importing {tarball.stat().st_size >> 20} MiB, compiling byte code", flush=True)
        import_image(tarball, tag, prepare=["python3", "-I", "-c", _preparation(additions)])


def _preparation(additions: list[Addition]) -> str:
    """Return the Python source that finishes a new image from within; it fails where an addition does not work."""
    steps = [_COMPILE]
    for addition in additions:
        steps += [addition.prepare, f"import subprocess; subprocess.run({list(addition.probe)}, check=True)"]
    return "\n".join(steps)


def _download(stage: Path, names: list[str]) -> list[Path]:
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
        _run(["apt-get", *_options(options), "-qq", "-y", "--download-only", "install", *names])
    except EnvironmentFault:
        # Lists of an old container image may name versions that the mirror no longer has.
        (stage / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        options["Dir::State::lists"] = stage / "lists"
        _run(["apt-get", *_options(options), "-qq", "update"])
        _run(["apt-get", *_options(options), "-qq", "-y", "--download-only", "install", *names])
    return [deb for deb in sorted(archives.glob("*.deb")) if deb.name.split("_")[0] not in _UNUSED]


def _options(options: dict[str, object]) -> Iterator[str]:
    for key, value in options.items():
        yield from ("-o", f"{key}={value}")


def _unpack(packages: list[Path], root: Path, unneeded: list[str]) -> Path:
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
    for pattern in unneeded:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
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
    """Make an image. Without an engine say so; that is no failure unless an addition was asked for.

    Local runs of Python fall back to the process sandbox, so `make setup` has not failed then.
    """
    parser = argparse.ArgumentParser(prog="python -m pgrpo_ray.sandbox.image", description="Make the runner image.")
    known = [PYTHON, *LANGUAGES, LIBRARIES.name]
    parser.add_argument("--with", dest="names", action="append", default=[], choices=known)
    names = [name for name in parser.parse_args().names if name != PYTHON]
    problem = engine_problem()
    if problem and not names:
        print(f"no sandbox image: {problem}\nUntil then local runs use the weaker process sandbox.", file=sys.stderr)
        return
    try:
        tag = ensure_image(names)
    except (DataError, EnvironmentFault, SandboxError) as error:
        sys.exit(f"error: {error}")
    print(f"sandbox image {tag} is there")


if __name__ == "__main__":
    main()
