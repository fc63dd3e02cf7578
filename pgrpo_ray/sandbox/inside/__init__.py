"""What runs inside the sandbox: a warden that watches, a zygote that forks, programs and checkers that are its forks.

Standard library only, Python 3.9 or later, nothing of the rest of this project. The sources travel as one `python3 -c`
argument, so an image needs nothing but Python and nothing is mounted.

    host -- frames --> warden (pid 1): requests, deadlines, answers
                         `-- zygote: forks on demand, reaps, kills; never sees a program, a test or an output
                               |-- program: the untrusted code, a fresh uid for each
                               `-- checker: asserts, another uid; speaks with the program over a socket

The zygote is a process of its own because a fork inherits its parent's memory: what the warden has ever read, other
programs and their tests among it, a program could find in its own heap.

The warden's: `warden` answers requests, `session` watches one process work through cases, with `streams` for what it
says and `accounting` for what the kernel says. The zygote's: `zygote`, behind `doors`. A fork's: `confinement`, then
`program` (`scripts`, `objects`) or `checker`, over a `link`. Theirs in common: `codec` and `frames`.
"""

import functools
from pathlib import Path

PATIENCE = 5
"""Times the wall limit after which a case ends even if it only waited for a processor."""
_PACKAGE = "pgrpo_ray.sandbox.inside"
_MODULES = (
    *("codec", "doors", "frames", "link", "confinement", "scripts", "objects", "program", "checker", "zygote"),
    *("streams", "accounting", "session", "warden"),
)
"""In the order of their imports."""
_LOADER = """\
import sys, types
for name in {parents!r}:
    sys.modules[name] = types.ModuleType(name)
for name, text in {sources!r}.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, "<" + name.rpartition(".")[2] + ">", "exec", dont_inherit=True), module.__dict__)
module.main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
"""


def command(mode: str, scratch: str, first_uid: int, num_uids: int) -> list[str]:
    """Return the arguments after `python3` that start a warden. `mode`: `container` or `process`.

    `scratch` is the folder that programs may write to; `first_uid` and `num_uids` are the warden's own uids (0: none),
    two for each program. When they are used up it asks to be replaced.
    """
    return ["-s", "-X", "utf8", "-c", _loader(), mode, scratch, str(first_uid), str(num_uids)]


def environment(home: str) -> dict[str, str]:
    """Return the environment of a warden. Programs see `PATH`, `LANG` and `HOME` of it."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": home,
        "MALLOC_ARENA_MAX": "1",  # else each thread reserves 64 MiB of the address space that is limited
        # The same program gets the same verdict in every place, even if it prints a set.
        "PYTHONHASHSEED": "0",
    }


@functools.cache
def _loader() -> str:
    folder = Path(__file__).parent
    parts = _PACKAGE.split(".")
    parents = [".".join(parts[: end + 1]) for end in range(len(parts))]
    sources = {f"{_PACKAGE}.{name}": (folder / f"{name}.py").read_text(encoding="utf-8") for name in _MODULES}
    return _LOADER.format(parents=parents, sources=sources)
