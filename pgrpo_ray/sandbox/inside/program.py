"""What a fork does once it is the program's process: give up every right, run the program, state what came of it.

Everything here runs beside hostile code in one interpreter, so nothing it says is believed beyond what a program may
say of itself: an output, a value, a failure. It holds no expected output. `Link` carries its statements to the warden;
each begins with a nonce, so that stray writes are recognised as such.
"""

import _signal
import atexit
import builtins
import fcntl
import gc
import io
import itertools
import json
import math
import operator
import os
import resource
import signal
import struct
import sys
import types

from pgrpo_ray.sandbox.inside.codec import Encoder, TooLarge, decode

LINK, SOURCE, TASK, WIRE = 3, 4, 5, 6
"""Descriptors beside 0, 1, 2: to the warden; the program's text; its task; to the checker (style `assert`), or the file
from which a script with several cases reads its input."""
FILE_BYTES = 32 << 20
"""Largest file: the size of the scratch."""
STACK_BYTES = 64 << 20
"""Of the main thread: recursion through C (`lru_cache`) needs more than the usual 8 MiB."""
RESERVE_BYTES = 4 << 20
"""Beyond the memory limit, to tell that it was reached."""
DETAIL_CHARS = 400
FOREVER = resource.RLIM_INFINITY
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38


class Link:
    """The program's side of the stream to the warden.

    It keeps the functions that it needs: the program may replace those of `os`.
    """

    def __init__(self, nonce, fd=LINK):
        self.nonce = nonce.encode()
        self.fd = fd

    def say(self, status, payload=b"", *, write=os.write, view=memoryview):
        """State `status` with a payload: bytes, or text."""
        if type(payload) is str:
            payload = payload.encode("utf-8", "replace")
        rest = view(b"%s %s %d\n" % (self.nonce, status, len(payload)) + payload)
        while rest:
            rest = rest[write(self.fd, rest) :]


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


