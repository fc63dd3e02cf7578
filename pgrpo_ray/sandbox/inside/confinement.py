"""What a fork gives up before it meets a byte of the program: files, memory, time, its user, every right.

Some of it is the same for all and is set in the zygote, whose forks inherit it.
"""

import _signal
import math
import os
import resource
import signal

from pgrpo_ray.sandbox.inside.link import LINK

FILE_BYTES = 32 << 20
"""Largest file: the size of the scratch."""
STACK_BYTES = 64 << 20
"""Of the main thread: recursion through C (`lru_cache`) needs more than the usual 8 MiB."""
RESERVE_BYTES = 4 << 20
"""Beyond the memory limit, to tell that it was reached."""
FOREVER = resource.RLIM_INFINITY
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38


def confine_all():
    """Set what is the same for every program. Runs in the zygote, whose children inherit it."""
    for what, most in (
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        limit(what, most, most)
    limit(resource.RLIMIT_STACK, STACK_BYTES, FOREVER)  # a program may ask for more: its memory is limited anyway


def confine(job, libc, scratch, base_memory, container):
    """Give up everything the program must not have, before a byte of it is read."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    # Not `signal.signal`: for the enum that our handler is not, it looks as long as a third of a fork takes.
    _signal.signal(signal.SIGCHLD, _signal.SIG_DFL)
    for target, fd in enumerate(job.fds):  # all of them lie above every target
        os.dup2(fd, target, inheritable=target < LINK)
    os.closerange(len(job.fds), 256)
    prefer_as_victim()
    address_space, data = base_memory
    memory = job.limits["memory_mib"] << 20
    cpu_s = math.ceil(job.limits["cpu_s"] * job.limits["cpu_grace"] * job.count) + 1
    limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)  # the net under the warden, which watches each case
    limit(resource.RLIMIT_DATA, data + memory, data + memory + RESERVE_BYTES)
    # DATA is exact (private, writable) but leaves out shared mappings; AS is the wide net under those.
    limit(resource.RLIMIT_AS, address_space + 4 * memory, address_space + 4 * memory)
    if job.uid:
        if not container:  # containers of one host share uids, and have a pids limit instead
            limit(resource.RLIMIT_NPROC, 64, 64)
        os.setgroups([])
        os.setresgid(job.uid, job.uid, job.uid)
        os.setresuid(job.uid, job.uid, job.uid)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if job.role != "checker":
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # lets it open /dev/stdin, which is /proc/self/fd/0
    os.umask(0o022 if job.role == "build" else 0o077)  # the warden must be able to read what a build leaves
    os.chdir(scratch)


def limit(what, soft, hard):
    """Set a resource limit; the hard one that is there stays the ceiling."""
    ceiling = resource.getrlimit(what)[1]
    if ceiling != FOREVER:
        soft, hard = min(soft, ceiling), ceiling if hard == FOREVER else min(hard, ceiling)
    resource.setrlimit(what, (soft, hard))


def prefer_as_victim():
    """Let out of memory take the program, not the warden."""
    try:
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
    except OSError:
        return  # gVisor has its own order; if it takes the warden, the host replaces the container
