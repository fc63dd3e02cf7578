"""The warden: runs programs one case at a time inside the sandbox and reports what it saw. It decides no verdict.

Standard library only, no import of ours, Python 3.9 or later, and one long file: the source travels as `python3 -c`, so
an image needs nothing but Python and nothing is mounted. Arguments: `container` or `process`, the scratch folder, the
first uid of its own (0: none). Frames on stdin and stdout: 4 bytes big-endian length, then JSON. End of file on stdin,
also in the middle of a run, kills everything and ends the warden: a dead owner leaves nothing behind.

Every case is its own process, forked from the warden's warm interpreter, so a case sees neither an earlier case nor an
earlier program, and a crash costs one case. After a case every process below the warden is killed and the scratch is
wiped. After a case that ran into a limit the remaining ones are answered `skipped`: the program has failed already.

Request: {id, style, program, entry_point, setup, limits, cases, together}; a case is {stdin} or {args} or {source}.
Answer: {id, cases: [{status, wall_ms, cpu_ms, detail, output | value}], dirty}; {id, fault} when the machinery failed.
`together` (calls only) runs all cases in one process under the limits of one, which saves most of the forks. It answers
with one result, whose value is the list of outcomes; where the host cannot settle on it, it asks again without.
`dirty`: this place cannot be cleaned or has used up its uids; replace it.

Who waits for whom: the warden alone waits (one poll over outputs, report, child's death, owner). A forked case waits
once, for the warden to hand it its case. Nobody waits for a program without a deadline.

Protects against, given the container: reading or signalling the warden and other runs (fresh uid for each program,
non-dumpable warden), leftovers, fork and memory bombs, floods, stopped or sleeping processes, ends faked by `_exit`,
expected outputs found in memory (they never enter), values with lying methods (encoded by exact type, compared on the
host). A call's report can be forged, but only to state a value.
Does not protect against: in style `assert` the test meets the program in one process. The nonce and the source come
only after the program says it was loaded, so simple fakes (exit, raise, print) never pass; but objects that equal
everything, and code that walks the interpreter's frames or memory at test time, can.
"""

import atexit
import bisect  # noqa: F401 - this and its like are preloaded because programs import them; forks share the pages
import builtins
import collections  # noqa: F401
import ctypes
import fcntl
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import io  # noqa: F401
import itertools  # noqa: F401
import json
import math
import os
import re  # noqa: F401
import resource
import secrets
import select
import signal
import socket
import string  # noqa: F401
import struct
import sys
import time
import types
import typing  # noqa: F401

REPORT, MAILBOX = 3, 4
"""The two descriptors that a case has beside 0, 1, 2."""
UIDS = 50_000
"""Programs per warden before it asks to be replaced: rootless engines map 65536 uids."""
FILE_BYTES = 32 << 20
"""Largest file: the size of the scratch."""
STACK_BYTES = 64 << 20
"""Of the main thread: recursion through C (`lru_cache`) needs more than the usual 8 MiB."""
MAX_DEPTH = 200
"""Of a returned value. Ours: far deeper than test data, shallow enough for both JSON codecs."""
DETAIL_CHARS = 400
BLAMES = (b"failed", b"error", b"exit", b"compile_error", b"memory_limit", b"output_limit")
"""What a case may say of itself without the nonce: it can only harm itself."""
TOTAL_OUTPUT_CHARS = 8 << 20
"""Of one program over all its cases (ours): JSON makes up to six bytes of each, still far below the host's bound."""
OVER = ("time_limit", "memory_limit", "output_limit", "compile_error", "skipped")
"""After one of these the remaining cases are skipped."""
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWNET = 0x20000, 0x8000000, 0x40000000  # linux/sched.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000  # linux/mount.h
F_ADD_SEALS, F_GET_SEALS, F_SEAL_WRITE, MFD_ALLOW_SEALING = 1033, 1034, 8, 2  # linux/fcntl.h, linux/memfd.h
libc = ctypes.CDLL(None, use_errno=True)
NULL = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


class OwnerGone(Exception):
    """End of file on the control stream."""


