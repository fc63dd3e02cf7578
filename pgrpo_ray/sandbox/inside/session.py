"""A session: one process, with its checker in style `assert`, that works through some cases of a program.

Time is CPU time: `cpu_s` a case, with a wall limit against those that wait. Waiting for a processor is no fault of the
program, so the wall limit leaves it out as the kernel accounts it. A program runs on to `cpu_grace` times its limit:
what ends in between is over its limit and reported as it ended, for the host to judge again when the machine is quiet.

A program's process states what became of each case over a link; each statement begins with a nonce, and what does not
is `stray`. The zygote's news of a death is true, and so are the statements of a checker; a program's are what it says
of itself, what it printed in each of several cases among them. Nobody waits for our word.
"""

import os
import re
import select
import signal
import socket
import struct
import time

from pgrpo_ray.sandbox.inside.accounting import cpu_clock, ready_s
from pgrpo_ray.sandbox.inside.frames import dumps
from pgrpo_ray.sandbox.inside.link import DETAIL_CHARS
from pgrpo_ray.sandbox.inside.streams import NULL, OutputFile, Stream, memory_file

ROLES = {"stdin": "script", "call": "calls", "assert": "objects", "build": "build"}
LAZY_S = 0.005
"""How long statements may lie in their sockets before we look: each look costs about as much as a small case."""
OWN_CPU_S = 0.2
"""What we may spend ourselves on one program, at most."""
LINGER_S = 0.2
"""How long a process may live on after its last statement: it has only to end."""
BLAMES = ("failed", "error", "exit", "compile_error", "memory_limit", "output_limit")
"""What a program may say of itself: it can only harm itself."""
FLOOD_S = 0.05
"""How often we look at the size of what a script prints into files."""
HEADER = re.compile(rb" ([a-z_]{1,20}) (\d{1,9})\n")
END = re.compile(rb"(\d{1,3}) (\d{1,9})\n")
"""Of a script's case: exit status, size of its output; output and the end of its error output follow."""


class OwnerGone(Exception):
    """End of file on the control stream, or nothing more that this place can be used for."""


