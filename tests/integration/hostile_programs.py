"""Hostile programs and honest traps of our own, as data: what each tries, and which verdicts are right.

`PROGRAMS` stand alone. `CHANNELS` are pairs: the first program leaves something by one way, the second must not find
it. The task is always to add two numbers, so that a program which only attacks fails and one that attacks *and*
answers passes; where a verdict is `passed`, the answer is right and the attack must have changed nothing.
`test_own_hostile.py` judges them and looks at what they left behind; `benchmarks/sandbox_soak.py` mixes them in.
"""

import textwrap
from dataclasses import dataclass, replace

from pgrpo_ray.types import AssertCase, CallCase, Case, Limits, Problem, StdinCase, TestStyle, Verdict

LIMITS = Limits(cpu_s=1.0, wall_s=2.0, memory_mib=128, output_kib=64)
PATIENT = Limits(cpu_s=1.0, wall_s=5.0, memory_mib=128, output_kib=64)
"""For programs that try to hide CPU time: the wall limit must not be what stops them."""
ROOMY = Limits(cpu_s=4.0, wall_s=10.0, memory_mib=256, output_kib=1024)
"""The defaults of `Limits`: for honest programs that ask for much and use little."""
WORDY = Limits(cpu_s=1.0, wall_s=2.0, memory_mib=128, output_kib=1024)
"""For long outputs that the judge must be done with soon."""
SUM = (StdinCase("2 3\n", "5"), StdinCase("10 -4\n", "6"))
ADD = (CallCase([2, 3], 5), CallCase([10, -4], 6))
CHECK = (AssertCase("assert add(2, 3) == 5"), AssertCase("assert add(10, -4) == 6"))
SECRET = 884736251907
"""An expected value that no program can guess: who returns it has read it."""
FAILED = frozenset(Verdict) - {Verdict.PASSED}


