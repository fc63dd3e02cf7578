"""A program as a script: standard input in, standard output and an exit status out, as `python3 program.py` would.

One that has the process for itself gets no link. Several cases in one process are told over the link, one by one.
"""

import atexit
import builtins
import fcntl
import gc
import io
import os
import resource
import struct
import sys
import types

from pgrpo_ray.sandbox.inside.link import LINK, TASK, WIRE


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


def fresh_main(name="__main__"):
    """Return an empty module for the program, in the place where pickle and dataclasses look for it."""
    main = types.ModuleType(name)
    main.__builtins__ = builtins
    main.__file__ = "/tmp/program.py"
    sys.modules[name] = main
    return main


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
