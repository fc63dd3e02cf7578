"""What `sandbox.py` compares the pool with: six other ways to judge the same programs, and the feeder that times them.

Runs as a child of `sandbox.py`, one feeder per slot, like the process pool of LiveCodeBench's evaluator: slots share no
interpreter lock, and the process that forks is small (standard library only, collector frozen). So each baseline
is at its best; in a trainer the forking process is one with torch in it.

`docker_run`    a hardened container per program; a driver inside it runs all cases in one process.
`docker_exec`   the same driver started in one warm hardened container per slot.
`fork_manager`  no sandbox: a `multiprocessing.Process` per program runs all cases with mocked stdin and stdout, an
                alarm against endless loops, and compares by itself; the result comes back in a `Manager().list()`.
                The form of LiveCodeBench and verl.
`fork_pipe`     the same with a pipe instead of a manager: the strongest form.
`exec_once`     physical reference: fork and exec an interpreter that runs the program once.
`fork_once`     physical limit of a warm interpreter: fork, compile, run once, `_exit`.
`fork_per_case` the same for every case: the limit where each case must get a process of its own.

The code is ours, from a description of what those harnesses do. Standard library only; no import of ours.
"""

import bisect  # noqa: F401 - this and its like are what programs import: warm here as they are in the pool's containers
import collections  # noqa: F401
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import inspect
import io
import itertools
import json
import math  # noqa: F401
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time

WORDS = ("passed", "wrong_answer", "runtime_error", "compile_error", "time_limit")
"""Verdicts of a baseline; a child that has no other channel says them by its exit status."""
CASE_S = 6
"""Alarm of one case, whole seconds: LiveCodeBench's default."""
HARDENING = (
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--pids-limit", "64", "--memory", "512m", "--memory-swap", "512m", "--cpus", "1", "--ipc", "none"),
    *("--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=32m,nr_inodes=1024", "--user", "10000:10000"),
    *("--ulimit", "nofile=1024", "--ulimit", "core=0", "--ulimit", "stack=67108864", "--log-driver", "none"),
)
FORK = multiprocessing.get_context("fork")


def judge(task):
    """Run all cases of a program in this process and compare. Return a verdict's name."""

    def expire(number, frame):
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    try:
        code = compile(task["program"], "<program>", "exec")
    except (SyntaxError, ValueError):
        return "compile_error"
    namespace = {"__name__": "__main__"}
    try:
        signal.alarm(CASE_S)
        if task["style"] == "assert":
            exec(code, namespace)
        for case in task["cases"]:
            signal.alarm(CASE_S)
            if task["style"] == "assert":
                exec(case["source"], namespace)
            elif run_script(code, case["input"]).split() != case["output"].split():
                return "wrong_answer"
    except AssertionError:
        return "wrong_answer"
    except TimeoutError:
        return "time_limit"
    except BaseException:
        return "runtime_error"
    finally:
        signal.alarm(0)
    return "passed"


def run_script(code, text):
    """Run a program with mocked standard input; return what it printed."""
    mocked = sys.stdin, sys.stdout
    sys.stdin, sys.stdout = io.TextIOWrapper(io.BytesIO(text.encode())), io.StringIO()
    try:
        exec(code, {"__name__": "__main__"})
        return sys.stdout.getvalue()
    finally:
        sys.stdin, sys.stdout = mocked


DRIVER = (
    f"import io, json, signal, sys\nCASE_S = {CASE_S}\n{inspect.getsource(judge)}\n{inspect.getsource(run_script)}\n"
    "print(judge(json.loads(sys.stdin.buffer.read())))"
)
"""What runs inside the containers of the Docker baselines: the very code that the fork baselines run."""