class Forked(Exception):
    """Carries a fresh child out of the warden's stack, so that no frame of it holds requests; see `main`."""

    def __init__(self, case):
        super().__init__()
        self.case = case


def read_exactly(fd, count):
    pieces = []
    while count:
        piece = os.read(fd, min(count, 1 << 20))
        if not piece:
            raise OwnerGone
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def write_all(fd, data, write=os.write):
    view = memoryview(data)
    while view:
        view = view[write(fd, view) :]


class TooLarge(Exception):
    """An encoded value exceeds the output limit."""


class Encoder:
    """Turns plain data into tagged JSON without calling one method of the program's objects.

    Subclasses are sent as their base, read through the base's own C functions. What is not plain becomes {"?": type},
    which equals nothing. `budget` bounds the number of nodes, so that shared references cannot explode.
    """

    def __init__(self, budget):
        self.budget = budget

    def encode(self, value, depth=0):
        self.budget -= 1
        if self.budget < 0:
            raise TooLarge
        kind = type(value)
        if value is None or value is True or value is False:
            return value
        if depth > MAX_DEPTH:
            return {"?": "too deep"}
        try:
            if issubclass(kind, (int, float, str, bytes, complex)):
                return self.scalar(kind, value)
            return self.container(kind, value, depth + 1)
        except TypeError:  # a metaclass that lies about its bases
            return {"?": "unknown"}

    def scalar(self, kind, value):
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if -(1 << 63) < number < 1 << 63 else {"i": hex(number)}
        if issubclass(kind, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else {"f": repr(number)}
        if issubclass(kind, str):
            self.budget -= str.__len__(value)
            return str.__str__(value)
        if issubclass(kind, bytes):
            self.budget -= bytes.__len__(value)
            return {"b": bytes.hex(value)}
        return {"c": [repr(complex.real.__get__(value)), repr(complex.imag.__get__(value))]}

    def container(self, kind, value, depth):
        for base, tag in ((list, None), (tuple, "t"), (set, "s"), (frozenset, "s")):
            if issubclass(kind, base):
                items = [self.encode(item, depth) for item in base.__iter__(value)]
                return {tag: items} if tag else items
        if issubclass(kind, dict):
            return {"d": [[self.encode(k, depth), self.encode(v, depth)] for k, v in dict.items(value)]}
        name = type.__dict__["__name__"].__get__(kind)
        return {"?": str.__str__(name)[:80]}


class Case:
    """What one fork needs: plain attributes, made by the warden before the fork. Holds no expected output."""

    def __init__(self, request, uid, fds):
        self.style = request["style"]
        self.program = request["program"]
        self.entry_point = request["entry_point"]
        self.limits = request["limits"]
        self.uid = uid
        self.fds = fds  # stdin, stdout, stderr, report, mailbox


def confine(case, scratch, base_memory, container):
    """Give up everything the program must not have. Runs in the child, before a byte of the program."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in case.fds]  # none is overwritten before its turn
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=target < REPORT)
    os.closerange(MAILBOX + 1, 256)
    prefer_as_victim()
    memory, size = case.limits["memory_mib"] << 20, resource.RLIM_INFINITY
    cpu_s = math.ceil(case.limits["cpu_s"])
    address_space, data = base_memory
    wanted = {
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_FSIZE: (FILE_BYTES, FILE_BYTES),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (256, 256),
        resource.RLIMIT_DATA: (data + memory, data + memory),
        # DATA is exact (private, writable) but leaves out shared mappings; AS is the wide net under those.
        resource.RLIMIT_AS: (address_space + 4 * memory, address_space + 4 * memory),
        resource.RLIMIT_STACK: (STACK_BYTES, STACK_BYTES),
    }
    if case.uid and not container:  # containers of one host share uids, and have a pids limit instead
        wanted[resource.RLIMIT_NPROC] = (64, 64)
    for what, (soft, hard) in wanted.items():
        ceiling = resource.getrlimit(what)[1]
        if ceiling != size:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(what, (soft, hard))
    become(case.uid)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # lets it open /dev/stdin, which is /proc/self/fd/0
    os.umask(0o077)
    os.chdir(scratch)
    fcntl.fcntl(0, F_ADD_SEALS, F_SEAL_WRITE)  # tells the warden "confined"; a program can neither fake nor undo it


def prefer_as_victim():
    """Let out of memory take the program, not the warden."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        return  # gVisor has its own order; if it takes the warden, the host replaces the container


def become(uid):
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def run_case(case):
    """Be the program, to the end. Never returns."""
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    sys.argv[:] = ["program"]
    gc.enable()
    try:
        code = compile(case.program, "<program>", "exec", dont_inherit=True)
    except BaseException as error:  # MemoryError and RecursionError of the parser are its way to say "too nested"
        report(b"compile_error", describe(error))
        os._exit(1)
    if case.style == "stdin":
        os.close(REPORT)
        os.close(MAILBOX)
        run_script(code, main)
    try:
        exec(code, main.__dict__)
    except BaseException as error:
        report(blame(error), describe(error))
        os._exit(1)
    if case.style == "assert":
        write_all(REPORT, b"loaded\n")
        if not os.read(REPORT, 1):
            os._exit(1)  # the warden is gone
    task = json.loads(os.pread(MAILBOX, os.fstat(MAILBOX).st_size, 0))
    if "calls" in task:
        run_calls(case, main.__dict__, task, report)
    else:
        (run_call if case.style == "call" else run_assert)(case, main.__dict__, task, report)
    os._exit(0)


def run_script(code, main):
    """Run and end as `python3 program.py` would: threads joined, atexit run, buffers flushed, exit status."""
    status = 0
    try:
        exec(code, main.__dict__)
    except SystemExit as stop:
        status = exit_status(stop.code)
    except BaseException as error:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__.tb_next)
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        main.__dict__.clear()  # files that only globals hold are flushed when they go
        gc.collect()
    except BaseException as error:
        status = status or 1
        sys.excepthook(type(error), error, error.__traceback__)
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            status = status or 120  # as CPython: Py_FinalizeEx failed to flush
    os._exit(status & 0xFF)


