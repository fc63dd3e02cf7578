"""The warden: takes requests from the host, watches programs work through their cases, answers. Decides no verdict.

Frames on stdin and stdout: 4 bytes big-endian length, then JSON. End of file on stdin, also in the middle of a run,
kills everything and ends the warden: a dead owner leaves nothing behind.

Request: {id, style, program, entry_point, setup, limits, cases, stop_early, toolchain}. A case is {stdin}, {calls:
[{name, args, kwargs}]} or {source}; `toolchain` builds a program that is not Python. Answer: {id, cases: [{status,
fresh, wall_ms, cpu_ms, peak_kib, detail, signal, stray, output | value}], dirty}, one result a case; {id, fault} when
the machinery failed. `dirty`: this place cannot be cleaned or has used up its uids. The warden ends after that, and
after a fault.

A fork costs more than most cases, so one process works through as many cases as it survives. `fresh` says that a case
was the first of its process. A failure counts only of a fresh one: the warden itself repeats a case that ended badly
behind others, in a new process; the host, who alone knows wrong outputs, asks for such a case again. A case after
others is thus never failed for what they left behind; what it gets right although they were there, it gets right.

Who waits for whom: the warden alone waits (one poll over links, outputs, zygote, owner; see `session`), never without a
deadline for a program.
"""

import bisect  # noqa: F401 - this and its like are preloaded because programs import them; forks share the pages
import collections  # noqa: F401
import ctypes
import fcntl
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import itertools  # noqa: F401
import json
import os
import resource
import signal
import socket
import string  # noqa: F401
import struct
import sys
import typing  # noqa: F401

from pgrpo_ray.sandbox.inside.accounting import oom_kills, place_cpu_s, slurp
from pgrpo_ray.sandbox.inside.doors import close_doors
from pgrpo_ray.sandbox.inside.frames import dumps, exactly, send
from pgrpo_ray.sandbox.inside.link import describe
from pgrpo_ray.sandbox.inside.session import OwnerGone, Session
from pgrpo_ray.sandbox.inside.streams import NULL, memory_file
from pgrpo_ray.sandbox.inside.zygote import Zygote, as_user, be

TOTAL_OUTPUT_CHARS = 8 << 20
"""Of one request over all its cases (ours): JSON makes up to six bytes of each, still far below the host's bound."""
ARTIFACT_BYTES = 32 << 20
"""Largest file that a build may leave: the size of the scratch."""
OVER = ("time_limit", "memory_limit", "output_limit", "compile_error", "skipped")
"""After one of these the remaining cases are skipped."""
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWNET = 0x20000, 0x8000000, 0x40000000  # linux/sched.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000  # linux/mount.h
libc = ctypes.CDLL(None, use_errno=True)


class Warden:
    """Runs requests one after another."""

    def __init__(self, container, scratch, first_uid, num_uids, control, answers, words):
        self.container = container
        self.scratch = scratch
        self.first_uid = self.uid = first_uid
        self.num_uids = num_uids - 2  # the last program's two are still within
        self.control, self.answers = control, answers
        self.words, self.zygote = words, words.fileno()
        self.alone = True  # the zygote has no child
        self.oom_kills, self.cpu_s = oom_kills(), place_cpu_s()
        self.ooms = self.oom_kills.read()
        self.built = None, None, None  # program, its binary's memory file, or why it has none

    def serve(self):
        while True:
            (length,) = struct.unpack(">I", self.read(4))
            request = json.loads(self.read(length))
            try:
                answer = self.answer(request)
            except OwnerGone:
                raise
            except Exception as error:
                answer = {"id": request.get("id"), "fault": describe(error)}
            send(self.answers, answer)
            if answer.get("dirty", True):
                raise OwnerGone  # the next request, which may wait already, must not run here

    def read(self, count):
        data = exactly(self.control, count)
        if data is None:
            raise OwnerGone
        return data

    def answer(self, request):
        """Work through all cases, in as few processes as they allow."""
        cases, results, dirty, room = request["cases"], [], False, TOTAL_OUTPUT_CHARS
        self.uid += 2 if self.first_uid else 0
        together = request["toolchain"] is None
        if not together:
            request["binary"], failure = self.build(request)
            results += [failure, *(skipped() for _ in cases[1:])] if failure else []
        while len(results) < len(cases):
            if results and (results[-1]["status"] in OVER or (request["stop_early"] and results[-1]["status"] != "ok")):
                results.append(skipped())
                continue
            if dirty:
                raise RuntimeError("the place could not be cleaned between two cases")
            session = Session(self, request, cases[len(results) :] if together else [cases[len(results)]])
            dirty = not session.run()
            done = session.results
            if session.stray and len(session.cases) > 1:
                together = False  # it wrote where only we do. Alone in its process, a script has no link to write to.
                continue
            done[0]["stray"] = session.stray
            if len(done) > 1 and done[-1]["status"] != "ok":
                done.pop()  # it shall fail in a process of its own, or not at all
            for result in done:
                room -= len(result.get("output", result.get("value", "")))
                if room < 0:
                    result.pop("output", None)
                    result.pop("value", None)
                    # Not fresh: the host may ask for this case alone.
                    result.update(status="output_limit", detail="all cases together printed too much", fresh=False)
            results += done
        used_up = self.first_uid > 0 and self.uid - self.first_uid >= self.num_uids  # an ordinary user has but its own
        return {"id": request["id"], "cases": results, "dirty": dirty or used_up}

    def build(self, request):
        """Compile the program, unless it is the last one. Return its binary, and the result of a build that failed."""
        toolchain, program = request["toolchain"], request["program"]
        if self.built[0] != program:
            if self.built[1] is not None:
                os.close(self.built[1])
            self.built = None, None, None
            session = Session(self, {**request, "style": "build", "limits": toolchain["limits"]}, [{}])
            session.collect = lambda: self.collect(toolchain["artifact"])
            if not session.run():
                raise RuntimeError("the place could not be cleaned after the build")
            (result,) = session.results
            if result["status"] == "ok" and session.artifact is None:
                result.update(status="compile_error", detail="the build left no program")
            if session.artifact is None and result["status"] != "compile_error":
                return None, result  # killed or starved: the next time may be better
            self.built = program, session.artifact, None if session.artifact is not None else result
        return self.built[1:]

    def collect(self, artifact):
        """Copy what a build left into a memory file; None where it is no regular file of a sane size."""
        try:
            fd = os.open(os.path.join(self.scratch, artifact), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                content = file.read(ARTIFACT_BYTES + 1)
        except OSError:
            return None
        return memory_file(content) if 0 < len(content) <= ARTIFACT_BYTES else None

    def hear(self, session):
        """Take one message of the zygote."""
        payload = self.words.recv(1 << 16)
        if not payload:
            raise RuntimeError("the zygote is gone")
        message = json.loads(payload)
        if "dead" in message:
            session.deaths[message["dead"]] = message
            self.alone = message["alone"] and len(session.deaths) == session.forked
        return message

    def sweep(self, session):
        """Have everything below the zygote killed. Return whether nothing is left."""
        uids = [self.uid, self.uid + 1] if self.first_uid else []
        self.words.send(dumps({"sweep": uids}).encode())
        while "swept" not in (message := self.hear(session)):
            continue
        self.alone = message["swept"]
        return message["swept"]

    def wipe(self):
        """Empty the scratch folder; return whether it is. We own it and may remove its entries, but only the program's
        uid may remove what is below: a fork does that.
        """
        for name in os.listdir(self.scratch):
            path = os.path.join(self.scratch, name)
            try:
                os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            except OSError:
                owners = (self.uid, self.uid + 1) if self.first_uid else (0,)  # a checker's is the second
                for owner in owners:
                    as_user(owner, lambda: wipe(self.scratch))
                return not os.listdir(self.scratch)
        return True

    def place_cpu_s(self):
        """CPU time of all that runs here, seconds; None where others run here too, or the kernel does not say."""
        return self.cpu_s.read() if self.container else None

    def out_of_memory(self):
        """Tell whether the kernel killed in this cgroup since we last asked."""
        before, self.ooms = self.ooms, self.oom_kills.read()
        return self.ooms != before


def skipped():
    return {"status": "skipped", "fresh": False, "wall_ms": 0.0, "cpu_ms": 0.0, "peak_kib": 0, "detail": ""}


def wipe(folder):
    """Remove all below `folder`. Walks by chdir: no path is too long, and mode-000 folders are opened first."""
    os.chdir(folder)
    for entry in list(os.scandir(".")):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.name, 0o700)
            wipe(entry.name)
            os.rmdir(entry.name)
        else:
            os.unlink(entry.name)
    os.chdir("..")