class Baselines:
    """The arms, by name. `close` ends the warm container, if one was started."""

    def __init__(self, image):
        self.image = image
        self.warm = None
        self.container = ""

    def docker_run(self, task):
        return drive(["docker", "run", "--rm", "-i", *HARDENING, self.image], task)

    def docker_exec(self, task):
        self.start_warm()
        return drive(["docker", "exec", "-i", self.container], task)

    def start_warm(self):
        """Start the warm container once. It reads our pipe and ends with us, however we end."""
        if self.warm is not None:
            return
        source, pipe = "import sys; print(flush=True); sys.stdin.read()", subprocess.PIPE
        for attempt in range(3):  # under load the CLI now and then starts a container and never attaches to it
            self.container = f"pgrpo-benchmark-{os.getpid()}-{attempt}"
            command = ["docker", "run", "--rm", "-i", "--name", self.container, *HARDENING, self.image]
            warm = subprocess.Popen([*command, "python3", "-I", "-S", "-c", source], stdin=pipe, stdout=pipe)
            if select.select([warm.stdout], [], [], 20)[0] and warm.stdout.readline():
                self.warm = warm
                return
            subprocess.run(["docker", "kill", self.container], capture_output=True)
            warm.kill()
            warm.wait()
        raise RuntimeError("cannot start the warm container of `docker exec`")

    def fork_manager(self, task):
        with FORK.Manager() as manager:
            result = manager.list()
            child = FORK.Process(target=lambda: result.append(judge(task)))
            child.start()
            child.join((CASE_S + 1) * len(task["cases"]) + 5)
            if child.is_alive():
                child.kill()
                child.join()
            return result[0] if result else "time_limit"

    def fork_pipe(self, task):
        ours, theirs = FORK.Pipe(duplex=False)
        child = FORK.Process(target=lambda: theirs.send(judge(task)))
        child.start()
        theirs.close()
        try:
            verdict = ours.recv() if ours.poll((CASE_S + 1) * len(task["cases"]) + 5) else "time_limit"
        except EOFError:
            verdict = "runtime_error"
        if verdict == "time_limit":
            child.kill()
        child.join()
        ours.close()
        return verdict

    def exec_once(self, task):
        """Files in memory for input and output: no pipe to fill, no thread to read it."""
        case = task["cases"][0]
        given, printed = os.memfd_create("given"), os.memfd_create("printed")
        os.write(given, case.get("input", "").encode())
        os.lseek(given, 0, os.SEEK_SET)
        command = [sys.executable, "-I", "-S", "-c", task["program"]]
        actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, printed, 1)]
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        status = os.waitpid(pid, 0)[1]
        output = os.pread(printed, 1 << 20, 0).decode()
        os.close(given)
        os.close(printed)
        if status:
            return "runtime_error"
        return "passed" if output.split() == case.get("output", "").split() else "wrong_answer"

    def fork_once(self, task):
        return forked({**task, "cases": task["cases"][:1] if task["style"] == "stdin" else []})

    def fork_per_case(self, task):
        for case in task["cases"]:
            verdict = forked({**task, "cases": [case]})
            if verdict != "passed":
                return verdict
        return "passed"

    def close(self):
        if self.warm is not None:
            self.warm.stdin.close()
            self.warm.wait(30)


def drive(command, task):
    """Run the driver by a Docker command that ends where the program inside begins."""
    run = [*command, "python3", "-I", "-S", "-c", DRIVER]
    done = subprocess.run(run, input=json.dumps(task), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} ended with status {done.returncode}")
    return done.stdout.strip()


def forked(task):
    pid = os.fork()
    if pid == 0:
        os._exit(WORDS.index(judge(task)))
    return WORDS[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def serve(setup):
    """Answer orders until standard input ends: judge with one arm for a while, say how long each program took.

    An order names the first program and the step to the next, so that slots share a set without talking.
    """
    baselines = Baselines(setup["image"])
    serial = itertools.count()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        arm, tasks = getattr(baselines, order["arm"]), setup["sets"][order["set"]]
        if order["arm"] == "docker_exec":
            baselines.start_warm()
        latencies, verdicts, index = [], [], order["first"]
        begin = end = time.perf_counter()
        while end - begin < order["window_s"] and len(latencies) < order["most"]:
            task = dict(tasks[index % len(tasks)])
            wanted = task.pop("verdict")
            # As for the pool: no text twice, so that no cache can answer.
            task["program"] += f"\n# {os.getpid()} {next(serial)}"
            start = time.perf_counter()
            verdict = arm(task)
            end = time.perf_counter()
            latencies.append((end - start) * 1000)
            verdicts.append((task["id"], verdict, wanted))
            index += order["step"]
        wrong = [row for row in verdicts if row[1] != row[2]]
        print(json.dumps({"seconds": end - begin, "latencies_ms": latencies, "wrong": wrong}), flush=True)
    baselines.close()


if __name__ == "__main__":
    serve(json.loads(sys.stdin.readline()))
