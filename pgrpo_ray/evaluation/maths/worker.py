"""The process in which answers are compared (`compare`), each under limits.

`python -m pgrpo_ray.evaluation.maths.worker`, started by `process`; JSON lines in on standard input, one out for each.

What it protects against: an answer such as `9^{9^{9^9}}` that keeps sympy busy for ever (a timer of CPU time ends the
process; the parent sees by which signal), and one that takes all memory (the kernel refuses more, which becomes an
answer of its own). What it does not protect against: a hole in the parser. The process has the rights of its parent.
"""

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

from pgrpo_ray.evaluation.maths.compare import compare, prove

_KEPT_MIB = 256
"""Beyond what it began with, a process ends after its answer, and another takes its place: sympy remembers much."""


def _answers(requests: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Answer one request after the other, each under its own limits, until too much is kept of earlier ones."""
    most_kib = _data_kib() + (_KEPT_MIB << 10)
    while _data_kib() < most_kib and (line := next(requests, None)):
        request = json.loads(line)
        resource.setrlimit(resource.RLIMIT_DATA, ((_data_kib() << 10) + (request["memory_mib"] << 20), -1))
        # A signal that nobody handles ends the process, also within a long operation on large numbers.
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
        began = _cpu_ms()
        try:
            status = prove(request) if request["answer"] is None else compare(request)
        except MemoryError:
            status = "memory"
        except (RecursionError, ArithmeticError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            # Where sympy gives up (often by such an exception of its own) the answer was not found equal.
            status = f"unequal: {type(error).__name__}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))
        peak_mib = _memory_kib("VmHWM") / 1024  # not ru_maxrss, which begins with what the parent had
        yield {"status": status, "cpu_ms": round(_cpu_ms() - began, 3), "peak_mib": round(peak_mib, 1)}


def _data_kib() -> int:
    """Private writable memory of this process, KiB."""
    return _memory_kib("VmData")


def _memory_kib(name: str) -> int:
    """A line of /proc/self/status, KiB."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f"{name}:"))


def _cpu_ms() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Answer requests until standard input ends."""
    channel = os.dup(1)
    os.dup2(2, 1)  # whatever libraries print must not mix with the answers
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.write(channel, b'{"status": "ready"}\n')
    for answer in _answers(iter(sys.stdin)):
        os.write(channel, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