def isolate(scratch):
    """Leave the host's network, IPC and temporary folders, where the kernel allows it; return the scratch to use."""
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC):
        return scratch
    libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    for folder in (b"/var/tmp", b"/dev/shm", b"/dev/mqueue"):
        libc.mount(b"none", folder, b"tmpfs", ctypes.c_ulong(flags | MS_RDONLY), b"")
    if libc.mount(b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(flags), b"size=32m,nr_inodes=1024"):
        return scratch
    os.environ["HOME"] = "/tmp"
    return "/tmp"


def remove_folder(name, parent):
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        return  # the owner lives and has removed it, or it cannot be emptied


def start_zygote(words, mode, scratch, first_uid):
    """Be the zygote. Returns never; its children become programs and checkers here."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for name in [name for name in sys.modules if name.startswith("pgrpo_ray")]:
        del sys.modules[name]  # nothing that a program could import
    # Where no empty network is ours for certain, programs get no address family but AF_UNIX.
    inet = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK) if mode == "container" else ()
    close_doors(libc, (socket.AF_UNIX, *inet))
    pages = [int(field) * resource.getpagesize() for field in slurp("/proc/self/statm").split()]
    zygote = Zygote(words, mode == "container", bool(first_uid))
    gc.collect()
    gc.freeze()
    job = zygote.serve()
    be(job, libc, scratch, (pages[0], pages[5]), mode == "container")


def main(mode, scratch, first_uid, num_uids):
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    control, answers = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (0, 1))
    # Held open because `isolate` hides the host's folder from us.
    parent, own = os.open(os.path.dirname(scratch), os.O_RDONLY | os.O_CLOEXEC), os.path.basename(scratch)
    if mode == "process" and first_uid:
        scratch = isolate(scratch)
    os.chmod(scratch, 0o1777)  # engines give a tmpfs the mode of the image's folder, whatever they are asked
    for fd in (0, 1):
        os.dup2(NULL, fd)
    sys.path[:] = [path for path in sys.path if path]  # '' would import from the writable scratch
    for key in [key for key in os.environ if key not in ("PATH", "LANG", "HOME")]:
        del os.environ[key]
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)  # 4300 digits is a server's limit, not a language's
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # bounds closerange in every fork
    words, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.disable()
    if os.fork() == 0:
        for fd in (control, answers, parent):
            os.close(fd)
        words.close()
        start_zygote(theirs, mode, scratch, first_uid)
    theirs.close()
    sys.setrecursionlimit(10_000)  # for `wipe`
    gc.enable()
    try:
        Warden(mode == "container", scratch, first_uid, num_uids, control, answers, words).serve()
    except OwnerGone:
        if mode == "process":
            remove_folder(own, parent)
        os._exit(0)