def take(fd):
    """Read all of a memory file from its beginning, whatever its offset."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def run(job):
    """Be the program, to the end. Never returns."""
    link = Link(job.nonce)
    link.say(b"confined", str(os.getpid()))
    if job.role == "build":
        build(json.loads(take(SOURCE)))
    if job.role == "binary":
        os.dup2(TASK, 0)
        os.execve(SOURCE, ["program"], dict(os.environ))
    source = take(SOURCE)
    os.close(SOURCE)
    sys.argv[:] = ["program"]
    gc.enable()
    try:
        code = compile(source.decode("utf-8", "surrogatepass"), "<program>", "exec", dont_inherit=True)
    except BaseException as error:  # MemoryError and RecursionError of the parser are its way to say "too nested"
        link.say(b"compile_error", describe(error))
        os._exit(1)
    if job.role == "script":
        run_scripts(job, link, code) if job.count > 1 else run_lone_script(code)
    main = fresh_main("program")  # not `__main__`: what a guard holds back is for scripts
    try:
        exec(code, main.__dict__)
    except BaseException as error:
        link.say(blame(error), describe(error))
        os._exit(1)
    if job.role == "calls":
        run_calls(job, link, main.__dict__)
    else:
        Server(main.__dict__, job.limits["output_kib"] << 10).serve()
    os._exit(0)


def fresh_main(name="__main__"):
    """Return an empty module for the program, in the place where pickle and dataclasses look for it."""
    main = types.ModuleType(name)
    main.__builtins__ = builtins
    main.__file__ = "/tmp/program.py"
    sys.modules[name] = main
    return main


def build(task):
    """Write the source and become the compiler."""
    with open(task["file"], "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(task["program"])
    os.execvp(task["build"][0], task["build"])


def run_lone_script(code):
    """Run the program as `python3 program.py` would. It has the process for itself, and gets no link."""
    os.close(LINK)
    os.dup2(TASK, 0)
    os.close(TASK)
    open_streams()
    reserve = (resource.getrlimit(resource.RLIMIT_DATA)[1],) * 2
    os._exit(run_script(code, reserve) & 0xFF)


def run_scripts(job, link, code):
    """Do the same for each case, one after the other in this process, and state what each printed.

    Input and outputs are files that are filled and emptied here, so nobody is waited for. A case that leaves us without
    them ends with the process; the next case gets another.
    """
    sizes = struct.unpack(f">{job.count}Q", os.pread(TASK, 8 * job.count, 0))
    at, me, limit = 8 * job.count, os.getpid(), job.limits["output_kib"] << 10
    # Copies that programs hardly meet, and what they start does not inherit.
    task, stdin, out, err = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for fd in (TASK, WIRE, 1, 2))
    reserve = (resource.getrlimit(resource.RLIMIT_DATA)[1],) * 2
    try:
        for size in sizes:
            status = 1  # of a case that does not come to its end
            fill(stdin, task, at, size)
            at += size
            os.dup2(stdin, 0)
            open_streams()
            status = run_script(code, reserve) & 0xFF
            if os.getpid() != me:
                break
            if not report(link, status, out, err, limit) or (status and job.stop_early):
                break
            os.dup2(out, 1)
            os.dup2(err, 2)
            sys.setrecursionlimit(1000)
            sys.argv[:] = ["program"]
    finally:
        os._exit(status)


def fill(target, source, at, size):
    """Make `size` bytes of one file, from `at` on, all that another holds; its offset is 0 then."""
    os.ftruncate(target, 0)
    os.lseek(target, 0, os.SEEK_SET)
    while size:
        done = os.sendfile(target, source, at, size)
        if not done:
            raise OSError("the program has changed our files")
        at, size = at + done, size - done
    os.lseek(target, 0, os.SEEK_SET)


def report(link, status, out, err, limit):
    """State how a case ended and what it printed, then empty its files. Return False where it printed too much."""
    out_size, err_size = os.fstat(out).st_size, os.fstat(err).st_size
    if out_size > limit or err_size > limit:
        link.say(b"output_limit")
        return False
    tail = os.pread(err, 4096, max(0, err_size - 4096)) if status else b""
    link.say(b"end", b"%d %d\n" % (status, out_size) + os.pread(out, out_size, 0) + tail)
    if out_size:
        os.ftruncate(out, 0)
    if err_size:
        os.ftruncate(err, 0)
    return True


def open_streams():
    """Make the three streams as the interpreter makes them at its start."""
    sys.stdin = sys.__stdin__ = stream(0, "<stdin>", "surrogateescape")
    sys.stdout = sys.__stdout__ = stream(1, "<stdout>", "surrogateescape")
    sys.stderr = sys.__stderr__ = stream(2, "<stderr>", "backslashreplace", line_buffering=True)


def stream(fd, name, errors, line_buffering=False):
    raw = io.FileIO(fd, "w" if fd else "r", closefd=False)
    raw.name = name
    buffer = io.BufferedWriter(raw) if fd else io.BufferedReader(raw)
    text = io.TextIOWrapper(buffer, "utf-8", errors, newline="\n", line_buffering=line_buffering)
    text.mode = "w" if fd else "r"
    return text


def run_script(code, reserve):
    """Run and end as an interpreter does: threads joined, atexit run, buffers flushed. Return the exit status."""
    main, status = fresh_main(), 0
    try:
        exec(code, main.__dict__)
    except SystemExit as stop:
        status = exit_status(stop.code)
    except BaseException as error:
        status = 1
        resource.setrlimit(resource.RLIMIT_DATA, reserve)  # without memory, not even that could be told
        trace = error.__traceback__  # and there is none
        sys.excepthook(type(error), error, trace and trace.tb_next)
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    except BaseException as error:
        status = status or 1
        sys.excepthook(type(error), error, error.__traceback__)
    if not flushed(sys.stdout, sys.stderr):
        status = status or 120  # as CPython: Py_FinalizeEx failed to flush
    try:
        main.__dict__.clear()  # files that only globals hold are flushed when they go, and finalizers may print
        gc.collect()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    for text in (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__):
        flushed(text)  # what a writer of the program's own cannot do without its globals, it need not do
    return status


def flushed(*streams):
    """Flush, and tell whether that worked. A stream may be a thing of the program's."""
    try:
        for text in streams:
            if text is not None and not getattr(text, "closed", False):
                text.flush()
    except BaseException:
        return False
    return True


