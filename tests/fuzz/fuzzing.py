"""Fuzzing: what reads bytes that others wrote meets damaged and hostile ones, and only declared errors may come out.

One file a target, `test_fuzz_<target>.py`. Each has `SEEDS` (whole inputs, bytes) and `read(data)`, which feeds one
input to the code under test, lets the declared errors pass and checks what must hold of the rest. Hypothesis damages
seeds for pytest; `coverage_guided.py` runs the same `read` under atheris. A new target is a new file of that shape.
A found bug stays as an `example` of its property, or as a test of its own.

    pytest tests/fuzz                                   as CI does: about a minute, the same inputs each time
    PGRPO_FUZZ_EXAMPLES=20000 pytest tests/fuzz/test_fuzz_config.py     so many other inputs for each property
"""

import atexit
import copy
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MORE = int(os.environ.get("PGRPO_FUZZ_EXAMPLES", "0"))
"""Examples of every property, drawn anew each time; 0: what the property asks for, always the same."""
FOLDER = Path(tempfile.mkdtemp(prefix="pgrpo-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def fuzz(examples: int) -> settings:
    """Settings of a property that CI tries on so many examples."""
    return settings(
        max_examples=MORE or examples,
        derandomize=not MORE,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def as_file(data: bytes, name: str = "input") -> Path:
    """Write `data` to a file that the next call may overwrite."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def nested(depth: int, left: str = "[", right: str = "]") -> str:
    """Return brackets inside brackets."""
    return left * depth + right * depth


ODD_TEXT = (
    "", " ", "\0", "\n", "\ufeff", "\u2028", "\x85", "\ud800", "e\u0301", "\U0001f600", "~", "~nobody-here/x", "-",
    "null", "1e5", "0x_", "NaN", "2001-13-45", "9" * 5000, "a.b", "<<", "\\ud800", "a" * 300,
)  # fmt: skip
ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308)


def deep(depth: int) -> list[Any]:
    """Return a list in a list, so many times."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 20), st.sampled_from(ODD_NUMBERS), st.floats(),
        st.sampled_from(ODD_TEXT), st.text(max_size=8), st.builds(deep, st.sampled_from([10, 300, 700])),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)  # fmt: skip
"""Values of JSON that nobody asked for."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside `value`, down to some depth."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys if len(path) < 10 else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


@st.composite
def edited(draw: Callable[..., Any], wholes: Sequence[Any]) -> Any:
    """One of `wholes` (values of JSON) with some parts replaced, left out, doubled or renamed."""
    value = copy.deepcopy(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 3))):
        if not isinstance(value, dict | list) or not value:
            break
        *path, key = draw(st.sampled_from(list(places(value))))
        parent = value
        for step in path:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "replace", "remove", "wrap", "double"])):
            case "replace":
                parent[key] = draw(JUNK)
            case "remove":
                del parent[key]
            case "wrap":
                parent[key] = [parent[key]]
            case "double" if isinstance(parent, list):
                parent.insert(key, copy.deepcopy(parent[key]))
            case "double":
                parent[draw(st.sampled_from(ODD_TEXT) | st.just(f"{key}s"))] = parent[key]
    return value


@st.composite
def damaged(draw: Callable[..., Any], wholes: Sequence[bytes], tokens: Sequence[bytes] = (b"\0", b"\xff")) -> bytes:
    """One of `wholes` with spans cut out, doubled, moved, overwritten or replaced by `tokens`; perhaps torn off."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + draw(st.sampled_from([0, 1, 4, 40, 400])))))
        other = draw(st.sampled_from(wholes))
        at = draw(st.integers(0, len(other)))
        data[start:end] = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(list(tokens)),
                st.just(bytes(data[start:end]) * 2),
                st.just(other[at : at + 40]),
            )
        )
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 4)) == 0 else data)


@st.composite
def shuffled_lines(draw: Callable[..., Any], wholes: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """One of `wholes` with lines left out, doubled, swapped, taken from others, or ending in one of `tokens`."""
    lines = draw(st.sampled_from(wholes)).splitlines()
    others = [line for whole in wholes for line in whole.splitlines()]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        line = lines[at] if lines else b""
        key = line.partition(b":")[0]
        new = st.sampled_from([[], [line, line], [key + b":"], [line + b" "], [b"  " + line]])
        new |= st.sampled_from(others).map(lambda other: [other])
        new |= st.sampled_from(list(tokens)).map(lambda token, key=key: [key + b": " + token])
        lines[at : at + 1] = draw(new)
    return b"\n".join(lines) + b"\n"


def growth(run: Callable[[str], Any], make: Callable[[int], str], size: int) -> float:
    """How many times as long `run` takes for an input of twice the `size`; best of several, CPU time.

    Linear code says 2, quadratic code 4.
    """

    def best_s(text: str) -> float:
        return min(timed_s(run, text) for _ in range(5))

    return best_s(make(2 * size)) / max(1e-4, best_s(make(size)))


def timed_s(run: Callable[[str], Any], text: str) -> float:
    """CPU seconds of `run(text)`."""
    start = time.process_time()
    run(text)
    return time.process_time() - start
