"""Languages of programs beside Python: what builds one, and what an image needs for it.

Inside, `source` is written into scratch, `build` runs there as an unprivileged user under limits, `artifact` is copied
into a memory file (scratch forbids execution), and that is executed once per case. A new language is a new entry here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pgrpo_ray.data.records import did_you_mean
from pgrpo_ray.errors import DataError
from pgrpo_ray.sandbox.additions import Addition
from pgrpo_ray.sandbox.inside import PATIENCE
from pgrpo_ray.types import Problem

PYTHON = "python"
"""What runs in the zygote's forks: it needs no toolchain, and every image has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language(Addition):
    """A toolchain that turns one source file into one executable file."""

    source: str
    """File that holds the program, in scratch."""
    build: tuple[str, ...]
    """Command run in scratch, inside the sandbox; whatever else it writes must go there or to /tmp."""
    artifact: str
    """File that `build` leaves in scratch."""
    canary: str
    """A program that prints `ok`. A sandbox that cannot run it is not asked to judge others."""


BUILD_LIMITS = {
    "cpu_s": 20.0,
    "cpu_grace": 1.0,
    "wall_s": 25.0,
    "patience": PATIENCE,
    "memory_mib": 448,
    "output_kib": 256,
}
"""What a build may use. A heavy honest program takes 4 s and 300 MiB; below 256 MiB g++ fails for want of memory."""

_HEADERS = "/usr/local/include/precompiled"
_CPP_FLAGS = (
    "-O2",
    "-std=c++17",
    "-pipe",  # assembly through memory that is freed at once, not through the small /tmp
    "-DONLINE_JUDGE",  # the custom of judges: programs read local files without it
    "-w",
    "-fmax-errors=1",
    "-fdiagnostics-color=never",
)
# Every second program includes all of the standard library. Parsing it is 0.7 of 1.0 s and 120 of 200 MiB of a typical
# build; the flags must be those of `build`, or g++ leaves the precompiled file aside, as it does wherever a macro or
# pragma before the #include would change what the header means.
_PRECOMPILED = ("-x", "c++-header", "-include", "bits/stdc++.h", "/dev/null", "-o", f"{_HEADERS}/bits/stdc++.h.gch")

_CPP = Language(
    name="cpp",
    source="main.cpp",
    build=("g++", *_CPP_FLAGS, f"-I{_HEADERS}", "main.cpp", "-o", "main"),
    artifact="main",
    packages=("g++",),
    # Includes, compiles, assembles and links (-shared needs no `main`), and leaves nothing.
    probe=("g++", *_CPP_FLAGS, "-shared", "-x", "c++", "-include", "bits/stdc++.h", "/dev/null", "-o", "/dev/null"),
    canary='#include <bits/stdc++.h>\nint main() { std::cout << "ok" << std::endl; }\n',
    registry="python:3.11-bookworm",  # not slim: made from buildpack-deps, which has g++
    unneeded=(
        "usr/lib*/gcc/*/*/cc1",  # C
        "usr/lib*/gcc/*/*/lto1",  # link-time optimization; lto-wrapper and the plugin stay, every link asks for them
        "usr/bin/*lto-dump*",
        "usr/lib*/gcc/*/*/lib*san*",  # sanitizers
        "usr/lib/*/lib*san.so*",
        "usr/lib*/gcc/*/*/libstdc++.a",  # static linking; libgcc.a and libc_nonshared.a are in every program
        "usr/lib/*/libc.a",
        "usr/lib/*/libm-*.a",
        "usr/lib/*/libmvec.a",
        "usr/bin/*gold",  # `ld` is ld.bfd
        "usr/bin/*dwp",
        "usr/bin/*gcov*",
        "usr/bin/*gprof*",
        "usr/bin/*gp-*",
        "usr/lib/*/*gprofng*",
    ),
    prepare=(
        f"import os, subprocess; os.makedirs({_HEADERS + '/bits'!r}); "
        f"subprocess.run({['g++', *_CPP_FLAGS, *_PRECOMPILED]}, check=True)"
    ),
)

LANGUAGES: dict[str, Language] = {language.name: language for language in (_CPP,)}


def compiled(problems: Iterable[Problem]) -> list[str]:
    """Return the languages beside Python in which programs for these problems are."""
    return sorted({problem.language for problem in problems} - {PYTHON})


def toolchain(name: str) -> Language | None:
    """Return the language called `name`; None for Python, which needs none. Raises `DataError` for an unknown one."""
    if name == PYTHON:
        return None
    if name not in LANGUAGES:
        raise DataError(f"unknown language {name!r}. {did_you_mean(name, [PYTHON, *LANGUAGES])}")
    return LANGUAGES[name]