@dataclass(frozen=True, slots=True)
class Hostile:
    """One program, the verdicts that are right for it, and why."""

    name: str
    style: TestStyle
    program: str
    cases: tuple[Case, ...]
    allowed: frozenset[Verdict]
    why: str
    limits: Limits = LIMITS
    tolerance: float | None = None

    @property
    def problem(self) -> Problem:
        """What to judge it against."""
        metadata = {"float_tolerance": self.tolerance}
        return Problem(self.name, "", self.style, self.cases, entry_point="add", limits=self.limits, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Channel:
    """Two programs: `look` prints `ok` when it finds nothing of what `leave` left, `seen` otherwise."""

    name: str
    leave: str
    look: str
    why: str
    works_within: bool = True
    """The way works inside one program, so a `seen` proves that `look` can see. False: it is closed altogether."""
    left: Hostile | None = None
    """Problem under which `leave` is judged, when its cases are what must not be found."""


def _one(style, cases, name, allowed, why, program, limits=LIMITS, tolerance=None):
    groups = {"failed": FAILED, "any": frozenset(Verdict)}  # any: but no failure of the machinery
    verdicts = groups.get(allowed) or frozenset(map(Verdict, allowed.split()))
    return Hostile(name, style, textwrap.dedent(program).strip() + "\n", cases, verdicts, why, limits, tolerance)


def stdin(name, allowed, why, program, cases=SUM, limits=LIMITS, tolerance=None):
    return _one(TestStyle.STDIN, cases, name, allowed, why, program, limits, tolerance)


def answering(name, allowed, why, program, limits=LIMITS):
    """Of style `stdin`: reads its numbers, does `program`, then prints the right sum."""
    body = "a, b = map(int, input().split())\n" + textwrap.dedent(program).strip() + "\nprint(a + b)"
    return _one(TestStyle.STDIN, SUM, name, allowed, why, body, limits)


def call(name, allowed, why, program, cases=ADD, limits=LIMITS):
    return _one(TestStyle.CALL, cases, name, allowed, why, program, limits)


def asserts(name, allowed, why, program, cases=CHECK, limits=LIMITS):
    if isinstance(cases, str):
        cases = (AssertCase(textwrap.dedent(cases).strip()),)
    return _one(TestStyle.ASSERT, cases, name, allowed, why, program, limits)


PROCESSES = (
    answering("fork_bomb_in_new_sessions", "time_limit memory_limit", "a session of its own escapes kill(-group)", """
        import os
        print(a + b, flush=True)
        while True:
            try:
                if os.fork() == 0:
                    os.setsid()
            except OSError:
                pass
    """),
    answering("fork_bomb_left_behind", "passed", "the answer is complete at the first process's end; the rest dies", """
        import os
        if os.fork() == 0:
            while True:
                try:
                    if os.fork() == 0:
                        os.setsid()
                        if os.fork():
                            os._exit(0)
                except OSError:
                    pass
    """),
    answering("daemon_keeps_printing", "passed wrong_answer output_limit", "a race for the pipe, but no hang", """
        import os
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    os.write(1, b'7 ')
            os._exit(0)
    """),
    answering("daemon_that_ignores_signals", "passed", "only SIGKILL reaches it, and SIGKILL is what it gets", """
        import os, signal, time
        if os.fork() == 0:
            os.setsid()
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            if os.fork():
                os._exit(0)
            time.sleep(60)
    """),
    answering("clone_parent_makes_siblings", "passed", "CLONE_PARENT makes the child one of the warden's own", """
        import ctypes, platform, time
        clone = {'x86_64': 56, 'aarch64': 220}[platform.machine()]
        CLONE_PARENT, SIGCHLD = 0x8000, 17
        for _ in range(5):
            if ctypes.CDLL(None).syscall(clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0:
                time.sleep(60)
    """),
    answering("clone_without_a_signal", "passed", "children that announce no death must still be collected", """
        import ctypes, os, platform
        clone = {'x86_64': 56, 'aarch64': 220}[platform.machine()]
        for _ in range(20):
            if ctypes.CDLL(None).syscall(clone, 0, 0, 0, 0, 0) == 0:
                os._exit(0)
    """),
    answering("main_thread_ends_alone", "time_limit", "a zombie leader whose thread runs on is not yet dead", """
        import ctypes, platform, threading, time
        leave = {'x86_64': 60, 'aarch64': 93}[platform.machine()]
        print(a + b, flush=True)
        threading.Thread(target=time.sleep, args=(60,)).start()
        ctypes.CDLL(None).syscall(leave, 0)
    """),
    answering("stopped_by_its_own_child", "time_limit", "a stopped process burns no CPU", """
        import os, signal
        parent = os.getpid()
        if os.fork() == 0:
            os.setsid()
            while True:
                os.kill(parent, signal.SIGSTOP)
        while True:
            signal.pause()
    """),
    answering("deaf_to_every_signal", "time_limit", "SIGXCPU and its like can be ignored; the hard limit cannot", """
        import signal
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
    """),
    answering("answers_when_told_that_time_is_up", "time_limit", "an answer from the SIGXCPU handler is late", """
        import signal, time
        def late(*_):
            while time.process_time() < 1.1:
                pass
            print(a + b, flush=True)
            raise SystemExit(0)
        signal.signal(signal.SIGXCPU, late)
        while True:
            pass
    """),
    answering("kills_its_own_group", "runtime_error", "the group of the program is not the warden's", """
        import os, signal
        os.kill(0, signal.SIGKILL)
    """),
    answering("kills_everybody_else", "passed", "there is nobody whom it may kill", """
        import os, signal
        for target in (1, -1, os.getppid()):
            for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGSEGV, signal.SIGKILL):
                if (target, number) == (-1, signal.SIGSTOP):
                    continue
                signal.signal(number, signal.SIG_IGN) if number in (15, 11) else None
                try:
                    os.kill(target, number)
                except OSError:
                    pass
    """),
    answering("keeps_orphans_from_dying", "passed", "death signals off, orphans adopted; all die nevertheless", """
        import ctypes, os, time
        prctl = ctypes.CDLL(None).prctl
        PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
        prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if os.fork() == 0:
            os.setsid()
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            for _ in range(10):
                if os.fork() == 0:
                    break
            time.sleep(60)
    """),
    answering("makes_the_warden_its_tracer", "runtime_error time_limit", "wait reports a ptrace stop like an end", """
        import ctypes, os, signal
        print(a + b, flush=True)
        ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
        os.kill(os.getpid(), signal.SIGTRAP)
        os._exit(0)
    """),
    answering("traces_the_warden", "passed", "attach and seize are refused; the sum is wrong if one is not", """
        import ctypes, os
        PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
        for request in (PTRACE_ATTACH, PTRACE_SEIZE):
            for target in {1, os.getppid()}:
                if ctypes.CDLL(None).ptrace(request, target, 0, 0) == 0:
                    a += 1
    """),
    answering("sends_signals_through_a_pipe", "passed", "F_SETOWN must not deliver what kill() may not", """
        import fcntl, os
        F_SETSIG, O_ASYNC = 10, 0o20000
        read, write = os.pipe()
        fcntl.fcntl(read, fcntl.F_SETOWN, 1)
        fcntl.fcntl(read, F_SETSIG, 9)
        fcntl.fcntl(read, fcntl.F_SETFL, O_ASYNC | os.O_NONBLOCK)
        for _ in range(100):
            os.write(write, b'x')
    """),
    answering("leaves_zombies_uncollected", "passed", "they count against the pids limit until they are collected", """
        import os
        for _ in range(40):
            if os.fork() == 0:
                os._exit(0)
    """),
    answering("becomes_another_program", "passed", "exec is legal and keeps descriptors 0, 1, 2", """
        import os, sys
        os.execv(sys.executable, [sys.executable, '-c', f'print({a} + {b})'])
    """),
    answering("daemon_threads_spin_at_the_end", "passed", "daemon threads do not hold up the end", """
        import threading
        def spin():
            while True:
                pass
        for _ in range(4):
            threading.Thread(target=spin, daemon=True).start()
    """),
    answering("thread_ends_the_process_first", "wrong_answer", "status 0 without an answer is not an answer", """
        import os, threading
        threading.Thread(target=os._exit, args=(0,)).start()
        threading.Event().wait()
    """),
    answering("cpu_time_of_awaited_children", "time_limit", "five children of 0.5 s make 2.5 s", """
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                while time.process_time() < 0.5:
                    pass
                os._exit(0)
            os.wait()
    """, PATIENT),
    answering("cpu_time_of_disowned_children", "time_limit", "SIGCHLD ignored: their time never reaches the parent", """
        import os, signal, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(5):
            read, write = os.pipe()
            if os.fork() == 0:
                while time.process_time() < 0.5:
                    pass
                os._exit(0)
            os.close(write)
            os.read(read, 1)
    """, PATIENT),
    answering("cpu_time_of_grandchildren", "time_limit", "orphans' time is not the first process's", """
        import os, time
        for _ in range(5):
            read, write = os.pipe()
            if os.fork() == 0:
                if os.fork():
                    os._exit(0)
                while time.process_time() < 0.5:
                    pass
                os._exit(0)
            os.wait()
            os.close(write)
            os.read(read, 1)
    """, PATIENT),
    answering("cpu_time_over_many_execs", "time_limit", "exec keeps the clock running", """
        import os, sys
        code = ('import os, sys, time; n = int(sys.argv[1]); end = time.process_time() + 0.5\\n'
                'while time.process_time() < end: pass\\n'
                'if n: os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], str(n - 1), sys.argv[2]])\\n'
                'print(sys.argv[2])')
        os.execv(sys.executable, [sys.executable, '-c', code, '5', str(a + b)])
    """, PATIENT),
    answering("sleeps_half_the_wall_limit", "passed", "waiting is allowed", "import time; time.sleep(1)"),
    answering("sleeps_a_little_for_ever", "time_limit", "each nap is short, their sum is not", """
        import time
        while True:
            time.sleep(0.01)
    """),
    answering("uses_half_its_cpu_time", "passed", "below the limit is below the limit, on a busy machine too", """
        import time
        while time.process_time() < 0.5:
            pass
    """),
)  # fmt: skip

DESCRIPTORS = (
    answering("closes_everything_after_the_answer", "passed runtime_error", "nothing is left to flush", """
        import os
        print(a + b, flush=True)
        os.closerange(0, 1024)
        os._exit(0)
    """),
    answering("closes_everything_before_the_answer", "wrong_answer runtime_error", "the answer goes nowhere", """
        import os
        os.closerange(0, 1024)
    """),
    answering("answers_on_stderr", "wrong_answer", "descriptor 1 is what counts, wherever it points", """
        import os
        os.dup2(2, 1)
    """),
    answering("swaps_stdout_and_back", "passed", "silencing a noisy library this way is honest", """
        import os
        kept, null = os.dup(1), os.open('/dev/null', os.O_WRONLY)
        os.dup2(null, 1)
        print('noise', flush=True)
        os.dup2(kept, 1)
    """),
    answering("garbage_into_every_descriptor", "passed", "only 1 and 2 lead out, and 2 is not judged", """
        import json, os, struct
        forged = json.dumps({'id': '1', 'cases': [{'status': 'ok', 'output': '5'}] * 2, 'dirty': False}).encode()
        for fd in [2, *range(3, 1024)]:
            for what in (struct.pack('>I', len(forged)) + forged, b'\\nvalue -\\n5', b'\\nheld -\\n', bytes(4096)):
                try:
                    os.write(fd, what)
                except OSError:
                    break
    """),
    stdin("forged_frame_as_output", "wrong_answer", "what is printed is only ever compared", """
        import json, struct, sys
        forged = json.dumps({'id': '1', 'cases': [{'status': 'ok', 'output': '5'}] * 2, 'dirty': False}).encode()
        sys.stdout.buffer.write(struct.pack('>I', len(forged)) + forged)
    """),
    answering("reopens_its_descriptors", "passed wrong_answer", "it may only spoil its own output", """
        import os
        for fd in os.listdir('/proc/self/fd'):
            for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_NONBLOCK):
                try:
                    other = os.open(f'/proc/self/fd/{fd}', flags)
                except OSError:
                    continue
                if int(fd) not in (1, 2):
                    try:
                        os.write(other, b'99 99')
                    except OSError:
                        pass
                os.close(other)
    """),
    answering("damages_its_input", "passed", "the next case has an input of its own", """
        import os
        for damage in (lambda: os.ftruncate(0, 0), lambda: os.pwrite(0, b'9 9', 0), lambda: os.lseek(0, 0, 2)):
            try:
                damage()
            except OSError:
                pass
    """),
    answering("looks_for_descriptors_of_others", "passed", "the sum is wrong if one opens", """
        import os
        for pid in filter(str.isdigit, os.listdir('/proc')):
            if int(pid) != os.getpid():
                for name in ('mem', 'environ', 'fd/0', 'fd/3', 'map_files', 'cwd/x', 'root'):
                    try:
                        os.close(os.open(f'/proc/{pid}/{name}', os.O_RDONLY))
                    except OSError:
                        continue
                    a += 1
    """),
    answering("uses_up_its_descriptors", "passed", "EMFILE is a program's own affair", """
        import os
        try:
            while True:
                os.dup(0)
        except OSError:
            pass
    """),
    answering("shrinks_its_pipe", "passed", "a pipe of one page, non-blocking: the reader must still get all", """
        import fcntl, os
        F_SETPIPE_SZ = 1031
        try:
            fcntl.fcntl(1, F_SETPIPE_SZ, 4096)
        except OSError:
            os.ftruncate(1, 0)  # a file
        os.set_blocking(2, False)
    """),
)  # fmt: skip

STREAMS = (
    stdin("output_without_newline", "output_limit", "a limit in bytes, not lines", """
        import sys
        while True:
            sys.stdout.write('x' * 1000)
    """),
    stdin("output_of_nothing_but_blanks", "output_limit", "blanks are free in comparison, not in size", """
        while True:
            print(' ' * 1000)
    """),
    answering("nul_after_the_answer", "wrong_answer", "NUL is no blank", "print(a + b, end='\\0')\na, b = '', ''"),
    answering("invalid_utf8_after_the_answer", "wrong_answer", "bytes that are no text equal no text", """
        import os
        os.write(1, b'\\xff\\xfe\\xc3\\x28')
    """),
    stdin("number_that_takes_long_to_compare", "wrong_answer", "the judge's own regular expressions backtrack", """
        print('1' * 60000 + 'x')
    """, tolerance=1e-6),
    stdin("number_beyond_floats", "wrong_answer", "infinite on one side, or on both", """
        print('1e999')
    """, (StdinCase("", "5"), StdinCase("", "1e998")), tolerance=1e-6),
    answering("almost_too_much_output", "passed", "60 of 64 KiB", "print('\\n' * (60 << 10))"),
    answering("stderr_is_not_judged", "passed", "logging to stderr is common", """
        import logging, warnings
        logging.basicConfig(level=logging.DEBUG)
        logging.debug('%s', a)
        warnings.warn('careful')
    """),
    stdin("reads_stdin_again", "passed", "the second read meets the end, not the beginning", """
        import sys
        a, b = map(int, sys.stdin.read().split())
        assert sys.stdin.read() == '' and sys.stdin.buffer.read() == b'' and sys.stdin.readline() == ''
        print(a + b)
    """),
    stdin("takes_stdin_for_a_terminal", "passed", "no terminal is there, nor one to be had", """
        import os, sys, termios
        assert not sys.stdin.isatty() and not os.isatty(1)
        for what in (lambda: os.open('/dev/tty', os.O_RDWR), lambda: os.ttyname(0), lambda: termios.tcgetattr(0)):
            try:
                what()
                print('bad')
            except (OSError, termios.error):
                pass
        print(sum(map(int, input().split())))
    """),
    stdin("input_until_eof", "passed", "EOFError comes after the last line", """
        total = 0
        try:
            while True:
                total += sum(map(int, input().split()))
        except EOFError:
            print(total)
    """),
    stdin("iterates_stdin_in_three_ways", "passed", "one buffer under all of them", """
        import fileinput, os, select
        select.select([0], [], [], 1)
        print(sum(int(word) for line in fileinput.input() for word in line.split()), end='')
    """),
    answering("buffer_left_to_the_end", "passed", "neither newline nor flush", """
        import sys
        sys.stdout.write(str(a + b))
        print = lambda *_: None
    """),
    answering("fast_output_class", "passed", "pyrival's idiom: a buffer of its own, flushed by its own flush", """
        import io, os, sys
        class Fast(io.IOBase):
            newlines = 0
            def __init__(self, file):
                self.fd, self.buffer = file.fileno(), io.BytesIO()
            def write(self, text):
                return self.buffer.write(text.encode())
            def flush(self):
                os.write(self.fd, self.buffer.getvalue())
                self.buffer.seek(0), self.buffer.truncate()
        sys.stdout = Fast(sys.stdout)
    """),
    answering("own_writer_for_stdout", "passed", "a detached buffer, and what wrapped it gone", """
        import codecs, sys
        sys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach())
    """),
)  # fmt: skip

_HUNT = """
        import re
        def memory():
            for line in open('/proc/self/maps'):
                span, mode, *_ = line.split()
                start, end = (int(part, 16) for part in span.split('-'))
                if mode.startswith('rw') and 'stack' not in line:
                    with open('/proc/self/mem', 'rb', 0) as file:
                        try:
                            file.seek(start)
                            yield file.read(end - start)
                        except (OSError, ValueError, OverflowError):
                            pass
"""
"""Reads all writable memory of its own process, what was freed before the fork included."""

INTERPRETER = (
    stdin("expected_output_in_memory", "wrong_answer", "expected outputs never enter the sandbox", _HUNT + """
        found = [match.group() for piece in memory() for match in re.finditer(rb'8847362519\\d\\d', piece)]
        print(found[0].decode() if found else 'none')
    """, (StdinCase("2 3\n", str(SECRET)),)),
    stdin("expected_output_among_objects", "wrong_answer", "nor as objects, in frames or anywhere else", """
        import gc, sys
        seen, todo = set(), [sys._getframe(), *sys._current_frames().values(), *gc.get_objects()]
        while todo and len(seen) < 200000:
            thing = todo.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            if isinstance(thing, (str, bytes)) and len(thing) == 12 and '8847362519' in str(thing):
                print(thing)
            todo += gc.get_referents(thing)
    """, (StdinCase("2 3\n", str(SECRET)),)),
    answering("breaks_the_builtins", "passed runtime_error", "its end leans on what it broke: its own harm", """
        import builtins
        kept = print
        for name in ('open', 'len', 'isinstance', 'type', 'issubclass', 'iter', 'next', 'str', 'bytes', 'int', 'exec',
                     'BaseException', 'Exception', 'SystemExit', 'OSError', 'memoryview', 'getattr', 'print'):
            setattr(builtins, name, None)
        kept(a + b)
        print = lambda *_: None
    """),
    answering("poisons_the_modules", "passed runtime_error", "names that our code in its process uses, taken away", """
        import atexit, gc, io, json, os, signal, sys, threading, time, types
        for module in (json, types, signal, time, gc, io):
            for name in [name for name in vars(module) if not name.startswith('__')]:
                setattr(module, name, None)
        os.write = os.read = os.fstat = os.pread = os.close = os.fork = None
        for name in ('json', 'types', 'os', 'struct', 're', 'builtins', '__main__'):
            sys.modules[name] = None
    """),
    answering("end_of_process_patched_away", "passed wrong_answer runtime_error", "running on gains nothing", """
        import os, sys
        os._exit = sys.exit = lambda *_: None
    """),
    stdin("runs_on_into_the_judge", "failed", "after a patched exit it is still a program without an answer", """
        import os, sys
        os._exit = lambda status: None
        for frame in sys._current_frames().values():
            while frame := frame.f_back:
                frame.f_globals.update(Verdict='passed', main=None, run_case=None, OVER=())
    """),
    answering("traces_to_the_end", "passed runtime_error", "a trace function that raises in frames not its own", """
        import sys
        def trap(frame, event, arg):
            raise SystemExit(0)
        print(a + b, flush=True)
        a = b = ''
        sys.settrace(trap)
        sys.setprofile(trap)
    """),
    answering("atexit_says_something_else", "wrong_answer", "what atexit prints belongs to the answer", """
        import atexit
        atexit.register(print, 7)
    """),
    answering("atexit_leaves_before_the_flush", "wrong_answer", "real Python loses the buffer as well", """
        import atexit, os
        atexit.register(os._exit, 0)
    """),
    answering("atexit_never_returns", "time_limit", "the end counts too", """
        import atexit, threading
        atexit.register(threading.Event().wait)
    """),
    answering("hides_its_exception", "passed", "as in real Python: the hook decided on status 0", """
        import os, sys
        print(a + b, flush=True)
        sys.excepthook = lambda *_: os._exit(0)
        raise ValueError
    """),
    answering("finalizer_answers", "passed", "globals are cleared at the end, so finalizers run", """
        class Late:
            def __del__(self, print=print, total=a + b):
                print(total)
        late = Late()
        print = lambda *_: None
    """),
    answering("base_exception_at_top", "runtime_error", "not an Exception, still an error", """
        print(a + b)
        class Odd(BaseException):
            pass
        raise Odd
    """),
    answering("exception_that_cannot_be_shown", "runtime_error", "its __str__ raises in whoever shows it", """
        class Odd(Exception):
            def __str__(self):
                raise SystemExit(0)
            __repr__ = __str__
        raise Odd
    """),
    answering("generator_exit_at_top", "runtime_error", "only SystemExit may end well", "raise GeneratorExit"),
    answering("aborts_after_the_answer", "runtime_error", "SIGABRT", "print(a + b, flush=True)\nimport os; os.abort()"),
)  # fmt: skip

RESOURCES = (
    answering("deep_recursion_in_c", "runtime_error memory_limit", "an overflow of the C stack, SIGSEGV", """
        import sys
        sys.setrecursionlimit(10**9)
        def down(_):
            return sorted([1], key=down)
        down(0)
    """),
    answering("deep_recursion_in_python", "runtime_error memory_limit time_limit", "3.11 keeps frames on the heap", """
        import sys
        sys.setrecursionlimit(10**9)
        def down(n):
            return down(n + 1)
        down(0)
    """, PATIENT),
    answering("deep_nesting", "runtime_error", "RecursionError from repr", """
        nested = []
        for _ in range(10**5):
            nested = [nested]
        repr(nested)
    """),
    answering("quadratic_integer_parsing", "time_limit", "one call into C that no signal handler interrupts", """
        int('9' * 10**7)
    """),
    answering("catastrophic_regex", "time_limit", "the same in the regex engine", """
        import re
        re.match(r'(a|aa|a*b?)*$', 'a' * 60 + 'c')
    """),
    answering("many_small_objects", "memory_limit", "no single request is large", """
        kept = []
        while True:
            kept.append([len(kept)])
    """, PATIENT),
    answering("one_huge_integer", "memory_limit", "refused at once", "1 << (1 << 36)"),
    answering("string_doubling", "memory_limit", "MemoryError that nobody catches", """
        text = 'x'
        while True:
            text += text
    """),
    answering("shared_mapping", "memory_limit", "MAP_SHARED is not private memory, but memory all the same", """
        import mmap
        block = mmap.mmap(-1, 180 << 20)
        for offset in range(0, len(block), 4096):
            block[offset] = 1
    """),
    answering("memory_in_descriptors", "memory_limit runtime_error", "memfds are memory that no mapping shows", """
        import os
        for _ in range(8):
            os.write(fd := os.memfd_create('x'), b'x')
            for _ in range(24):
                os.write(fd, bytes(1 << 20))
    """),
    answering("memory_that_kills_the_warden", "memory_limit runtime_error", "it must not take the judge", """
        import os
        open('/proc/self/oom_score_adj', 'w').write('0')
        while True:
            fd = os.memfd_create('x')
            for _ in range(30):
                os.write(fd, bytes(1 << 20))
    """, PATIENT),
    answering("memory_of_many_small_processes", "memory_limit time_limit", "the largest process is the warden", """
        import os, time
        open('/proc/self/oom_score_adj', 'w').write('0')
        for _ in range(6):
            try:
                os.fork()
            except OSError:
                pass
        kept = []
        while True:
            kept.append(bytes(1 << 16))
            time.sleep(0.001)
    """, PATIENT),
    answering("memory_in_pipes", "passed runtime_error memory_limit", "pipe buffers are bounded by the kernel", """
        import os
        for _ in range(100):
            read, write = os.pipe()
            os.set_blocking(write, False)
            try:
                os.write(write, bytes(1 << 16))
            except BlockingIOError:
                pass
    """),
    answering("memory_of_children", "memory_limit", "the limit is the program's, not each process's", """
        import os, time
        pids = []
        for _ in range(2):
            read, write = os.pipe()
            if (pid := os.fork()) == 0:
                block = bytearray(b'x') * (90 << 20)
                os.write(write, b'x')
                time.sleep(60)
            os.close(write)
            os.read(read, 1)
    """),
    answering("fills_the_scratch", "runtime_error memory_limit", "the scratch is bounded", """
        with open('big', 'wb') as file:
            while True:
                file.write(bytes(1 << 20))
    """),
    answering("raises_its_limits", "passed", "hard limits only go down; the sum is wrong if one goes up", """
        import resource
        for name in ('CPU', 'FSIZE', 'DATA', 'AS', 'NOFILE', 'CORE', 'NPROC', 'MEMLOCK', 'NICE', 'RTPRIO'):
            what = getattr(resource, 'RLIMIT_' + name)
            soft, hard = resource.getrlimit(what)
            try:
                resource.setrlimit(what, (hard, hard))
                if hard != resource.RLIM_INFINITY:
                    resource.setrlimit(what, (hard + 1, hard + 1))
                    a += 1
            except (ValueError, OSError):
                pass
    """),
    answering("time_limit_raised_to_the_hard_one", "time_limit", "the second between soft and hard is no gift", """
        import resource
        resource.setrlimit(resource.RLIMIT_CPU, (resource.getrlimit(resource.RLIMIT_CPU)[1],) * 2)
        import time
        while time.process_time() < 1.6:
            pass
    """, PATIENT),
)  # fmt: skip

FILES = (
    answering("sparse_file", "passed runtime_error", "its size is a promise only", """
        import os
        with open('sparse', 'wb') as file:
            os.truncate(file.fileno(), 31 << 20)
    """),
    answering("too_many_files", "passed", "inodes are bounded as well", """
        try:
            for number in range(5000):
                open(str(number), 'w').close()
        except OSError:
            pass
    """),
    answering("deep_directories", "passed", "longer than any path; the sweep must not recurse to death", """
        import os
        try:
            for _ in range(900):
                os.mkdir('d' * 200)
                os.chdir('d' * 200)
        except OSError:
            pass
    """),
    answering("symlinks_everywhere", "passed", "loops, and links out of the scratch that must not be followed", """
        import os
        os.symlink('loop', 'loop')
        os.makedirs('d/e')
        for number, target in enumerate(('/', '/proc/self/root', '/usr/lib', '..', '/tmp', '/proc/1/cwd')):
            os.symlink(target, f'd/e/{number}')
            os.symlink(target, str(number))
        os.chmod('d/e', 0o500)
    """),
    answering("fifos_and_sockets", "passed", "opening a FIFO would block whoever cleans", """
        import os, socket
        os.mkfifo('pipe', 0)
        os.mkdir('d')
        os.mkfifo('d/pipe')
        socket.socket(socket.AF_UNIX).bind('d/socket')
    """),
    answering("names_that_are_no_text", "passed", "newlines, leading dashes, bytes that are no UTF-8", """
        import os
        for name in (b'a\\nb', b'-rf', b'\\xff\\xfe', b' ', b'*', b'...', b'\\x1b[2J', b'x' * 255):
            open(name, 'w').close()
            os.makedirs(b'd' + name[:200] + b'/' + name)
    """),
    answering("locked_directories", "passed", "mode 000 at several depths", """
        import os
        os.makedirs('a/b/c/d')
        open('a/b/c/file', 'w').close()
        for path in ('a/b/c/d', 'a/b/c/file', 'a/b/c', 'a/b', 'a'):
            os.chmod(path, 0)
    """),
    answering("removes_its_own_folder", "passed", "the working directory is gone", """
        import os
        os.mkdir('here')
        os.chdir('here')
        os.rmdir('/tmp/here')
    """),
    answering("claims_the_scratch", "passed", "it is not its own: mode, name and times stay; the sum tells", """
        import os
        for claim in (lambda: os.chmod('/tmp', 0), lambda: os.rename('/tmp', '/tmq'), lambda: os.rmdir('/tmp'),
                      lambda: os.chown('/tmp', os.getuid(), -1), lambda: os.utime('/tmp', (1, 1))):
            try:
                claim()
                a += 1
            except OSError:
                pass
    """),
    answering("holds_locks_and_watches_in_a_daemon", "passed", "locks, leases and watches die with their holder", """
        import ctypes, fcntl, os, sys, time
        if os.fork() == 0:
            os.setsid()
            file = open('locked', 'w')
            fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.flock(open(sys.executable, 'rb'), fcntl.LOCK_SH)
            libc = ctypes.CDLL(None)
            libc.inotify_add_watch(libc.inotify_init(), b'/tmp', 0xfff)
            os.unlink('locked')
            time.sleep(60)
        time.sleep(0.05)
    """),
)  # fmt: skip

LEFTOVERS = (
    answering("locked_and_deep", "passed", "mode 000 at 400 levels: neither path nor permission leads down", """
        import os
        for _ in range(400):
            os.mkdir('d' * 100)
            os.chdir('d' * 100)
        for _ in range(400):
            os.chdir('..')
            os.chmod('d' * 100, 0)
    """),
    answering("every_inode_a_fifo", "passed", "1000 FIFOs of mode 000, in folders", """
        import os
        try:
            for number in range(1100):
                os.makedirs(f'd{number % 50}', exist_ok=True)
                os.mkfifo(f'd{number % 50}/{number}', 0)
        except OSError:
            pass
    """),
    answering("set_uid_files", "passed", "nosuid and noexec; bits that may hinder whoever wipes", """
        import os, shutil, sys
        os.makedirs('d/e')
        for name in ('d/x', 'd/e/x'):
            shutil.copy('/bin/true' if os.path.exists('/bin/true') else os.__file__, name)
            os.chmod(name, 0o6777)
        os.chmod('d/e', 0o3000)
        os.chmod('d', 0o7000)
    """),
    answering("scratch_full_and_locked", "passed", "not one byte free when the next case begins", """
        import os
        os.makedirs('d')
        try:
            for number in range(40):
                with open(f'd/{number}', 'wb') as file:
                    file.write(bytes(1 << 20))
        except OSError:
            pass
        os.chmod('d', 0)
    """),
    answering("process_flags_of_all_kinds", "passed", "names, timer slack, no-new-privileges, dumpable, a filter", """
        import ctypes
        prctl = ctypes.CDLL(None).prctl
        for option, value in ((15, b'python3'), (4, 0), (4, 1), (4, 2), (29, 1), (31, 1), (38, 1), (1, 9), (41, 1)):
            prctl(option, value, 0, 0, 0)
    """),
    answering("undumpable_and_stopped", "time_limit", "its /proc entries belong to root then", """
        import ctypes, os, signal
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        if os.fork():
            os.kill(os.getpid(), signal.SIGSTOP)
    """),
    answering("strict_seccomp_on_itself", "passed", "refused: there is a filter already", """
        import ctypes
        ctypes.CDLL(None).prctl(22, 1, 0, 0, 0)
    """),
    answering("nobody_may_die_of_old_age", "passed", "RLIMIT_CPU cannot rise, other limits fall to nothing", """
        import resource
        for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
            resource.setrlimit(what, (0, 0))
    """),
    answering("no_byte_more", "passed runtime_error", "what it prints goes to a file, where another case follows", """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    """),
)  # fmt: skip

_DOORS = """
        import ctypes, platform
        a, b = map(int, input().split())
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        column = {'x86_64': 0, 'aarch64': 1}[platform.machine()]
        zeros = ctypes.create_string_buffer(256)
        print(a + b if syscall(%s[column], %s) == -1 else 'an open door')
"""


def _door(name, why, numbers, arguments):
    return stdin(f"door_{name}", "passed", why, _DOORS % (numbers, arguments))


DOORS = (
    _door("io_uring", "a large surface, and I/O outside of the seccomp filter", (425, 425), "8, zeros"),
    _door("userfaultfd", "stalls the kernel at will, the exploit writer's friend", (323, 282), "1"),
    _door("user_namespace", "gives root over a surface that was never meant for users", (272, 97), "0x10000000"),
    _door("mount_namespace", "the first step to a mount", (272, 97), "0x20000"),
    _door("mount", "nothing may be mounted", (165, 40), "b'none', b'/tmp', b'tmpfs', 0, 0"),
    _door("bpf", "programs in the kernel", (321, 280), "0, zeros, 72"),
    _door("perf_event_open", "sees other processes", (298, 241), "zeros, 0, -1, -1, 0"),
    _door("add_key", "keyrings outlive processes", (248, 217), "b'user', b'name', b'text', 4, -4"),
    _door("keyctl", "keyrings outlive processes", (250, 219), "0, -4, 1"),
    _door("personality", "turns address randomisation off", (135, 92), "0x0040000"),
    _door("fanotify", "watches the whole mount", (300, 262), "0, 0"),
    _door("kcmp", "compares kernel pointers of processes", (312, 272), "1, 1, 0, 0, 0"),
    _door("open_by_handle_at", "opens files past every path check", (304, 265), "-100, zeros, 0"),
    _door("chroot", "only for root", (161, 51), "b'/tmp'"),
    _door("process_vm_readv", "the warden's memory", (310, 270), "1, zeros, 1, zeros, 1, 0"),
    _door("prlimit_of_the_warden", "its limits are not the program's to set", (302, 261), "1, 7, zeros, 0"),
    _door("vsock", "leads to the hypervisor; no network namespace holds it", (41, 198), "40, 1, 0"),
    _door("alg_socket", "kernel crypto: a surface that no program needs", (41, 198), "38, 5, 0"),
    _door("packet_socket", "raw network", (41, 198), "17, 3, 0"),
)
"""System calls that must be refused."""

_EQUAL = """
        class Equal:
            __eq__ = __le__ = __ge__ = __contains__ = lambda self, other: True
            __ne__ = __lt__ = __gt__ = lambda self, other: False
            __hash__ = lambda self: 0
            __sub__ = __rsub__ = __abs__ = __round__ = __getitem__ = lambda self, *_: self
            __len__ = __int__ = __index__ = lambda self: 1
            __float__ = lambda self: 1.0
            __bool__ = lambda self: True
            __iter__ = lambda self: iter((self,))
            __str__ = __repr__ = lambda self: '5'
            __class__ = int
"""
_LINK = """
        import os, sys, threading
        def nonces():
            for frame in list(sys._current_frames().values()):
                while frame:
                    for value in list(frame.f_locals.values()):
                        for item in (value, *getattr(value, '__dict__', {}).values()):
                            text = item.decode('latin1') if isinstance(item, bytes) else item
                            if isinstance(text, str) and len(text) == 32 and not text.strip('0123456789abcdef'):
                                yield text.encode()
                    frame = frame.f_back
        def state(status, payload=b'', length=None, fd=3):
            length = len(payload) if length is None else length
            for nonce in set(nonces()):
                rest = b'%s %s %s\\n%s' % (nonce, status, str(length).encode(), payload)
                while rest:
                    rest = rest[os.write(fd, rest):]
"""
"""`state(status, payload)`: speaks over the link in the judge's name, with what looks like its nonce in any frame.

`forged_statement_right_value` and its like prove that this works: else all that use it would pass without testing.
"""
_WIRE = """
        import json, os, struct, sys
        judge = sys._getframe(1).f_globals['Server'].serve.__globals__
        kept = judge['send']
        def change_answers(change):
            judge['send'] = lambda fd, message: kept(fd, change(message))
        def raw(payload, length=None):
            os.write(6, struct.pack('>I', len(payload) if length is None else length) + payload)
        def tell(message):
            raw(json.dumps(message).encode())
"""
"""`change_answers(f)`: what our code says to the checker goes through `f`; `tell` says something of its own."""


def _forged(name, statement):
    """Of style `call`: states something odd as its value in the name of the judge, then ends."""
    return call(f"forged_statement_{name}", "failed", "a statement is data from an adversary", _LINK + f"""
        def add(a, b):
            state(b'value', b'[' + {statement} + b']')
            os._exit(0)
    """)  # fmt: skip


def _stated(name, allowed, why, attack, limits=LIMITS):
    """Of style `call`: does `attack`, then returns the right value."""
    body = textwrap.indent(textwrap.dedent(attack).strip(), " " * 12)
    return call(f"stated_{name}", allowed, why, _LINK + f"        def add(a, b):\n{body}\n            return a + b\n",
                limits=limits)  # fmt: skip


def _ended(name, allowed, why, program, cases=SUM, limits=LIMITS):
    """Of style `stdin`, with the link: a script has one as long as it has cases before it."""
    body = textwrap.indent(textwrap.dedent(program), " " * 8)
    return stdin(f"ended_{name}", allowed, why, _LINK + body, cases, limits)


def _wired(name, allowed, why, program, cases="assert add(2, 3) + 0 == 5", limits=LIMITS):
    """Of style `assert`, with the wire to the checker (a test of a plain form would become a call)."""
    body = textwrap.indent(textwrap.dedent(program), " " * 8)
    return asserts(f"wire_{name}", allowed, why, _WIRE + body, cases, limits)


VALUES = (
    call("value_equal_to_everything", "failed", "compared outside, by exact type", _EQUAL + """
        def add(a, b):
            return Equal()
    """),
    call("values_equal_to_everything_inside", "failed", "also inside of containers", _EQUAL + """
        def add(a, b):
            return [Equal(), Equal()]
    """, (CallCase([2, 3], [5, 6]),)),
    call("metaclass_that_lies", "failed", "type() cannot be overridden, isinstance can", """
        class Meta(type):
            __eq__ = __instancecheck__ = __subclasscheck__ = lambda *_: True
            __hash__ = type.__hash__
            def __getattribute__(cls, name):
                return int if name == '__class__' else type.__getattribute__(int, name)
        class Odd(metaclass=Meta):
            pass
        def add(a, b):
            return Odd if a == 2 else Odd()
    """),
    call("integer_that_lies", "wrong_answer", "its value is what it holds, not what its methods say", """
        class Odd(int):
            __int__ = __index__ = __trunc__ = lambda self: 5
            __repr__ = __str__ = lambda self: '5'
            __eq__ = lambda self, other: True
            __hash__ = int.__hash__
        def add(a, b):
            return Odd(99)
    """),
    call("list_that_lies", "wrong_answer", "empty, whatever it says when iterated", """
        class Odd(list):
            __iter__ = lambda self: iter([5, 6])
            __len__ = lambda self: 2
            __getitem__ = lambda self, index: [5, 6][index]
            __eq__ = lambda self, other: True
        def add(a, b):
            return Odd()
    """, (CallCase([2, 3], [5, 6]),)),
    call("dict_that_lies", "wrong_answer", "empty as well", """
        class Odd(dict):
            items = lambda self: [('sum', 5)]
            keys = lambda self: ['sum']
            __getitem__ = __missing__ = lambda self, key: 5
            __len__ = lambda self: 1
        def add(a, b):
            return Odd()
    """, (CallCase([2, 3], {"sum": 5}),)),
    call("text_that_lies", "wrong_answer", "a str with other opinions", """
        class Odd(str):
            __str__ = __repr__ = lambda self: 'five'
            encode = lambda self, *_: b'five'
            __eq__ = lambda self, other: True
            __hash__ = str.__hash__
        def add(a, b):
            return Odd('six')
    """, (CallCase([2, 3], "five"),)),
    call("two_keys_spelled_alike", "wrong_answer", "1 and '1' are one key in JSON only", """
        def add(a, b):
            return {'1': 5, 1: 6}
    """, (CallCase([2, 3], {"1": 5}),)),
    call("generator", "wrong_answer runtime_error", "no value", "def add(a, b):\n    yield a + b"),
    call("iterator_for_a_list", "wrong_answer runtime_error", "nor is an iterator a list", """
        def add(a, b):
            return iter([5, 6])
    """, (CallCase([2, 3], [5, 6]),)),
    call("endless_iterator", "wrong_answer runtime_error", "nobody iterates it", """
        import itertools
        def add(a, b):
            return itertools.count()
    """),
    call("bomb_in_repr_and_reduce", "failed", "neither repr, pickle, copy nor attribute access touches it", """
        import os
        class Bomb:
            def boom(self, *_):
                os._exit(0)
            __repr__ = __str__ = __reduce__ = __reduce_ex__ = __getstate__ = __getattr__ = __getattribute__ = boom
            __eq__ = __hash__ = __iter__ = __len__ = __bool__ = __deepcopy__ = __format__ = __sizeof__ = boom
        def add(a, b):
            return Bomb()
    """),
    call("shared_references", "output_limit", "small in memory, endless when written out", """
        def add(a, b):
            value = 5
            for _ in range(99):
                value = [value, value]
            return value
    """),
    call("deep_value", "failed", "must crash neither side", """
        def add(a, b):
            value = []
            for _ in range(10**5):
                value = [value]
            return value
    """),
    call("integer_without_end", "failed", "10**5 digits", "def add(a, b):\n    return 10**100000"),
    call("half_a_character", "wrong_answer", "lone surrogates travel", "def add(a, b):\n    return '\\ud800'"),
    call("value_in_memory", "failed", "expected values never enter the sandbox", _HUNT + """
        def add(a, b):
            found = [match.group() for piece in memory() for match in re.finditer(rb'8847362519\\d\\d', piece)]
            return int(found[0]) if found else 0
    """, (CallCase([2, 3], SECRET), CallCase([10, -4], SECRET))),
    _forged("too_deep", "b'[' * 100000"),
    _forged("too_deep_in_tags", "b'{\"t\":[' * 8000 + b']}' * 8000"),
    _forged("unhashable_members", "b'{\"s\":[[1],{\"d\":[]}]}'"),
    _forged("number_of_a_million_digits", "b'9' * 60000"),
    _forged("float_from_a_huge_integer", "b'{\"f\":1' + b'0' * 400 + b'}'"),
    _forged("complex_from_a_huge_integer", "b'{\"c\":[1' + b'0' * 400 + b',0]}'"),
    _forged("no_pairs", "b'{\"d\":[[]]}'"),
    _forged("mixed_keys_in_a_set", "b'{\"s\":[{\"t\":[{\"f\":\"nan\"},null]},1,{\"c\":[\"1\",\"2\"]}]}'"),
    _forged("no_json", "b'NaN Infinity \\xff\\x00'"),
    _forged("opaque", "b'{\"?\":0}'"),
    _forged("more_values_than_calls", "b'%d,%d' % (a + b, a + b)"),
    _forged("no_value", "b''"),
    _forged("unknown_tag", "b'{\"h\":0}'"),
    _forged("two_tags", "b'{\"t\":[5],\"q\":[5]}'"),
    _forged("fraction_without_denominator", "b'{\"F\":[5,0]}'"),
    _forged("decimal_that_signals", "b'{\"D\":\"sNaN\"}'"),
    _forged("decimal_beyond_everything", "b'{\"D\":\"1E+999999999999999999\"}'"),
    _forged("range_without_end", "b'{\"r\":[0,' + b'9' * 4000 + b',1]}'"),
    _forged("wrong_statement_twice", "b'0'); state(b'value', b'[0]' + b''"),
    call("forged_statement_right_value", "passed", "a value is a value, whoever states it; proves that `state` works",
         _LINK + """
        def add(a, b):
            state(b'value', b'[%d]' % (a + b))
            os._exit(0)
    """),
    call("forged_statement_hash_flood", "failed", "members that all have the hash 0 make a set quadratic, on the host",
         _LINK + """
        def add(a, b):
            prime = (1 << 61) - 1
            state(b'value', b'[{"s":[%s]}]' % ','.join(str(k * prime) for k in range(1, 80000)).encode())
            os._exit(0)
    """, limits=WORDY),
    call("forged_statement_hash_flood_of_keys", "failed", "the same with the keys of a dict", _LINK + """
        def add(a, b):
            prime = (1 << 61) - 1
            state(b'value', b'[{"d":[%s]}]' % ','.join(f'[{k * prime},0]' for k in range(1, 70000)).encode())
            os._exit(0)
    """, limits=WORDY),
    call("forged_statement_padded", "passed output_limit", "right values, 2 MiB of blanks each, all in the warden",
         _LINK + """
        def add(a, b):
            state(b'value', b'[%d%s]' % (a + b, b' ' * ((2 << 20) - 100)))
            for item in __import__('json').loads(os.pread(5, 1 << 20, 0))[1:]:
                x, y = item['calls'][0]['args']
                state(b'value', b'[%d%s]' % (x + y, b' ' * ((2 << 20) - 100)))
            os._exit(0)
    """, tuple(CallCase([n, 1], n + 1) for n in range(112)), ROOMY),
    *(call(f"forged_header_{name}", "failed", "half a statement is none", _LINK + f"""
        def add(a, b):
            {attack}
            os._exit(0)
    """) for name, attack in (
        ("negative_length", "state(b'value', b'[5]', length=-3)"),
        ("huge_length", "state(b'value', b'[5]', length=999999999)"),
        ("length_of_ten_digits", "state(b'value', b'[5]', length=1000000003)"),
        ("length_in_other_digits", "state(b'value', b'[5]', length='\\u0663')"),
        ("too_short", "state(b'value', b'[5]', length=2)"),
        ("without_status", "state(b'', b'[5]')"),
        ("status_without_end", "state(b'v' * 100000, b'[5]')"),
        ("nonce_alone", "[os.write(3, nonce * 100) for nonce in set(nonces())]"),
        ("nonce_in_a_payload", "[state(b'odd', nonce + b' value 3\\n[0]') for nonce in set(nonces())]"),
        ("half_and_gone", "state(b'value', b'[5', length=3)"),
    )),
    _stated("value_then_crash", "passed runtime_error", "the value was stated before", """
        state(b'value', b'[%d]' % (a + b))
        os.abort()
    """),
    _stated("value_twice", "passed wrong_answer", "the second counts for the next case: its own harm", """
        state(b'value', b'[%d]' % (a + b))
    """),
    _stated("what_only_others_say", "passed", "the checker's and the warden's words are not a program's", """
        for status in (b'held', b'ok', b'skipped', b'time_limit', b'gone', b'done', b'end', b'stray', b'dirty', b'odd'):
            state(status, b'0')
    """),
    _stated("more_cases_than_asked", "failed", "all after the last is ignored; the first are wrong", """
        for _ in range(100):
            state(b'value', b'[0]')
    """),
    _stated("by_a_forked_child", "failed", "a child has the link as well; what it states is the program's word", """
        if os.fork() == 0:
            state(b'value', b'[0]')
            os._exit(0)
        while True:
            pass
    """),
    _stated("by_a_thread", "passed time_limit", "a right value, while the main thread never returns", """
        threading.Timer(0.1, state, (b'value', b'[%d]' % (a + b))).start()
        threading.Event().wait()
    """),
    _stated("late", "time_limit", "a right value after the time is up", """
        import time
        while time.process_time() < 2:
            pass
        state(b'value', b'[%d]' % (a + b))
    """, PATIENT),
    _stated("confined_as_a_sleeper", "time_limit", "whose clock is read was settled before the program began", """
        import time
        if not (child := os.fork()):
            time.sleep(60)
        for pid in (1, 2, os.getppid(), child, os.getpid() - 1, os.getpid() + 2, 2**31 - 1):
            state(b'confined', str(pid).encode())
        while time.process_time() < 2.5:
            pass
    """, PATIENT),
    _stated("confined_as_no_number", "any", "a statement cannot be a failure of the machinery", """
        state(b'confined', b'x')
    """),
    _stated("confined_as_a_negative_number", "any", "nor with a number", "state(b'confined', b'-1')"),
    _stated("fault", "any", "what is confined can no longer fail to be", "state(b'fault', b'no more rights')"),
    _stated("statements_without_end", "passed runtime_error time_limit output_limit", "a flood over the link", """
        while True:
            for _ in range(1000):
                state(b'odd', b'x' * 100)
            if time_is_up():
                break
    """.replace("time_is_up()", "__import__('time').process_time() > 0.5")),
    _stated("through_an_exec", "failed", "exec keeps what is made inheritable", """
        os.set_inheritable(3, True)
        code = f'import os; os.write(3, {list(nonces())[0]!r} + b" value 3\\\\n[0]")'
        os.execv(sys.executable, [sys.executable, '-c', code])
    """),
    _stated("task_rewritten", "failed", "other calls give other values, the expected ones stay", """
        os.pwrite(5, os.pread(5, 1 << 16, 0).replace(b'10', b'77'), 0)
        state(b'value', b'[0]')
    """),
)  # fmt: skip

ENDS = (
    _ended("in_a_loop_of_its_own", "passed", "a script may play our part: proves that `state` works for scripts", """
        task = os.pread(5, 1 << 16, 0)
        at = 16
        for place in (0, 8):
            size = int.from_bytes(task[place : place + 8], 'big')
            answer = b'%d' % sum(map(int, task[at : at + size].split()))
            at += size
            state(b'end', b'0 %d\\n%s' % (len(answer), answer))
        os._exit(1)
    """),
    _ended("at_once_for_all", "failed", "ends without answers", """
        for _ in range(5):
            state(b'end', b'0 0\\n')
    """),
    _ended("with_a_superscript", "failed", "a digit to isdigit()", "state(b'end', chr(0xb2).encode() + b' 0\\n')"),
    _ended("with_a_minus", "failed", "no status", "state(b'end', b'-0 0\\n')"),
    _ended("with_more_than_it_printed", "failed", "a size beyond what follows", "state(b'end', b'0 999999999\\n')"),
    _ended("with_a_status_of_many_digits", "failed", "takes the warden half a minute to read, and to write out", """
        state(b'end', b'9' * (2 << 20))
    """, limits=WORDY),
    _ended("with_a_fault", "failed", "not the machinery's", "state(b'fault', b'x')"),
    _ended("with_a_pid", "failed", "not the machinery's either", "state(b'confined', b'x')"),
    _ended("by_a_forked_child", "failed", "a child that ends while the parent loops has not answered", """
        if os.fork() == 0:
            state(b'end', b'0 0\\n')
            os._exit(0)
        while True:
            pass
    """),
    answering("ended_twice_by_fork_and_exit", "passed", "a child that leaves by sys.exit is no end of the program", """
        import os, sys
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
    """),
    answering("ended_with_our_descriptors_closed", "passed", "those above 2 are none of a script's: daemons do so", """
        import os
        os.closerange(3, 256)
    """),
    answering("ended_with_others_in_their_place", "passed runtime_error wrong_answer", "dup over all", """
        import os
        for fd in range(3, 100):
            os.dup2(0, fd)
    """),
    answering("child_takes_the_word_to_go_on", "passed time_limit", "the next case waits, then has a process", """
        import os
        if os.fork() == 0:
            os.setsid()
            try:
                while os.read(3, 1):
                    pass
            except OSError:
                pass
            os._exit(0)
    """),
    answering("child_rewrites_the_next_input", "passed wrong_answer runtime_error", "it spoils its own input", """
        import os, fcntl
        if os.fork() == 0:
            os.setsid()
            try:
                fcntl.fcntl(5, 1033, 15)  # F_ADD_SEALS: shrink, grow, write, seal
            except OSError:
                pass
            try:
                while True:
                    os.pwrite(5, b'7 7 ', 0)
                    os.ftruncate(5, 3)
            except OSError:
                pass
            os._exit(0)
    """),
    answering("child_stops_who_wipes", "passed runtime_error time_limit", "who wipes has its uid, or may not", """
        import os, signal
        for number in range(300):
            os.makedirs(f'/tmp/{number:03}/e')
        if os.fork() == 0:
            os.setsid()
            while len(os.listdir('/tmp')) == 300:
                pass
            os.kill(-1, signal.SIGSTOP)
    """),
    answering("child_kills_who_wipes", "passed runtime_error time_limit", "likewise", """
        import os, signal
        for number in range(300):
            os.makedirs(f'/tmp/{number:03}/e')
        if os.fork() == 0:
            os.setsid()
            while len(os.listdir('/tmp')) == 300:
                pass
            os.kill(-1, signal.SIGKILL)
    """),
    answering("no_process_left_to_wipe_with", "passed runtime_error", "who wipes is forked, and no pid is free", """
        import os, time
        os.makedirs('/tmp/d/e')
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
        except OSError:
            pass
    """),
    answering("child_races_who_wipes", "passed runtime_error time_limit", "folders grow while they are emptied", """
        import os
        os.makedirs('/tmp/d/e')
        if os.fork() == 0:
            os.setsid()
            number = 0
            while True:
                number += 1
                try:
                    os.makedirs(f'/tmp/{number % 30}/{number % 31}/{number % 37}/{number}')
                except OSError:
                    pass
    """),
    stdin("cpu_time_late_in_a_session", "time_limit", "disowned children in the last of nine cases", """
        import os, signal, time
        a, b = map(int, input().split())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(5 if a == 8 else 0):
            read, write = os.pipe()
            if os.fork() == 0:
                while time.process_time() < 0.5:
                    pass
                os._exit(0)
            os.close(write)
            os.read(read, 1)
        print(a + b)
    """, tuple(StdinCase(f"{n} 1\n", str(n + 1)) for n in range(9)), PATIENT),
    stdin("cpu_time_below_the_limit_in_each_case", "passed", "four times 0.6 s of 1 s are fine", """
        import time
        end = time.process_time() + 0.6
        while time.process_time() < end:
            pass
        print(sum(map(int, input().split())))
    """, tuple(StdinCase(f"{n} 1\n", str(n + 1)) for n in range(4)), PATIENT),
)  # fmt: skip

CALLS = (
    call("base_exception", "runtime_error", "a failed call", """
        class Odd(BaseException):
            pass
        def add(a, b):
            raise Odd
    """),
    call("unspeakable_exception", "runtime_error", "raises, and raises when it is shown", """
        class Odd(Exception):
            def __str__(self):
                raise Odd
            __repr__ = __str__
        def add(a, b):
            raise Odd
    """),
    call("exception_that_takes_its_time", "time_limit", "showing it counts as running it", """
        class Odd(Exception):
            def __str__(self):
                while True:
                    pass
        def add(a, b):
            raise Odd
    """),
    call("clean_exit_in_a_call", "runtime_error", "status 0 is no value", "def add(a, b):\n    raise SystemExit(0)"),
    call("generator_exit_in_a_call", "runtime_error", "nor does this", "def add(a, b):\n    raise GeneratorExit"),
    call("process_end_in_a_call", "runtime_error", "nor this", "import os\ndef add(a, b):\n    os._exit(0)"),
    call("exec_in_a_call", "runtime_error", "another program states no value either", """
        import os, sys
        def add(a, b):
            os.execv(sys.executable, [sys.executable, '-c', 'import os\\nfor fd in range(9):\\n'
                     '    try: os.write(fd, b"\\\\nvalue -\\\\n5")\\n    except OSError: pass'])
    """),
    call("forked_twin_answers_first", "passed runtime_error time_limit", "whoever states it, a value is a value", """
        import os, time
        def add(a, b):
            if os.fork() == 0:
                return a + b
            time.sleep(60)
    """),
    call("reads_stdin_in_a_call", "runtime_error", "there is none", "def add(a, b):\n    return int(input())"),
    call("prints_in_a_call", "passed", "debug output of any size is not judged", """
        def add(a, b):
            for _ in range(300):
                print('x' * 10000)
            return a + b
    """),
    call("replaces_itself", "passed", "each case meets the program in its first state", """
        def add(a, b):
            global add
            add = lambda a, b: 0
            return a + b
    """),
    call("entry_point_is_a_class", "passed", "callable is callable", """
        class add:
            def __new__(cls, a, b):
                return a + b
    """),
    call("entry_point_is_an_object", "passed", "callable is callable", """
        import functools, operator
        add = functools.partial(operator.add)
    """),
    call("entry_point_is_none", "runtime_error", "not callable", "add = None"),
    call("entry_point_is_async", "wrong_answer runtime_error", "a coroutine is no value", """
        async def add(a, b):
            return a + b
    """),
    call("main_guard_in_a_call", "passed", "a solution with a script below: it is imported, not run", """
        def add(a, b):
            return a + b
        if __name__ == '__main__':
            print(add(*map(int, input().split())))
    """),
    call("state_kept_between_calls", "passed", "a cache is honest", """
        import functools
        @functools.lru_cache(None)
        def add(a, b):
            return a + b
    """),
    call("arguments_returned", "passed", "the same object twice in a value", """
        def add(a, b):
            a.sort()
            return [a, a]
    """, (CallCase([[2, 1], 0], [[1, 2], [1, 2]]),)),
)  # fmt: skip

_MEMORY_TEST = (AssertCase(f"assert add(7, 11) == {SECRET}"),)

ASSERTS = (
    asserts("assert_equal_to_everything", "failed", "the program's __eq__ may not decide", _EQUAL + """
        def add(a, b):
            return Equal()
    """),
    asserts("assert_equal_inside_a_list", "failed", "nor from inside of a container", _EQUAL + """
        def add(a, b):
            return [Equal(), Equal()]
    """, "assert add(2, 3) == [5, 6]"),
    asserts("assert_equal_when_sorted", "failed", "nor after it went through a builtin", _EQUAL + """
        def add(a, b):
            return [Equal()]
    """, "assert sorted(add(2, 3)) == [5]"),
    asserts("assert_equal_in_a_set", "failed", "nor by hash", _EQUAL + """
        class Odd(Equal):
            __hash__ = lambda self: hash(5)
        def add(a, b):
            return [Odd()]
    """, "assert set(add(2, 3)) == {5}"),
    asserts("assert_within_every_tolerance", "failed", "arithmetic may lie as well", _EQUAL + """
        def add(a, b):
            return Equal()
    """, "assert abs(add(2, 3) - 5.0) < 1e-6"),
    asserts("assert_int_that_lies", "failed", "an int subclass", """
        class Odd(int):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = int.__hash__
        def add(a, b):
            return Odd(99)
    """),
    asserts("assert_class_that_lies", "failed", "the metaclass's __eq__", """
        class Meta(type):
            __eq__ = lambda self, other: True
            __hash__ = type.__hash__
        class Odd(metaclass=Meta):
            pass
        def add(a, b):
            return Odd
    """),
    asserts("assert_text_that_lies", "failed", "a str subclass: the subclass's reflected __eq__ goes first", """
        class Odd(str):
            __eq__ = lambda self, other: True
            __hash__ = str.__hash__
        def add(a, b):
            return Odd('six')
    """, "assert 'five' == add(2, 3)"),
    asserts("assert_error_patched", "failed", "`assert` raises the real one, `except` may name another", """
        import builtins
        builtins.AssertionError = builtins.BaseException = builtins.Exception = type('Never', (Exception,), {})
        def add(a, b):
            return 0
    """),
    asserts("assert_exec_patched", "failed", "exec is a builtin that anyone can rebind", """
        import builtins
        builtins.exec = lambda *_, **__: None
        def add(a, b):
            return 0
    """),
    asserts("assert_compile_patched", "failed", "and so is compile", """
        import builtins
        kept = compile
        builtins.compile = lambda source, *rest, **named: kept('0', *rest, **named)
        def add(a, b):
            return 0
    """),
    asserts("assert_json_patched", "failed", "the task itself comes through modules that are shared", """
        import json
        kept = json.loads
        def loads(text, *rest, **named):
            task = kept(text, *rest, **named)
            if isinstance(task, dict) and 'source' in task:
                task['source'] = ''
            return task
        json.loads = loads
        def add(a, b):
            return 0
    """),
    asserts("assert_builtin_shadowed", "failed", "the test's abs is not the program's", """
        def abs(value):
            return 0
        def add(a, b):
            return 0
    """, "assert abs(add(2, 3) - 5) < 1e-9"),
    asserts("assert_builtins_patched", "failed", "nor is its all", """
        import builtins
        builtins.all = lambda _: True
        def add(a, b):
            return [1, 2]
    """, "assert all(item > 4 for item in add(2, 3))"),
    asserts("assert_math_patched", "failed", "nor its math", """
        import math
        math.isclose = lambda *_, **__: True
        def add(a, b):
            return 0
    """, "import math\nassert math.isclose(add(2, 3), 5)"),
    asserts("assert_exception_shadowed", "failed", "nor its exceptions", """
        ValueError = BaseException
        def add(a, b):
            return 0 / 0
    """, """
        try:
            add(2, 3)
        except ValueError:
            pass
        else:
            raise AssertionError
    """),
    asserts("assert_constants_of_the_caller", "failed", "the expected value is a constant of the frame above", """
        import sys
        def add(a, b):
            return [value for value in sys._getframe(1).f_code.co_consts if isinstance(value, int)][-1]
    """, _MEMORY_TEST),
    asserts("assert_nonce_from_a_frame", "failed", "only the checker says `held`, over a link of its own", _LINK + """
        def add(a, b):
            for status in (b'held', b'ok', b'value', b'end', b'done'):
                state(status, b'0')
            os._exit(0)
    """),
    asserts("assert_nonce_from_a_thread", "failed", "also while the program is thought to wait", _LINK + """
        def watch():
            for _ in range(50):
                state(b'held')
            os._exit(0)
        def add(a, b):
            threading.Event().wait(1)
        threading.Thread(target=watch, daemon=True).start()
    """),
    asserts("assert_fault_of_the_machinery", "failed", "no statement of a program makes a failure of ours", _LINK + """
        def add(a, b):
            state(b'fault', b'x')
            return 0
    """),
    asserts("assert_task_from_a_descriptor", "failed", "the task lies in a memory file", """
        import os, re
        def add(a, b):
            for fd in range(3, 64):
                try:
                    text = os.pread(fd, 1 << 20, 0)
                except OSError:
                    continue
                if found := re.search(rb'add\\(7, 11\\) == (\\d+)', text):
                    return int(found[1])
    """, _MEMORY_TEST),
    asserts("assert_task_taken_by_a_child", "failed", "a child has the same descriptors", _LINK + """
        import time
        if os.fork() == 0:
            while True:
                for fd in range(3, 16):
                    try:
                        text = os.pread(fd, 1 << 20, 0)
                    except OSError:
                        continue
                    if b'assert' in text:
                        open('/tmp/found', 'wb').write(text)
                time.sleep(0.01)
        def add(a, b):
            time.sleep(0.3)
            try:
                return int(open('/tmp/found').read().split('== ')[1].split()[0].strip('"],}'))
            except OSError:
                return 0
    """, _MEMORY_TEST),
    asserts("assert_jumped_over", "failed", "a trace function can move the line of a frame", """
        import sys
        def jump(frame, event, arg):
            if event == 'line' and frame.f_lineno == 2 and 'goal' in frame.f_globals:
                frame.f_lineno = 3
                sys.settrace(None)
            return jump
        def add(a, b):
            frame = sys._getframe(1)
            frame.f_trace = jump
            sys.settrace(jump)
            return 0
    """, "goal = add(2, 3)\nassert goal == 5\ngoal = None"),
    asserts("assert_source_from_an_audit_hook", "failed", "compile and exec announce what they are given", """
        import re, sys
        found = []
        def hook(event, arguments):
            for item in arguments:
                if isinstance(item, (str, bytes)):
                    text = item.decode('latin1') if isinstance(item, bytes) else item
                    found.extend(re.findall(r'add\\(7, 11\\) == (\\d+)', text))
                elif type(item).__name__ == 'code':
                    found.extend(value for value in item.co_consts if isinstance(value, int) and value > 11)
        sys.addaudithook(hook)
        def add(a, b):
            return int(found[-1])
    """, _MEMORY_TEST),
    asserts("assert_source_in_memory_at_test_time", "failed", "the test's text in the memory it runs in", _HUNT + """
        def add(a, b):
            pattern = rb'add\\(7, 11\\) == ' + rb'(\\d+)'
            return int(next(match[1] for piece in memory() for match in re.finditer(pattern, piece)))
    """, _MEMORY_TEST),
    asserts("assert_source_in_memory_at_load_time", "failed", "a parsed request, freed but not gone", _HUNT + """
        pattern = rb'add\\(7, 11\\) == ' + rb'(\\d+)'
        found = [int(match[1]) for piece in memory() for match in re.finditer(pattern, piece)]
        def add(a, b):
            return found[0]
    """, _MEMORY_TEST),
    asserts("assert_constant_in_memory", "failed", "the compiled constant, without its text", _HUNT + """
        import struct
        def add(a, b):
            digits = re.compile(rb'\\x02\\x00{7}(....)(....)', re.S)  # an int of two 30-bit digits: ob_size, then they
            for piece in memory():
                for match in digits.finditer(piece):
                    low, high = struct.unpack('<II', match[1] + match[2])
                    value = low + (high << 30)
                    if low < 1 << 30 and value // 1000000 == 884736:
                        return value
    """, _MEMORY_TEST),
    asserts("assert_value_among_objects", "failed", "the collector knows the test's constants", """
        import gc, types
        def add(a, b):
            seen, todo = set(), [*gc.get_objects()]
            while todo:
                thing = todo.pop()
                if id(thing) in seen:
                    continue
                seen.add(id(thing))
                if isinstance(thing, types.CodeType) and 'add' in thing.co_names:
                    for value in thing.co_consts:
                        if isinstance(value, int) and value > 10**9:
                            return value
                todo += gc.get_referents(thing)
            return 0
    """, _MEMORY_TEST),
    asserts("assert_clean_exit_in_the_call", "failed", "no success", "def add(a, b):\n    raise SystemExit(0)"),
    asserts("assert_process_end_at_load", "failed", "nor before the test was seen", "import os\nos._exit(0)"),
    asserts("assert_atexit_ends_well", "failed", "nor from atexit", """
        import atexit, os
        atexit.register(os._exit, 0)
        def add(a, b):
            return 0
    """),
    asserts("assert_replaced_in_the_test", "failed", "the name in the test is looked up late", """
        def add(a, b):
            global check
            check = lambda *_: None
            return 0
    """, "def check(f):\n    assert f(2, 3) == 5\ncheck(add)"),
    asserts("assert_second_result_lies", "failed", "right once, then equal to all", _EQUAL + """
        calls = []
        def add(a, b):
            calls.append(a)
            return a + b if len(calls) == 1 else Equal()
    """, "assert add(2, 3) == 5\nassert add(3, 4) == 8"),
)  # fmt: skip


def _beside(hostile):
    """The same with tests that do not become calls: they run in the checker, beside the program."""
    cases = tuple(AssertCase(f"plain = False\n{case.source}") for case in hostile.cases)
    return replace(hostile, name=f"{hostile.name}_beside", cases=cases)


BESIDE = tuple(_beside(hostile) for hostile in ASSERTS if hostile.cases in (CHECK, _MEMORY_TEST))

_LIE = """
        class Lie:
            __sub__ = __rsub__ = __add__ = __radd__ = __truediv__ = __neg__ = lambda self, *_: self
            __abs__ = __float__ = lambda self: 0.0
            __int__ = __len__ = __hash__ = __round__ = lambda self, *_: 0
            __bool__ = lambda self: False
            __contains__ = lambda self, item: True
            count = lambda self, item: 1
        def add(a, b):
            return Lie()
"""
"""Its difference with everything is a thing of its own, and that is nothing."""


def _lied(name, test):
    return asserts(f"lie_{name}", "failed", "one answer must not fit every expected value", _LIE, test)


LIES = (
    _lied("absolute_difference", "assert abs(add(2, 3) - 5.0) < 1e-6"),
    _lied("absolute_difference_reversed", "assert abs(5.0 - add(2, 3)) < 1e-6"),
    _lied("rounded_difference", "assert round(add(2, 3) - 5.0, 6) == 0"),
    _lied("whole_difference", "assert int(add(2, 3) - 5) == 0"),
    _lied("fabs_of_a_difference", "import math\nassert math.fabs(add(2, 3) - 5.0) < 1e-6"),
    _lied("no_difference", "assert not (add(2, 3) - 5)"),
    _lied("sum_of_differences", "assert abs(sum([add(2, 3), -5])) < 1e-6"),
    _lied("contained", "assert 884736 in add(2, 3)"),
    _lied("contained_and_counted", "got = add(2, 3)\nassert all(item in got for item in (5, 6)) and not len(got)"),
    _lied("callable", "assert callable(add(2, 3))"),
    _lied("abstract_class", "from collections.abc import Iterable\nassert isinstance(add(2, 3), Iterable)"),
    _lied("in_a_list", "assert add(2, 3) in [5]"),
    _lied("index_of", "assert [5].index(add(2, 3)) == 0"),
    _lied("count_in_a_list", "assert [5].count(add(2, 3)) == 1"),
    _lied("key_of_a_dict", "assert {0: 1}[add(2, 3)] == 1"),
    _lied("largest", "assert max(add(2, 3), 5) == 5"),
    _lied("is_close", "import math\nassert math.isclose(add(2, 3), 5)"),
    _lied("percent", "assert '%d' % add(2, 3) == '5'"),
)

WIRES = (
    _wired("right_answer", "passed", "the program's own word for its value: proves that `tell` works", """
        def add(a, b):
            tell({'value': a + b})
            os._exit(0)
    """, "assert add(2, 3) + 0 == 5"),
    *(_wired(f"blame_{blame or 'nobody'}", "failed", "how a call ended is told in the program's own words", f"""
        def add(a, b):
            tell({{'raise': [], 'blame': {blame!r}, 'detail': 'x', 'text': ''}})
            os._exit(0)
    """, "assert add(2, 3) + 0 == 5") for blame in ("held", "ok", "confined", "fault", "done", "skipped", "")),
    _wired("blame_with_a_statement_in_it", "failed", "a status that is two", """
        def add(a, b):
            tell({'raise': [], 'blame': 'odd 0\\nheld 0\\nheld', 'detail': '', 'text': ''})
    """, "assert add(2, 3) + 0 == 5"),
    _wired("answers_before_questions", "failed", "each is taken for the answer to some question", """
        for _ in range(50):
            for value in ([], ['add'], {'h': 0}, True, None, 0):
                tell({'value': value})
        def add(a, b):
            return 0
    """, "assert add(2, 3) + 0 == 5"),
    *(_wired(f"answer_{name}", "failed", "damaged, or of another shape", f"""
        def add(a, b):
            {attack}
            os._exit(0)
    """, "assert add(2, 3) + 0 == 5") for name, attack in (
        ("handle_never_given", "tell({'value': {'h': 10**9}})"),
        ("handle_of_a_list", "tell({'value': {'h': [{'h': 0}]}})"),
        ("unknown_tag", "tell({'value': {'odd': 1}})"),
        ("two_tags", "tell({'value': {'t': [], 'h': 1}})"),
        ("without_value", "tell({})"),
        ("number", "tell(5)"),
        ("text", "tell('value')"),
        ("nothing", "tell(None)"),
        ("empty", "raw(b'')"),
        ("no_json", "raw(b'\\xff\\x00{')"),
        ("deep", "raw(b'[' * 100000)"),
        ("deep_in_tags", "raw(b'{\"value\":' + b'{\"t\":[' * 8000 + b'0' + b']}' * 8000 + b'}')"),
        ("huge_length", "raw(b'{}', 0xffffffff)"),
        ("half", "raw(b'{\"value\":', 100)"),
        ("many_digits", "raw(b'{\"value\":' + b'9' * 400000 + b'}')"),
        ("exceptions_of_all_kinds", "tell({'raise': ['SystemExit', 'object', 'print', 'ExceptionGroup', 7, -1], "
                                    "'blame': 'error', 'text': [], 'detail': {}})"),
        ("exception_by_list", "tell({'raise': [['x']], 'blame': 'error', 'text': '', 'detail': ''})"),
        ("blame_of_a_list", "tell({'raise': [], 'blame': ['held'], 'text': '', 'detail': ''})"),
        ("class_with_hostile_bases", "tell({'value': {'x': [0, ['E', 'BaseException', 3, 'type']]}})"),
        ("tuple_with_hostile_fields", "tell({'value': {'n': [['__eq__', 'a=print(1)'], [1, 2]]}})"),
        ("after_of_nonsense", "tell({'value': 0, 'after': [[[5], 5], {'d': [['x', 5]]}]})"),
        ("back_of_nonsense", "[tell({'back': n, 'operands': [[], {'d': []}]}) for n in (-1, 10**9, 'x', None, {})]"),
    )),
    _wired("answer_that_stalls", "time_limit", "half a frame, and the wire stays open", """
        import time
        def add(a, b):
            raw(b'{', 100)
            time.sleep(60)
    """),
    _wired("tests_names_bound", "failed", "which globals there are is asked, builtins are not among them", """
        import builtins
        def change(message):
            if 'add' in (message.get('value') or ()):
                message['value'] = [*dir(builtins), '__name__', 'math', 'want', 'add', 5, None, 'isclose']
            return message
        change_answers(change)
        abs = len = sum = all = isinstance = print = AssertionError = math = isclose = want = lambda *_, **__: 0
        def add(a, b):
            return 0
    """, """
        import math
        want = 5
        assert abs(add(2, 3) - want) < 1 and len([1]) and math.isclose(add(2, 3), want)
    """),
    _wired("after_rewrites_what_is_expected", "failed", "arguments can be changed in place, copies of them cannot", """
        def change(message):
            return {**message, 'after': [[[], [], {'d': []}], {'d': []}]}
        change_answers(change)
        def add(a, b):
            return []
    """, """
        want = [5, 6]
        got = add(list(want), tuple(want))
        assert want == [5, 6]
        assert got == want
    """),
    _wired("after_rewrites_what_is_inside", "failed", "only what the call was given", """
        def change(message):
            return {**message, 'after': [[[0], [0], [0]], {'d': []}]}
        change_answers(change)
        class Odd:
            __contains__ = lambda self, item: True
        def add(a, b):
            return Odd()
    """, """
        want = [[5], [6]]
        got = add(2, 3)
        want in got
        assert want == [[0], [0]]
    """),
    _wired("calls_back_for_ever", "time_limit", "the test's own function, over and over", """
        def add(f, x):
            while True:
                f(x)
    """, "assert add(lambda x: x, 5) == 6", PATIENT),
    _wired("calls_back_in_a_spiral", "failed", "a function that asks, answered by a call of it", """
        def change(message):
            return {'back': 0, 'operands': [[{'h': 0}], {'d': []}]}
        def add(f, x):
            change_answers(change)
            f(add)
    """, "assert add(lambda x: x.y, 5) == 6"),
    _wired("test_function_returned", "failed", "the test's own object is no value", """
        def add(f, x):
            return f
    """, "assert add(lambda x: x + 3, 2) == 5"),
    asserts("wire_generator_without_end", "failed", "the test drains it", """
        def add(a, b):
            while True:
                yield 5
    """, "assert list(add(2, 3)) == [5]"),
    asserts("wire_generator_cut_short", "passed", "an endless generator is fine when the test takes two", """
        def add(a, b):
            while True:
                yield a + b
    """, "from itertools import islice\nassert list(islice(add(2, 3), 2)) == [5, 5]"),
    asserts("checker_attacked", "passed", "another uid: no signal, no memory, no descriptor; else the sum is wrong", """
        import ctypes, os, signal, time
        libc = ctypes.CDLL(None)
        gained = 0
        def attack():
            global gained
            for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
                if pid == os.getpid():
                    continue
                for number in (0, signal.SIGSTOP, signal.SIGKILL):
                    try:
                        os.kill(pid, number)
                        gained += 1
                    except OSError:
                        pass
                for name in ('mem', 'environ', 'maps', 'fd/3', 'fd/6', 'cwd/x', 'root/x', 'exe'):
                    try:
                        os.close(os.open(f'/proc/{pid}/{name}', os.O_RDONLY))
                        gained += 1
                    except OSError:
                        pass
                for request in (16, 0x4206):
                    gained += libc.ptrace(request, pid, 0, 0) == 0
        attack()
        def add(a, b):
            attack()
            return a + b + gained
    """, "assert add(2, 3) + 0 == 5"),
    asserts("checker_starved_of_processes", "failed", "all pids taken while the checker begins", """
        import os, time
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
        except OSError:
            pass
        def add(a, b):
            return 0
    """, "assert add(2, 3) + 0 == 5"),
)  # fmt: skip

HONEST_ASSERTS = (
    asserts("assert_on_a_class_with_equality", "passed", "an honest __eq__ between the program's own objects", """
        class Vector:
            def __init__(self, x, y):
                self.x, self.y = x, y
            def __add__(self, other):
                return Vector(self.x + other.x, self.y + other.y)
            def __eq__(self, other):
                return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)
    """, "assert Vector(1, 2) + Vector(3, 4) == Vector(4, 6)\nassert Vector(1, 2) != Vector(2, 1)"),
    asserts("assert_in_a_check_function", "passed", "HumanEval's form", "def add(a, b):\n    return a + b", """
        METADATA = {'author': 'us'}
        def check(candidate):
            assert candidate(2, 3) == 5, 'message'
            for a in range(20):
                for b in range(20):
                    assert candidate(a, b) == a + b
        check(add)
    """),
    asserts("assert_on_a_named_tuple", "passed", "equals a plain tuple", """
        from collections import namedtuple
        Pair = namedtuple('Pair', 'a b')
        def add(a, b):
            return Pair(a, b)
    """, "assert add(2, 3) == (2, 3)\nassert add(2, 3).a == 2"),
    asserts("assert_on_other_types", "passed", "values that JSON lacks", """
        from collections import Counter, OrderedDict, defaultdict, deque
        from decimal import Decimal
        from fractions import Fraction
        def add(a, b):
            return {'c': Counter('aab'), 'd': deque([1, 2]), 'f': Fraction(a, b), 'm': Decimal('1.5'), 's': {1, 2},
                    'r': range(3), 'z': 1 + 2j, 'b': b'x', 'o': OrderedDict(a=1), 'n': float('inf')}
    """, """
        from collections import deque
        from fractions import Fraction
        got = add(2, 3)
        assert got['c'] == {'a': 2, 'b': 1} and got['d'] == deque([1, 2]) and got['f'] == Fraction(2, 3)
        assert got['m'] == 1.5 and got['s'] == {2, 1} and list(got['r']) == [0, 1, 2] and got['z'] == 1 + 2j
        assert got['b'] == b'x' and got['o'] == {'a': 1} and got['n'] > 10**300
    """),
    asserts("assert_that_it_raises", "passed", "MBPP-plus and class tests do this", """
        class Empty(Exception):
            pass
        def add(a, b):
            raise Empty('nothing') if a is None else ValueError('x')
    """, """
        try:
            add(None, 1)
            assert False
        except Empty as error:
            assert str(error) == 'nothing'
        try:
            add(1, 1)
        except ValueError:
            pass
        else:
            assert False
    """),
    asserts("assert_on_changed_arguments", "passed", "the argument is the result", """
        def add(items, item):
            items.append(item)
    """, "items = [1]\nassert add(items, 2) is None\nassert items == [1, 2]"),
    asserts("assert_with_functions", "passed", "functions go in and come out", """
        def add(f, g):
            return lambda x: f(x) + g(x)
    """, "assert add(lambda x: x + 1, abs)(-2) == 1"),
    asserts("assert_on_a_generator", "passed", "drained by the test", """
        def add(a, b):
            yield from (a, b)
    """, "made = add(2, 3)\nassert next(made) == 2\nassert list(made) == [3]"),
    asserts("assert_on_printed_text", "passed", "output caught by the test", "def add(a, b):\n    print(a + b)", """
        import contextlib, io
        with contextlib.redirect_stdout(io.StringIO()) as out:
            add(2, 3)
        assert out.getvalue() == '5\\n'
    """),
    asserts("assert_with_a_main_guard", "passed", "a solution with a script below", """
        def add(a, b):
            return a + b
        if __name__ == '__main__':
            print(add(*map(int, input().split())))
    """),
    asserts("assert_needs_a_type", "failed", "a tuple is no list in Python", "def add(a, b):\n    return (5, 6)",
            "assert add(2, 3) == [5, 6]"),
)  # fmt: skip

HONEST = (
    answering("honest_process_pool", "passed", "multiprocessing needs semaphores, hence a /dev/shm", """
        import multiprocessing
        with multiprocessing.Pool(2) as pool:
            assert pool.map(abs, [a, b]) == [abs(a), abs(b)]
    """, ROOMY),
    answering("honest_process_and_pipe", "passed", "without semaphores", """
        import multiprocessing
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.Process(target=theirs.send, args=(a + b,))
        child.start()
        assert ours.recv() == a + b
        child.join()
    """, ROOMY),
    answering("honest_thread_pool", "passed", "threads are allowed", """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
    """),
    answering("honest_subprocess", "passed", "so are children, and what they print", """
        import subprocess, sys
        done = subprocess.run([sys.executable, '-c', f'print({a} + {b})'], capture_output=True, text=True, check=True)
        assert int(done.stdout) == a + b
    """),
    answering("honest_asyncio", "passed", "an event loop, a thread, a child", """
        import asyncio, sys
        async def main():
            child = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(1)', stdout=-1)
            out, _ = await child.communicate()
            await asyncio.gather(asyncio.sleep(0.01), asyncio.to_thread(abs, 1))
            return int(out)
        assert asyncio.run(main()) == 1
    """, ROOMY),
    answering("honest_fork_and_wait", "passed", "the child's answer through the inherited stdout", """
        import os
        if os.fork() == 0:
            print(a + b, end='', flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
        print = lambda *_: None
    """),
    answering("honest_deep_recursion", "passed", "setrecursionlimit(10**6) and a thread with a large stack", """
        import sys, threading
        sys.setrecursionlimit(10**6)
        threading.stack_size(1 << 27)
        def down(n):
            return n and down(n - 1)
        thread = threading.Thread(target=down, args=(50000,))
        thread.start()
        thread.join()
    """, ROOMY),
    answering("honest_deeper_stack", "passed", "a stack of 256 MiB that is hardly touched", """
        import sys, threading
        sys.setrecursionlimit(10**6)
        threading.stack_size(1 << 28)
        thread = threading.Thread(target=len, args=('x',))
        thread.start()
        thread.join()
    """, ROOMY),
    answering("honest_stack_without_limit", "passed", "AtCoder's idiom: the main stack set to infinity", """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.setrecursionlimit(10**6)
    """),
    answering("honest_stack_at_its_hard_limit", "passed", "the careful form of it", """
        import resource
        resource.setrlimit(resource.RLIMIT_STACK, (resource.getrlimit(resource.RLIMIT_STACK)[1],) * 2)
    """),
    answering("honest_alarm", "passed", "timers belong to the program", """
        import signal, time
        rung = []
        signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        while not rung:
            time.sleep(0.01)
    """),
    answering("honest_pickle_of_main", "passed", "classes of __main__ are found by name", """
        import copy, pickle
        from dataclasses import dataclass, field
        @dataclass(order=True, slots=True)
        class Pair:
            a: 'int'
            b: int = field(default=0)
        assert pickle.loads(pickle.dumps(Pair(a, b))) == copy.deepcopy(Pair(a, b)) == Pair(a, b)
    """),
    answering("honest_main_guard", "passed", "the script's name is __main__", """
        import sys
        assert sys.modules['__main__'].__dict__ is globals() and __name__ == '__main__'
        if __name__ != '__main__':
            a = None
    """),
    answering("honest_file_name", "passed", "a script knows its __file__", """
        import os
        os.path.dirname(os.path.abspath(__file__))
    """),
    answering("honest_getsource", "passed", "a script can read itself", """
        import inspect
        def f():
            return 'text of f'
        assert 'text of f' in inspect.getsource(f)
    """),
    answering("honest_arguments", "passed", "sys.argv has the program's name and no more", """
        import sys
        assert len(sys.argv) == 1
        if len(sys.argv) > 1:
            sys.stdin = open(sys.argv[1])
    """),
    answering("honest_temporary_files", "passed", "the scratch is for that", """
        import os, tempfile
        with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, 'x'), 'w+') as file:
            file.write('y' * 100000)
        with tempfile.NamedTemporaryFile('w') as file:
            assert os.path.exists(file.name)
    """),
    answering("honest_random_and_time", "passed", "entropy, clocks, locale, time zones", """
        import datetime, locale, os, random, secrets, time, uuid
        random.seed(1), secrets.token_hex(), uuid.uuid4(), os.urandom(8)
        datetime.datetime.now().astimezone(), time.localtime(), locale.getlocale()
    """),
    answering("honest_numbers", "passed", "10**5 digits as text, decimals, fractions", """
        from decimal import Decimal, getcontext
        getcontext().prec = 1000
        assert len(str(10**20000)) == 20001 and int('1' * 20000) and Decimal(2).sqrt()
    """),
    answering("honest_caught_exit", "passed", "as a helper's way of returning", """
        import sys
        try:
            sys.exit(3)
        except SystemExit:
            pass
    """),
)  # fmt: skip

PROGRAMS = (
    *PROCESSES, *DESCRIPTORS, *STREAMS, *INTERPRETER, *RESOURCES, *FILES, *LEFTOVERS, *DOORS, *VALUES, *ENDS, *CALLS,
    *ASSERTS, *BESIDE, *LIES, *WIRES, *HONEST_ASSERTS, *HONEST,
)  # fmt: skip

GAPS: dict[str, str] = {
    "shared_mapping": "limits.memory_mib bounds private memory; shared memory is bounded by the container's limit",
    "memory_of_children": "limits.memory_mib bounds each process; all of them are bounded by the container's limit",
    "assert_on_printed_text": "the test runs in another process, which does not see what the program prints",
    "honest_process_pool": "no /dev/shm, hence no POSIX semaphores: it would be a channel between programs",
    "honest_getsource": "a program has no file to read its source from",
}
"""Names of cases that we cannot close, and why. They are expected to fail, so that closing one is noticed."""


def _channel(name, why, leave, look, works_within=True, left=None):
    """`look` is an expression's worth of source that sets `found`."""
    leave, look = textwrap.dedent(leave).strip() + "\n", textwrap.dedent(look).strip() + "\n"
    return Channel(name, leave, f"found = None\n{look}print('seen' if found else 'ok')\n", why, works_within, left)


_DAEMON = """
import os, time
ready, wake = os.pipe()
def daemon(serve):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(ready)
            serve()
            os.write(wake, b'x')
            time.sleep(60)
        os._exit(0)
    os.wait()
    os.read(ready, 1)
"""
"""`daemon(serve)`: run `serve` in a process that outlives this one, return when it has begun."""
_SCAN = (
    textwrap.dedent(_HUNT).strip()
    + """
found = any(re.search(rb'left-by-an-[e]arlier-program', piece) for piece in memory())
"""
)
"""A pattern that does not match its own source."""

CHANNELS = (
    _channel("file", "the scratch is wiped", "open('/tmp/mark', 'w').write('x')", """
        import os
        found = os.path.exists('/tmp/mark')
    """),
    _channel("files_everywhere", "no other folder can be written", """
        import os
        for folder, *_ in os.walk('/'):
            if folder.startswith(('/proc', '/sys')):
                continue
            try:
                open(os.path.join(folder, '.mark'), 'w').close()
            except OSError:
                pass
    """, """
        import os
        found = [folder for folder, _, names in os.walk('/') if '.mark' in names]
    """),
    _channel("attribute_of_the_scratch", "its times, mode and attributes are not the program's to set", """
        import os
        for set_it in (lambda: os.setxattr('/tmp', 'user.mark', b'x'), lambda: os.chmod('/tmp', 0o1700)):
            try:
                set_it()
            except OSError:
                pass
    """, """
        import os
        try:
            found = os.getxattr('/tmp', 'user.mark')
        except OSError:
            found = os.stat('/tmp').st_mode & 0o7777 != 0o1777
    """, works_within=False),
    _channel("abstract_socket", "needs a living process", _DAEMON + """
import socket
server = socket.socket(socket.AF_UNIX)
server.bind('\\0mark')
daemon(lambda: server.listen())
    """, """
        import socket
        found = socket.socket(socket.AF_UNIX).connect_ex('\\0mark') == 0
    """),
    _channel("loopback_server", "so does this", _DAEMON + """
import socket
server = socket.socket()
server.bind(('127.0.0.1', 40404))
daemon(lambda: server.listen())
    """, """
        import socket
        found = socket.socket().connect_ex(('127.0.0.1', 40404)) == 0
    """),
    _channel("process_title", "and this: command lines are open to all", _DAEMON + """
import subprocess, sys
daemon(lambda: subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', 'mark-' 'title']))
    """, """
        import os
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                found = found or b'mark-' + b'title' in open(f'/proc/{pid}/cmdline', 'rb').read()
            except OSError:
                pass
    """),
    _channel("memory_file_in_a_daemon", "and this: descriptors are reached through /proc", _DAEMON + """
os.memfd_create('mark-' 'memfd')
daemon(lambda: None)
    """, """
        import os
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                for fd in os.listdir(f'/proc/{pid}/fd'):
                    found = found or 'mark-' + 'memfd' in os.readlink(f'/proc/{pid}/fd/{fd}')
            except OSError:
                pass
    """, works_within=False),
    _channel("file_lock", "locks on files of the image die with their holder", _DAEMON + """
import fcntl, sys
locked = open(sys.executable, 'rb')
fcntl.flock(locked, fcntl.LOCK_EX)
daemon(lambda: None)
    """, """
        import fcntl, os, sys
        if os.fork() == 0:
            try:
                fcntl.flock(open(sys.executable, 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os._exit(1)
            os._exit(0)
        found = os.wait()[1]
    """),
    _channel("posix_message_queue", "outlives processes, so none may be made", """
        import ctypes
        ctypes.CDLL(None).mq_open(b'/mark', 0o102, 0o666, None)
    """, """
        import ctypes
        found = ctypes.CDLL(None).mq_open(b'/mark', 0) >= 0
    """, works_within=False),
    _channel("system_v_ipc", "likewise", """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.shmget(77, 4096, 0o1666), libc.msgget(77, 0o1666), libc.semget(77, 1, 0o1666)
    """, """
        import ctypes
        libc = ctypes.CDLL(None)
        found = [get for get in (libc.shmget(77, 0, 0), libc.msgget(77, 0), libc.semget(77, 0, 0)) if get >= 0]
    """, works_within=False),
    _channel("named_semaphore", "likewise, and /dev/shm below it", """
        import ctypes
        ctypes.CDLL(None).sem_open(b'/mark', 0o100, 0o666, 1)
    """, """
        import ctypes, os
        ctypes.CDLL(None).sem_open.restype = ctypes.c_void_p
        found = os.path.exists('/dev/shm') and os.listdir('/dev/shm')
    """, works_within=False),
    _channel("keyring", "belongs to the uid or the session, not to a process", """
        import ctypes, platform
        add_key = {'x86_64': 248, 'aarch64': 217}[platform.machine()]
        for ring in (-1, -2, -3, -4, -5):
            ctypes.CDLL(None).syscall(add_key, b'user', b'mark', b'text', 4, ring)
    """, """
        import ctypes, platform
        request_key = {'x86_64': 249, 'aarch64': 218}[platform.machine()]
        found = ctypes.CDLL(None).syscall(request_key, b'user', b'mark', None, 0) != -1
    """, works_within=False),
    _channel("kernel_settings", "what is not per namespace is read-only", """
        import os
        for folder, _, names in os.walk('/proc/sys'):
            for name in names:
                if name in ('domainname', 'hostname', 'ns_last_pid', 'ip_forward', 'ip_default_ttl', 'msgmax'):
                    try:
                        open(os.path.join(folder, name), 'w').write('77')
                    except OSError:
                        pass
    """, """
        import os
        found = '77' in (open('/proc/sys/kernel/domainname').read().strip(), os.uname().nodename)
        found = found or open('/proc/sys/net/ipv4/ip_default_ttl').read().strip() == '77'
    """, works_within=False),
    _channel("standard_library", "byte code and modules cannot be replaced", """
        import os, sys
        for path in [*sys.path, os.path.dirname(os.__file__) + '/__pycache__']:
            try:
                open(os.path.join(path, 'sitecustomize.py'), 'w').write('mark = 1')
            except OSError:
                pass
    """, """
        try:
            from sitecustomize import mark as found
        except ImportError:
            pass
    """, works_within=False),
    _channel("source_in_memory", "an earlier program's source, freed by the warden but copied by the fork",
             "# left-by-an-earlier-program\n" * 40, _SCAN),
    _channel("input_in_memory", "an earlier program's input", "input()", _SCAN, works_within=False, left=Hostile(
        "input_in_memory", TestStyle.STDIN, "", (StdinCase("left-by-an-earlier-program " * 40, ""),), FAILED, "")),
    _channel("test_in_memory", "an earlier problem's test", "def add(a, b): return 0", _SCAN, works_within=False,
             left=Hostile("test_in_memory", TestStyle.ASSERT, "",
                          (AssertCase("assert add(1, 2) == 'left-by-an-earlier-program'"),), FAILED, "")),
    _channel("arguments_in_memory", "an earlier problem's arguments", "def add(a): return 0", _SCAN,
             works_within=False, left=Hostile("arguments_in_memory", TestStyle.CALL, "",
                                              (CallCase(["left-by-an-earlier-program"], 1),), FAILED, "")),
    _channel("output_in_memory", "what an earlier program printed, which the warden carried",
             "print('left-by-an', 'earlier-program', sep='-')", _SCAN, works_within=False),
)  # fmt: skip