def exit_status(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def run_calls(job, link, namespace):
    """Do the calls of each case and state their values, case by case."""
    limit, me = job.limits["output_kib"] << 10, os.getpid()
    for case in json.loads(take(TASK)):
        values = []
        for call in case["calls"]:
            status, text = one_call(namespace, call, limit)
            if status != b"value":
                break
            values.append(text)
        else:
            text = f"[{','.join(values)}]"
        if os.getpid() != me:
            os._exit(0)  # a child that came back from the call
        link.say(status, text)
        if status != b"value" and job.stop_early:
            os._exit(0)
    link.say(b"done")


def one_call(namespace, call, limit):
    """Return (`value`, encoded result), or how the call failed and why."""
    try:
        owner, _, method = call["name"].rpartition(".")
        if (owner or method) not in namespace:
            return b"error", f"{owner or method} is not defined"
        function = getattr(namespace[owner](), method) if owner else namespace[method]
        value = function(*decode(call["args"]), **decode(call["kwargs"]))
        encoded = dumps(Encoder(limit).encode(value))
        if len(encoded) > limit:
            raise TooLarge
    except TooLarge:
        return b"output_limit", "the returned value is too large"
    except BaseException as error:
        return blame(error), describe(error)
    return b"value", encoded


dumps = json.JSONEncoder(separators=(",", ":")).encode


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


class Server:
    """Does what the checker asks with the program's objects, until it hangs up.

    A request names an operation and its operands; the answer is a value or an exception. Plain data travels by value,
    everything else stays here and travels as the number of a handle. A function of the test is called back.
    """

    def __init__(self, namespace, limit):
        self.limit = limit
        self.objects = []
        self.numbers = {}
        self.operations = PLAIN_OPERATIONS | {
            "names": lambda wanted: [name for name in wanted if name in namespace],
            "global": namespace.__getitem__,
        }

    def serve(self):
        while (message := receive(WIRE, self.limit)) is not None:
            send(WIRE, self.answer(message))

    def answer(self, message):
        try:
            operands = decode(message["operands"], self.special)
            answer = {"value": self.encode(self.operations[message["do"]](*operands))}
            if (
                message["mutable"]
                and (after := [self.encode(part) for part in operands[1:]]) != message["operands"][1:]
            ):
                answer["after"] = after
            return answer
        except BaseException as error:
            kinds = [self.kind(kind) for kind in type.mro(type(error)) if kind is not object]
            text, how = describe(error), "output_limit" if isinstance(error, TooLarge) else blame(error).decode()
            return {"raise": kinds, "text": text.partition(": ")[2], "detail": text, "blame": how}

    def encode(self, value):
        return Encoder(self.limit, self.keep).encode(value)

    def keep(self, value):
        """Return a handle with the operations its object has; an exception class says so, as a test may catch it."""
        number = self.number(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"x": [number, [self.kind(kind) for kind in type.mro(value) if kind is not object]]}
        there = set().union(*map(dir_of, type.mro(type(value))))  # not `hasattr`: classes are callable
        return {"h": [number, [name for name in HANDLED if f"__{name}__" in there]]}

    def number(self, value):
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # so that the id stays its own
        return self.numbers[id(value)]

    def kind(self, kind):
        """A class of exceptions: the name of a builtin one, or its number."""
        return kind.__name__ if getattr(builtins, kind.__name__, None) is kind else self.number(kind)

    def special(self, tag, content):
        if tag == "l":
            return slice(*decode(content, self.special))
        if tag == "k":
            return lambda *args, **kwargs: self.call_back(content, args, kwargs)
        return self.objects[content[0] if tag == "h" else content]

    def call_back(self, number, args, kwargs):
        """Have the checker call a function of the test, serving its requests meanwhile."""
        send(WIRE, {"back": number, "operands": [self.encode(list(args)), self.encode(kwargs)]})
        while (message := receive(WIRE, self.limit)) is not None:
            if "back" not in message:
                send(WIRE, self.answer(message))
            elif message["back"] is None:
                raise RuntimeError("a function of the test failed: " + message["text"])
            else:
                return decode(message["back"][0], self.special)
        os._exit(1)


dir_of = type.__dict__["__dict__"].__get__
HANDLED = (
    *("call", "iter", "enter", "exit", "len", "bool", "hash", "int", "float", "round", "neg", "pos", "abs", "invert"),
    *("next", "getitem", "setitem", "delitem", "eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv"),
    *("floordiv", "mod", "pow", "matmul", "and", "or", "xor"),
)
"""Special methods that a handle may have. `in` is not among them: it goes through the items."""
PLAIN_OPERATIONS = {
    name: getattr(operator, name)
    for name in (
        *("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
        *("and_", "or_", "xor", "neg", "pos", "abs", "invert", "getitem", "setitem", "delitem", "contains"),
    )
}
PLAIN_OPERATIONS |= {"len": len, "bool": bool, "str": str, "repr": repr, "iter": iter, "hash": hash, "next": next}
PLAIN_OPERATIONS |= {
    "call": lambda function, args, kwargs: function(*args, **kwargs),
    "take": lambda iterator, count: list(itertools.islice(iterator, count)),
    "instance": isinstance,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value: type(value).__exit__(value, None, None, None),
}
PLAIN_OPERATIONS |= {"int": int, "float": float, "round": round, "attr": getattr, "set": setattr}


def send(fd, message):
    """Write one frame: 4 bytes big-endian length, then JSON."""
    payload = dumps(message).encode("utf-8", "surrogatepass")
    rest = memoryview(struct.pack(">I", len(payload)) + payload)
    while rest:
        rest = rest[os.write(fd, rest) :]


def receive(fd, limit):
    """Read one frame; None at end of file. Raises `TooLarge` for one that announces more than `limit` allows."""
    header = exactly(fd, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if length > 6 * limit + (1 << 16):  # JSON writes up to six bytes for a character
        raise TooLarge
    payload = exactly(fd, length)
    return None if payload is None else json.loads(payload)


def exactly(fd, count):
    pieces = []
    while count:
        try:
            piece = os.read(fd, min(count, 1 << 20))
        except ConnectionError:
            return None
        if not piece:
            return None
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