def exit_status(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def run_call(case, namespace, task, report):
    """Call the entry point once and state the value."""
    nonce = task["nonce"].encode()
    status, text = one_call(case, namespace, task["args"])
    if status == b"value":
        report(status, text, nonce)
    else:
        report(status, text)


def run_calls(case, namespace, task, report):
    """Call the entry point once per case, one after the other, and state what became of each."""
    nonce, outcomes = task["nonce"].encode(), []
    for args in task["calls"]:
        status, text = one_call(case, namespace, args)
        outcomes.append([status.decode(), text])
    report(b"value", dumps(outcomes), nonce)


def one_call(case, namespace, args):
    """Return (`value`, encoded result), or how the call failed and why."""
    try:
        owner, _, method = case.entry_point.rpartition(".")
        if (owner or method) not in namespace:
            return b"error", f"{owner or method} is not defined"
        function = getattr(namespace[owner](), method) if owner else namespace[method]
        value = function(**args) if isinstance(args, dict) else function(*args)
        limit = case.limits["output_kib"] << 10
        encoded = dumps(Encoder(limit).encode(value))
        if len(encoded) > limit:
            raise TooLarge
    except TooLarge:
        return b"output_limit", "the returned value is too large"
    except BaseException as error:
        return blame(error), describe(error)
    return b"value", encoded


def run_assert(case, namespace, task, report):
    """Run the setup and one test in the program's namespace. Only an end without exception is `held`."""
    nonce = task.pop("nonce").encode()
    try:
        if case.entry_point in namespace:
            namespace["candidate"] = namespace[case.entry_point]
        pieces = [compile(task.pop(key), f"<{key}>", "exec", dont_inherit=True) for key in ("setup", "source")]
        for piece in pieces:
            exec(piece, namespace)
    except AssertionError:
        report(b"failed", "")  # its message may quote the expected value
    except BaseException as error:
        report(blame(error), describe(error))
    else:
        report(b"held", "", nonce)


dumps = json.JSONEncoder(separators=(",", ":")).encode


def report(status, text, nonce=b"-", write_all=write_all, write=os.write):
    write_all(REPORT, b"\n%s %s\n" % (status, nonce) + text.encode("utf-8", "replace"), write)


def blame(error):
    if isinstance(error, MemoryError):
        return b"memory_limit"
    return b"exit" if isinstance(error, SystemExit) else b"error"


def describe(error):
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # the program's own __str__
        text = "an exception that cannot be shown"
    return text[:DETAIL_CHARS]


class Watch:
    """One running case: its descriptors, what came out of it, and how it ended."""

    def __init__(self, style, case_input, task):
        self.task = json.dumps(task).encode()
        self.stop = None  # why the warden ended it, if it did
        self.status = self.usage = None
        self.data = {"out": bytearray(), "err": bytearray(), "report": bytearray()}
        self.stdin = memory_file(case_input)
        # Arguments of a call are no secret. A test's source is: it comes when the program says that it was loaded.
        self.released = style != "assert"
        self.mailbox = memory_file(self.task if self.released else b"")
        ours, theirs = socket.socketpair()
        self.report, report = ours.detach(), theirs.detach()
        self.names = {self.report: "report"}
        self.theirs = (self.stdin, NULL, NULL, report, self.mailbox)
        self.to_close = [report]
        if style == "stdin":  # nobody reads what other styles print
            (self.out, out), (self.err, err) = os.pipe(), os.pipe()
            for fd in (out, err):
                os.fchmod(fd, 0o666)  # so that the program may open /dev/stdout by name
            self.names.update({self.out: "out", self.err: "err"})
            self.theirs = (self.stdin, out, err, report, self.mailbox)
            self.to_close += [out, err]
        for fd in self.names:
            os.set_blocking(fd, False)

    def started(self):
        for fd in self.to_close:
            os.close(fd)

    def confined(self):
        return bool(fcntl.fcntl(self.stdin, F_GET_SEALS) & F_SEAL_WRITE)

    def read(self, fd, cap):
        """Take what is there. Returns False at end of file."""
        name = self.names[fd]
        try:
            piece = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.data[name] += piece
        if len(self.data[name]) > (cap if name != "report" else 2 * cap + 4096):
            self.stop = self.stop or "output_limit"
        if not self.released and self.data["report"].endswith(b"loaded\n"):
            self.released = True
            os.pwrite(self.mailbox, self.task, 0)
            try:
                os.write(self.report, b"!")
            except ConnectionError:  # it has ended meanwhile; its death says the rest
                return False
        return bool(piece)

    def drain(self, cap):
        for fd in self.names:
            size = -1
            while size != len(self.data[self.names[fd]]) and self.stop is None:
                size = len(self.data[self.names[fd]])
                self.read(fd, cap)

    def close(self):
        for fd in (*self.names, self.stdin, self.mailbox):
            os.close(fd)


def memory_file(content):
    fd = os.memfd_create("input", os.MFD_CLOEXEC | MFD_ALLOW_SEALING)
    write_all(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Warden:
    """Runs requests one after another. The only process that waits."""

    def __init__(self, mode, scratch, first_uid, control, answers):
        self.container = mode == "container"
        self.scratch = scratch
        self.first_uid = self.uid = first_uid
        self.control = control
        self.answers = answers
        self.wake, wake_write = os.pipe()
        for fd in (self.wake, wake_write):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        pages = [int(field) * resource.getpagesize() for field in slurp("/proc/self/statm").split()]
        self.base_memory = pages[0], pages[5]
        self.ooms = oom_kills()

    def serve(self):
        while True:
            (length,) = struct.unpack(">I", read_exactly(self.control, 4))
            request = json.loads(read_exactly(self.control, length))
            try:
                answer = self.answer(request)
            except (Forked, OwnerGone):
                raise
            except Exception as error:
                answer = {"id": request.get("id"), "fault": describe(error)}
            payload = json.dumps(answer).encode()
            write_all(self.answers, struct.pack(">I", len(payload)) + payload)

    def answer(self, request):
        results, dirty, room = [], False, TOTAL_OUTPUT_CHARS
        self.uid += 1 if self.first_uid else 0
        if request["together"]:
            # One result for all: the host takes it apart, because a forged statement must not reach our parser.
            result, clean = self.run(request, {"calls": [case["args"] for case in request["cases"]]})
            return self.answered(request, [result], not clean)
        for case in request["cases"]:
            if results and results[-1]["status"] in OVER:
                results.append(skipped())
                continue
            result, clean = self.run(request, case)
            results.append(result)
            if not clean and len(results) < len(request["cases"]) and result["status"] not in OVER:
                raise RuntimeError("the place could not be cleaned between two cases")
            dirty = dirty or not clean
            room -= len(result.get("output", ""))
            if room < 0:
                result.pop("output", None)
                result.update(status="output_limit", detail="all cases together printed too much")
        return self.answered(request, results, dirty)

    def answered(self, request, results, dirty):
        return {"id": request["id"], "cases": results, "dirty": dirty or self.uid - self.first_uid >= UIDS}

    def run(self, request, case):
        """Fork, watch and clean up after one case. Returns its result and whether the place is clean again."""
        nonce = secrets.token_hex(16)
        task = {"nonce": nonce, "setup": request["setup"], **case}
        watch = Watch(request["style"], task.pop("stdin", "").encode("utf-8", "surrogatepass"), task)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            raise Forked(Case(request, self.uid, watch.theirs))
        confined = False
        try:
            watch.started()
            self.watch(pid, watch, request["limits"], start)
            clean = self.sweep(pid, watch)
            wall_s = time.monotonic() - start
            watch.drain(request["limits"]["output_kib"] << 10)
            confined = watch.confined()
        except OwnerGone:
            self.sweep(pid, watch)
            self.wipe()
            raise
        finally:
            watch.close()
        if not confined:
            raise RuntimeError("the program's process could not be confined: " + tail(watch.data["report"]))
        clean = self.wipe() and clean
        result = self.result(watch, request, nonce)
        result["wall_ms"] = round(wall_s * 1000, 3)
        return result, clean

    def watch(self, pid, watch, limits, start):
        """Wait until the case's first process ends or must be ended."""
        cap = limits["output_kib"] << 10
        poll = select.poll()
        for fd in (*watch.names, self.wake):
            poll.register(fd, select.POLLIN)
        poll.register(self.control, 0)  # a mask of 0 still reports that the owner hung up
        while watch.stop is None and watch.status is None:
            left = start + limits["wall_s"] - time.monotonic()
            if left <= 0:
                watch.stop = "time_limit"
            for fd, _ in poll.poll(max(0.0, left) * 1000 + 1):
                if fd == self.control:
                    raise OwnerGone
                if fd == self.wake:
                    os.read(fd, 4096)
                    self.reap(pid, watch)
                elif not watch.read(fd, cap):
                    poll.unregister(fd)

    def reap(self, pid, watch):
        """Collect every dead child. Returns True when no child is left, dead or alive."""
        try:
            while True:
                dead, status, usage = os.wait4(-1, os.WNOHANG)
                if dead == 0:
                    return False
                if dead == pid:
                    watch.status, watch.usage = status, usage
        except ChildProcessError:
            return True

    def sweep(self, pid, watch):
        """Kill and collect all that is left of a case. Orphans come to us (pid 1, or subreaper)."""
        deadline = time.monotonic() + 2.0
        while not self.reap(pid, watch):
            if time.monotonic() > deadline:
                return False
            self.kill_all(pid)
            time.sleep(0.001)
        return True

    def kill_all(self, pid):
        """Kill below the warden. kill(-1) only where it cannot reach a stranger: as pid 1, or as a uid of our own."""
        if self.container and os.getpid() == 1:
            ignore_gone(os.kill, -1, signal.SIGKILL)
        elif self.uid:
            self.as_program(lambda: ignore_gone(os.kill, -1, signal.SIGKILL))
        else:
            ignore_gone(os.killpg, pid, signal.SIGKILL)
            for child in children(os.getpid()):
                ignore_gone(os.kill, child, signal.SIGKILL)

    def as_program(self, action):
        """Run `action` in a fork that is the program's uid; return whether it succeeded."""
        pid = os.fork()
        if pid == 0:
            try:
                become(self.uid)
                action()
                os._exit(0)
            except BaseException:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0

    def wipe(self):
        """Empty the scratch folder. As its owner we may remove entries, but only the program's uid what is below."""
        for name in os.listdir(self.scratch):
            path = os.path.join(self.scratch, name)
            try:
                os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            except OSError:
                return self.as_program(lambda: wipe(self.scratch)) and not os.listdir(self.scratch)
        return True

    def result(self, watch, request, nonce):
        """Say how the case ended: the first of the warden's stop, CPU, signal, report, exit status that tells."""
        limits, usage = request["limits"], watch.usage
        if usage is None:
            raise RuntimeError("a killed program did not end")
        cpu_s = usage.ru_utime + usage.ru_stime
        result = {"status": watch.stop, "cpu_ms": round(cpu_s * 1000, 3), "detail": ""}
        number = watch.status & 0x7F
        ooms, self.ooms = self.ooms, oom_kills() if number == signal.SIGKILL else self.ooms
        if watch.stop is None:
            if cpu_s > limits["cpu_s"] or number == signal.SIGXCPU:
                result["status"] = "time_limit"
            elif number:
                result["status"] = "memory_limit" if ooms != self.ooms else "error"
                result.update(signal=number, detail=f"killed by signal {number}")
            else:
                result.update(self.told(watch, request["style"], nonce.encode()))
        return result

    def told(self, watch, style, nonce):
        """Read the end of a case that no limit and no signal ended."""
        exit_code = watch.status >> 8
        if style == "stdin" and exit_code == 0:
            return {"status": "ok", "output": watch.data["out"].decode("utf-8", "replace")}
        # The program may have written to the report as well: only our own lines are looked for.
        body = bytes(watch.data["report"])
        for status in (b"value", b"held") if watch.released and exit_code == 0 else ():
            _, found, payload = body.partition(b"\n%s %s\n" % (status, nonce))
            if found:
                return {"status": "ok", "value": payload.decode("utf-8", "replace")}
        for status in BLAMES:
            _, found, payload = body.partition(b"\n%s -\n" % status)
            if found:
                return {"status": status.decode(), "detail": payload.decode("utf-8", "replace")[:DETAIL_CHARS]}
        if style != "stdin":
            return {"status": "exit", "detail": f"ended early with status {exit_code}"}
        last = tail(watch.data["err"]) or f"exit status {exit_code}"
        return {"status": "memory_limit" if last.startswith("MemoryError") else "error", "detail": last}


def skipped():
    return {"status": "skipped", "wall_ms": 0.0, "cpu_ms": 0.0, "detail": ""}


def ignore_gone(kill, target, number):
    try:
        kill(target, number)
    except ProcessLookupError:
        return  # what is to be killed is dead: that is the aim


def children(parent):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(slurp(f"/proc/{name}/stat").rpartition(")")[2].split()[1]) == parent:
                found.append(int(name))
        except OSError:
            continue  # it ended while we looked
    return found


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


def tail(data):
    lines = data[-4096:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:DETAIL_CHARS] if lines else ""


def slurp(path):
    with open(path) as file:
        return file.read()


def oom_kills():
    """How often the kernel killed in this cgroup (v2, then v1); 0 where it does not say."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            fields = dict(line.split() for line in slurp(path).splitlines())
            return int(fields.get("oom_kill", 0))
        except (OSError, ValueError):
            continue
    return 0


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


def main(mode, scratch, first_uid):
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, soft))  # bounds closerange in every fork
    sys.setrecursionlimit(10_000)  # for wipe(); programs get the default back
    warden = Warden(mode, scratch, first_uid, control, answers)
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        warden.serve()
    except OwnerGone:
        if mode == "process":
            remove_folder(own, parent)
        os._exit(0)
    except Forked as forked:
        case = forked.case
    # Only a child comes here; the warden's frames, and the requests in them, went with the exception.
    base_memory, container = warden.base_memory, warden.container
    del warden
    try:
        sys.setrecursionlimit(1000)
        confine(case, scratch, base_memory, container)
    except BaseException as error:
        os.write(case.fds[3], describe(error).encode())
        os._exit(1)
    run_case(case)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