class Session:
    """One process (with its checker, style `assert`) that works through some cases, and what became of them."""

    def __init__(self, warden, request, cases):
        self.warden = warden
        self.request = request
        self.style = request["style"]
        self.limits = request["limits"]
        self.cases = cases
        self.results = []
        self.stop = None  # why the warden ended it, if it did
        self.detail = ""
        self.signal = 0  # that ended it
        self.in_doubt = False  # a wall limit that load may explain
        self.stray = False  # something without the nonce came over a link
        self.nonces = {}  # of each link
        self.forked = 0
        self.confined = {}  # of each link: the pid at its other end, once that has given up its rights
        self.deaths = {}  # of our processes
        self.streams, self.open, self.lent = [], [], []
        self.several = self.style == "stdin" and len(cases) > 1  # a script that does so in one process
        self.out = self.err = None
        self.collect = None  # of a build: takes its artifact before the scratch is wiped
        self.artifact = None

    def run(self):
        """Work through the cases. Return whether the place is clean again."""
        try:
            self.start()
            self.watch()
            return self.end()
        except OwnerGone:
            self.warden.sweep(self)
            self.warden.wipe()
            raise
        finally:
            for fd in (*self.open, *self.lent):
                os.close(fd)

    def start(self):
        """Fork what the style needs. Descriptors that are lent to a child are closed here once it has them."""
        request, outputs, extra = self.request, self.make_outputs(), []
        tasks = {"stdin": self.inputs, "call": lambda: dumps(self.cases).encode()}
        self.task = memory_file(tasks.get(self.style, bytes)())
        self.open.append(self.task)
        role, source = ROLES[self.style], request["program"].encode("utf-8", "surrogatepass")
        if self.style == "assert":
            extra = [end.detach() for end in socket.socketpair()]
        elif self.several:
            extra = [memory_file(b"")]
        self.lent += extra
        if self.style == "build":
            toolchain = request["toolchain"]
            task = {"program": request["program"], "file": toolchain["source"], "build": toolchain["build"]}
            source = dumps(task).encode()
        self.began, self.cpu_mark, self.place_mark = time.monotonic(), 0.0, self.warden.place_cpu_s()
        self.set_deadline()
        if request.get("binary") is not None:
            self.spawn("binary", outputs, request["binary"], [])
        else:
            self.spawn(role, outputs, self.lend(memory_file(source)), extra[:1])
        if self.style == "assert":
            tests = {"setup": request["setup"], "entry_point": request["entry_point"]}
            tests["cases"] = [case["source"] for case in self.cases]
            self.spawn("checker", outputs, self.lend(memory_file(dumps(tests).encode())), extra[1:])
        while self.lent:
            os.close(self.lent.pop())

    def make_outputs(self):
        """Return what the process gets as descriptors 0, 1 and 2; a script makes its own 0."""
        if self.style not in ("stdin", "build"):
            return [NULL, NULL, NULL]
        cap = self.limits["output_kib"] << 10
        if not self.several:
            self.out, out = self.pipe(cap)
            self.err, err = self.pipe(cap)
            return [NULL, out, err]
        self.out, self.err = OutputFile(cap), OutputFile(cap)
        self.open += [self.out.fd, self.err.fd]
        return [NULL, self.out.fd, self.err.fd]

    def inputs(self):
        """The task of a script: its one input; or of several the sizes, 8 bytes each, and then they themselves."""
        inputs = [case["stdin"].encode("utf-8", "surrogatepass") for case in self.cases]
        return b"".join([struct.pack(f">{len(inputs)}Q", *map(len, inputs)), *inputs] if self.several else inputs)

    def lend(self, fd):
        self.lent.append(fd)
        return fd

    def pipe(self, cap):
        ours, theirs = os.pipe()
        os.fchmod(theirs, 0o666)  # so that the program may open /dev/stdout by name
        return self.stream(ours, cap), self.lend(theirs)

    def stream(self, fd, cap):
        self.open.append(fd)
        self.streams.append(Stream(fd, cap))
        return self.streams[-1]

    def spawn(self, role, outputs, source, extra):
        """Have the zygote fork one process with a link to us."""
        ours, theirs = socket.socketpair()
        link = self.stream(ours.detach(), 2 * (self.limits["output_kib"] << 10) + 4096)
        nonce = os.urandom(16).hex()
        self.nonces[link] = nonce.encode()
        settings = {
            "role": role,
            "uid": self.warden.uid + (role == "checker") if self.warden.first_uid else 0,
            "limits": self.limits,
            "count": len(self.cases),
            "stop_early": self.request["stop_early"],
            "nonce": nonce,
        }
        fds = [*outputs, self.lend(theirs.detach()), source, self.task, *extra]
        socket.send_fds(self.warden.words, [dumps(settings).encode()], fds)
        self.warden.alone = False
        self.forked += 1

    def watch(self):
        """Wait until every process of ours has ended, or must be ended."""
        poll, warden = select.poll(), self.warden
        streams = {stream.fd: stream for stream in self.streams}
        lazy, looks_s = not isinstance(self.out, Stream), LAZY_S  # pipes fill up, the rest can wait
        for fd in (*(() if lazy else streams), warden.zygote):
            poll.register(fd, select.POLLIN)
        poll.register(warden.control, 0)  # a mask of 0 still reports that the owner hung up
        while self.stop is None and len(self.deaths) < self.forked:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.check_limits()
                continue
            ready = poll.poll((min(left, looks_s) if lazy else left) * 1000 + 1)
            if lazy and not ready and looks_s == LAZY_S:
                lazy, looks_s = self.several, FLOOD_S
                for fd in streams:
                    poll.register(fd, select.POLLIN)
            elif self.several and (self.out.full or self.err.full):
                self.stop = self.stop or "output_limit"
            for fd, _ in ready:
                if fd == warden.control:
                    raise OwnerGone
                if fd == warden.zygote:
                    warden.hear(self)
                    continue
                if not streams[fd].read():
                    poll.unregister(fd)
                if streams[fd] in self.nonces:
                    self.listen(streams[fd])
                if streams[fd].full:
                    self.stop = self.stop or "output_limit"

    def set_deadline(self):
        """Before this moment the present case cannot be over a limit."""
        self.deadline = self.began + min(self.limits["wall_s"], self.limits["cpu_s"] * self.limits["cpu_grace"])

    def check_limits(self):
        """End the session if the present case is over a limit, else look again when it can be."""
        if len(self.results) == len(self.cases):
            self.stop = "done"  # it lingers after its last word
            return
        limits, now = self.limits, time.monotonic()
        used = now - self.began
        wall_left = limits["wall_s"] - used
        if wall_left <= 0:
            waited = self.waited_s(used)
            self.in_doubt = waited is None or used >= limits["patience"] * limits["wall_s"]
            wall_left += 0.0 if self.in_doubt else waited
        cpu_left = limits["cpu_s"] * limits["cpu_grace"] - (self.cpu_s() - self.cpu_mark)
        if wall_left <= 0 or cpu_left <= 0:
            self.stop = self.stop or "time_limit"
            self.in_doubt = self.in_doubt and cpu_left > 0
        self.deadline = now + max(0.005, min(wall_left, cpu_left))

    def waited_s(self, used_s):
        """How long others kept the program from a processor, at most; None where the kernel does not say.

        Its processes wait for each other as well: what the whole place was running is no waiting.
        """
        place_s = self.warden.place_cpu_s()
        try:
            ready = max(ready_s(pid) for pid in self.living())
        except (OSError, ValueError, IndexError):
            return None
        return ready if place_s is None else min(ready, max(0.0, used_s - (place_s - self.place_mark)))

    def living(self):
        """Pids of our processes that have not died yet."""
        return set(self.confined.values()) - self.deaths.keys()

    def cpu_s(self):
        """CPU time so far, seconds: of our processes, their children that they waited for, and of orphans."""
        clocks = {pid: cpu_clock(pid) for pid in self.living()}
        for pid, clock in clocks.items():
            while clock is None and pid not in self.deaths:  # reaped a moment ago: the news of it is coming
                self.warden.hear(self)
        dead = max((death["spent_s"] for death in self.deaths.values()), default=0.0)
        spent = dead + sum(clock for clock in clocks.values() if clock is not None)
        place = self.warden.place_cpu_s()
        if place is not None and place - self.place_mark >= spent + OWN_CPU_S:
            spent = place - self.place_mark  # it has disowned children, whose time nobody reports
        return max(spent, self.cpu_mark)  # the kernel's accounts of the living and of the dead differ by microseconds

    def listen(self, link):
        """Take whole statements off a link."""
        nonce, data = self.nonces[link], link.data
        while (at := data.find(nonce)) >= 0:
            self.stray = self.stray or at > 0
            header = HEADER.match(data, at + len(nonce))
            end = header.end() + int(header[2]) if header else -1
            if header is None or len(data) < end:
                return  # the rest is under way, or it is no statement
            status, payload = header[1].decode(), bytes(data[header.end() : end])
            del data[:end]
            self.hear(link, status, payload)

    def hear(self, link, status, payload):
        """Act on one statement. The checker's are true; those of a program are what it says of itself."""
        text = payload.decode("utf-8", "replace")
        checks = self.style == "assert" and link is self.streams[-1]
        if link not in self.confined and status == "confined":  # said before the program, or by nobody
            self.confined[link] = int(text)
        elif status == "fault" and link not in self.confined:
            raise RuntimeError("a process could not be confined: " + text)
        elif len(self.results) == len(self.cases):
            return
        elif status == "end" and self.several:
            end = END.match(payload) or END.match(b"1 0\n")
            printed, error_output = payload[end.end() :][: int(end[2])], payload[end.end() + int(end[2]) :]
            self.note(*self.exit_meaning(int(end[1]), error_output), output=printed)
        elif status == "value" and self.style == "call":
            self.note("ok", value=text)
        elif status == "held" and checks:
            self.note("ok")
        elif status in BLAMES and (checks or self.style != "assert"):
            self.note(status, text)
        elif status in BLAMES and not self.results:
            self.stop, self.detail = self.stop or status, text  # it did not load: the checker has nothing to say

    def note(self, status, detail="", value=None, output=None):
        """Note what became of the present case; the next begins, unless one failure is enough."""
        now, cpu_s = time.monotonic(), self.cpu_s()
        result = {
            "status": status,
            "fresh": not self.results,
            "wall_ms": round((now - self.began) * 1000, 3),
            "cpu_ms": round((cpu_s - self.cpu_mark) * 1000, 3),
            "detail": detail[:DETAIL_CHARS],
            "signal": self.signal,
        }
        if status == "time_limit":
            result["in_doubt"] = self.in_doubt
        if value is not None:
            result["value"] = value
        elif status == "ok" and self.style == "stdin":
            result["output"] = (self.out.data if output is None else output).decode("utf-8", "replace")
        self.results.append(result)
        if status != "ok" and (self.request["stop_early"] or (self.several and status == "output_limit")):
            self.stop = self.stop or "enough"
        self.began, self.cpu_mark = now, cpu_s
        self.set_deadline()
        if len(self.results) == len(self.cases):
            self.deadline = now + LINGER_S

    def end(self):
        """Kill what is left, read what was still under way, and tell how an unfinished case ended."""
        clean = self.warden.alone or self.warden.sweep(self)
        out_of_memory = self.warden.out_of_memory()
        for stream in self.streams:
            stream.drain()
        for link in self.nonces:
            self.listen(link)
            self.stray = self.stray or bool(link.data)
        if len(self.deaths) < self.forked:
            raise RuntimeError("a killed process did not end")
        if len(self.confined) < self.forked and self.stop != "time_limit":
            raise RuntimeError("a process ended before it was confined")
        if len(self.results) < len(self.cases) and self.stop != "enough":
            self.note(*self.how_it_ended(out_of_memory))
        peak = max(death["peak_kib"] for death in self.deaths.values())
        for result in self.results:
            result["peak_kib"] = peak
        if self.collect is not None and self.results[0]["status"] == "ok":
            self.artifact = self.collect()
        return self.warden.wipe() and clean

    def how_it_ended(self, out_of_memory):
        """Status and detail of the case in which the process ended: the first of stop, signal, exit that tells."""
        if self.out is not None and (self.out.full or self.err.full):
            self.stop = self.stop or "output_limit"
        if self.stop is not None:
            return self.stop, self.detail
        status = self.deaths[self.confined[next(iter(self.nonces))]]["status"]
        number = status & 0x7F
        if number == signal.SIGXCPU:
            return "time_limit", ""
        if out_of_memory and (number == signal.SIGKILL or self.style == "assert"):
            return "memory_limit", ""
        if number == signal.SIGABRT and self.err is not None and b"std::bad_alloc" in self.err.data:
            return "memory_limit", "std::bad_alloc"
        if number:
            self.signal = number
            return "error", f"killed by signal {number}"
        if self.style in ("stdin", "build"):
            return self.exit_meaning(status >> 8, self.err.data)
        return "exit", f"ended early with status {status >> 8}"

    def exit_meaning(self, code, error_output):
        """Status and detail of a script or a build that ended with an exit code."""
        if code == 0:
            return "ok", ""
        if self.style == "build":
            return "compile_error", first_error(error_output)
        last = tail(error_output) or f"exit status {code}"
        return "memory_limit" if last.startswith("MemoryError") else "error", last


def tail(data):
    lines = data[-4096:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:DETAIL_CHARS] if lines else ""


def first_error(data):
    """The line of a compiler's output that says what is wrong."""
    lines = data.decode("utf-8", "replace").splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "the build failed")
