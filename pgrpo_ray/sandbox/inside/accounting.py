"""What the kernel says of processes and of this place: time used and waited, kills for want of memory."""

import os
import re
import time


def cpu_clock(pid):
    """CPU time of a process with all its threads, seconds; None once it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock id of a process, as clock_getcpuclockid(3) makes it
    except OSError:
        return None


def ready_s(pid):
    """How long a process stood ready without a processor, seconds. Raises where the kernel does not say."""
    return int(slurp(f"/proc/{pid}/schedstat").split()[1]) / 1e9


class Counter:
    """A number in a file of our cgroup (v2, then v1), kept open because it is read for every program."""

    def __init__(self, *places):
        """`places`: (path, pattern of the number, unit) to try in order."""
        self.fd = None
        for path, pattern, unit in places:
            try:
                self.fd, self.pattern, self.unit = os.open(path, os.O_RDONLY | os.O_CLOEXEC), re.compile(pattern), unit
                break
            except OSError:
                continue

    def read(self):
        """Return the number; None where the kernel does not say."""
        if self.fd is None:
            return None
        found = self.pattern.search(os.pread(self.fd, 4096, 0))
        return int(found[1]) / self.unit if found else None


def oom_kills():
    """How often the kernel killed for want of memory."""
    pattern = rb"oom_kill (\d+)"
    return Counter(
        ("/sys/fs/cgroup/memory.events", pattern, 1), ("/sys/fs/cgroup/memory/memory.oom_control", pattern, 1)
    )


def place_cpu_s():
    """CPU time of everything here, seconds."""
    newer = "/sys/fs/cgroup/cpu.stat", rb"usage_usec (\d+)", 1e6
    return Counter(newer, ("/sys/fs/cgroup/cpuacct/cpuacct.usage", rb"(\d+)", 1e9))


def slurp(path):
    with open(path) as file:
        return file.read()
