"""The zygote: forks, reaps and kills, at the warden's word. Its memory is what every program starts with.

It reads settings and receives descriptors; it never reads what these hold. One thread, one poll; it waits for the
warden's next word or a child's death. When the warden ends, the kernel ends it, and its children with it.
"""

import json
import os
import select
import signal
import socket
import time

from pgrpo_ray.sandbox.inside.checker import run as run_checker
from pgrpo_ray.sandbox.inside.confinement import confine, confine_all
from pgrpo_ray.sandbox.inside.link import LINK, WIRE, Link, describe
from pgrpo_ray.sandbox.inside.program import run as run_program

SWEEP_S = 2.0
"""How long the processes of one program may take to die."""


class Job:
    """What one fork is to be."""

    def __init__(self, settings, fds):
        self.role = settings["role"]
        self.uid = settings["uid"]
        self.limits = settings["limits"]
        self.count = settings["count"]
        self.stop_early = settings["stop_early"]
        self.nonce = settings["nonce"]
        self.fds = fds


class Zygote:
    def __init__(self, words, container, own_uids):
        self.words = words
        self.container = container
        self.own_uids = own_uids
        self.mains = set()
        self.spent_s = 0.0
        self.wake, wake_write = os.pipe()
        for fd in (self.wake, wake_write):
            os.set_blocking(fd, False)
        while os.dup(self.wake) <= WIRE:  # what the warden sends must lie above the descriptors of a program
            continue
        confine_all()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(self.wake, select.POLLIN)
        self.poll.register(words, select.POLLIN)

    def serve(self):
        """Obey. Returns a `Job` in a child, and there alone."""
        while True:
            for fd, _ in self.poll.poll():
                if fd == self.wake:
                    os.read(fd, 4096)
                    self.reap()
                    continue
                message, fds, _, _ = socket.recv_fds(self.words, 1 << 16, 8)
                if not message:
                    os._exit(0)
                order = json.loads(message)
                if "sweep" in order:
                    self.say(swept=self.sweep(order["sweep"]))
                    continue
                pid = os.fork()
                if pid == 0:
                    return Job(order, fds)
                for fd in fds:
                    os.close(fd)
                self.mains.add(pid)

    def say(self, **message):
        self.words.send(json.dumps(message).encode())

    def reap(self):
        """Collect every dead child, report those that we forked. Return True when no child is left, dead or alive."""
        dead, alone = [], False
        try:
            while (found := os.wait4(-1, os.WNOHANG))[0]:
                dead.append(found)
        except ChildProcessError:
            alone = True
        for pid, status, usage in dead:
            # Orphans come to us: what they spent counts as the program's.
            self.spent_s += usage.ru_utime + usage.ru_stime
            if pid in self.mains:
                self.mains.remove(pid)
                clean = alone and not self.mains
                self.say(dead=pid, status=status, spent_s=self.spent_s, peak_kib=usage.ru_maxrss, alone=clean)
        if alone:
            self.spent_s = 0.0
        return alone

    def sweep(self, uids):
        """Kill and collect all that is left of a program. Return whether nothing is."""
        deadline = time.monotonic() + SWEEP_S
        while not self.reap():
            if time.monotonic() > deadline:
                return False
            self.kill_all(uids)
            time.sleep(0.0005)
        return True

    def kill_all(self, uids):
        """Kill below us. kill(-1) only where it cannot reach a stranger: in a namespace, or as a uid of our own."""
        if self.container:
            ignore_gone(os.kill, -1)  # all but the warden, which is the namespace's first process, and us
        elif self.own_uids:
            for uid in uids:
                as_user(uid, lambda: ignore_gone(os.kill, -1))
        else:
            for child in children(os.getpid()):
                ignore_gone(os.killpg, child)
                ignore_gone(os.kill, child)


def ignore_gone(kill, target):
    try:
        kill(target, signal.SIGKILL)
    except ProcessLookupError:
        return  # what is to be killed is dead: that is the aim


def as_user(uid, action):
    """Run `action` in a fork that has the program's uid; return whether it succeeded."""
    try:
        pid = os.fork()
    except OSError:
        return False  # no process is left for it
    if pid == 0:
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def children(parent):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(name))
        except OSError:
            continue  # it ended while we looked
    return found


def be(job, libc, scratch, base_memory, container):
    """Become what the job says. Never returns."""
    try:
        confine(job, libc, scratch, base_memory, container)
    except BaseException as error:
        Link(job.nonce, fd=job.fds[LINK]).say(b"fault", describe(error))
        os._exit(1)
    (run_checker if job.role == "checker" else run_program)(job)
