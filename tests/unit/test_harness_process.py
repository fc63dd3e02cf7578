"""The warden and the pool on real processes of this machine: every verdict, order, and that nothing is left."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgrpo_ray.errors import SandboxError
from pgrpo_ray.sandbox.inside.session import Session
from pgrpo_ray.sandbox.plan import make_request
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.sandbox.process_runner import ProcessRunner
from pgrpo_ray.types import AssertCase, CallCase, Limits, Problem, StdinCase, TestStyle, Verdict

LIMITS = Limits(cpu_s=1.0, wall_s=3.0, memory_mib=128, output_kib=64)
SUM = Problem("sum", "", TestStyle.STDIN, (StdinCase("1 2\n", "3"), StdinCase("5 6\n", "11")), limits=LIMITS)
ADD = Problem("add", "", TestStyle.CALL, (CallCase([1, 2], 3), CallCase([5, 6], 11)), entry_point="add", limits=LIMITS)
CHECK = Problem(
    "check", "", TestStyle.ASSERT, (AssertCase("assert add(1, 2) == 3"), AssertCase("assert add(5, 6) == 11")),
    entry_point="add", limits=LIMITS,
)  # fmt: skip
READ = "a, b = map(int, input().split())\n"
DEF = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module")
def pool():
    try:
        made = ExecutionPool(ProcessRunner, slots=1, retries=0)
    except SandboxError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("problem", "program", "verdict"),
    [
        (SUM, READ + "print(a + b)", "passed"),
        (SUM, READ + "import atexit; atexit.register(print, a + b)", "passed"),
        (SUM, READ + "import threading; threading.Thread(target=lambda: print(a + b)).start()", "passed"),
        (SUM, READ + "out = open(1, 'w'); out.write(str(a + b))", "passed"),
        (SUM, "a, b = map(int, open('/dev/stdin').read().split())\nprint(a + b)", "passed"),
        (
            SUM,
            READ + "import sys\nif a == 5: sys.excepthook = None; print(11, flush=True); 1 / 0\nprint(3)",
            "runtime_error",
        ),
        (SUM, READ + "open('/dev/stdout', 'w').write(str(a + b))", "passed"),
        (SUM, READ + "import os\nos.closerange(3, 256)\nprint(a + b)", "passed"),
        (SUM, READ + "import os\nos.lseek(0, 0, 2)\nos.write(0, b'5 5')\nos.close(0)\nprint(a + b)", "passed"),
        (SUM, READ + "import sys\nif __name__ == '__main__': sys.exit(print(a + b))", "passed"),
        (SUM, READ + "import os\nif os.fork() == 0:\n    import time; time.sleep(60)\nprint(a + b)", "passed"),
        (SUM, READ + "print(a - b)", "wrong_answer"),
        (SUM, "import os; os._exit(0)", "wrong_answer"),
        (SUM, READ + "print(a + b)\nraise SystemExit('no')", "runtime_error"),
        (SUM, READ + "print(a + b, flush=True)\nimport os; os.kill(os.getpid(), 9)", "runtime_error"),
        (SUM, "def f(:", "compile_error"),
        (SUM, "while True: pass", "time_limit"),
        (SUM, "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "time_limit"),
        (SUM, "import os, signal; os.kill(0, signal.SIGSTOP)", "time_limit"),
        (SUM, "x = bytearray(1 << 30)", "memory_limit"),
        (SUM, "import os\nwhile True:\n    try: os.write(1, b'x' * 9999)\n    except OSError: pass", "output_limit"),
        (SUM, "import os\nwhile True: os.write(2, b'x' * 9999)", "output_limit"),
        (
            SUM,
            READ + "import os\nwhile a == 5:\n    try: os.write(1, b'x')\n    except OSError: pass\nprint(3)",
            "output_limit",
        ),
        (SUM, READ + "print(a + b, end='y' * 70000 if a == 5 else None)", "output_limit"),
        (ADD, DEF, "passed"),
        (ADD, "class Solution:\n    def add(self, a, b): return a + b\nadd = Solution().add", "passed"),
        (
            ADD,
            "calls = []\ndef add(a, b):\n    calls.append(1)\n    return a + b if len(calls) == 1 else None",
            "passed",
        ),
        (ADD, "def add(a, b): return a", "wrong_answer"),
        (ADD, "class E:\n    __eq__ = lambda s, o: True\ndef add(a, b): return E()", "wrong_answer"),
        (ADD, "def add(a, b): raise SystemExit(0)", "runtime_error"),
        (ADD, "x = 1", "runtime_error"),
        (ADD, "def add(a, b): return 'x' * (1 << 20)", "output_limit"),
        (ADD, "def add(a, b):\n    x = []\n    for _ in range(99): x = [x, x]\n    return x", "output_limit"),
        (CHECK, DEF, "passed"),
        (CHECK, "def add(a, b): return 0", "wrong_answer"),
        (CHECK, "import os\nos._exit(0)", "runtime_error"),
        (CHECK, "def add(a, b): raise SystemExit(0)", "runtime_error"),
        (CHECK, "def add(a, b):\n    import os; os._exit(0)", "runtime_error"),
        (CHECK, "import os\nos.write(3, b'\\nheld -\\n')\ndef add(a, b): return 0", "wrong_answer"),
        (CHECK, "import os\nos.write(3, b'\\nheld -\\n'); os._exit(0)", "runtime_error"),
    ],
)
def test_verdicts(pool, problem, program, verdict):
    judgement = pool.judge(problem, program)
    assert judgement.error is None
    assert judgement.verdict is Verdict(verdict), judgement.detail
    assert judgement.sandbox == "process"


def test_a_method_is_called_on_a_fresh_object(pool):
    problem = Problem("m", "", TestStyle.CALL, (CallCase({"a": 4}, 5),), entry_point="Solution.next", limits=LIMITS)
    assert pool.judge(problem, "class Solution:\n    def next(self, a): return a + 1").passed


def test_one_bad_case_spoils_no_other(pool):
    program = "import os\ndef add(a, b):\n    if a == 1: os.abort()\n    return a + b"
    patient = ExecutionPool(ProcessRunner, slots=1, retries=0, fail_fast=False)
    judgement = patient.judge(ADD, program)
    patient.close()
    assert (judgement.verdict, judgement.first_failed, judgement.tests_passed) == (Verdict.RUNTIME_ERROR, 0, 1)


def test_an_ordinary_user_has_no_uids_that_could_be_used_up(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    pool = ExecutionPool(ProcessRunner, slots=1, retries=0)
    assert [pool.judge(ADD, program).verdict for program in (DEF, "def add(a, b): return 0")] == [
        "passed",
        "wrong_answer",
    ]
    pool.close()


def test_answers_keep_the_order(pool):
    programs = [DEF, "def add(a, b): return 0", "def (", DEF]
    verdicts = [judgement.verdict for judgement in pool.judge_many([(ADD, program) for program in programs])]
    assert verdicts == [Verdict.PASSED, Verdict.WRONG_ANSWER, Verdict.COMPILE_ERROR, Verdict.PASSED]


def test_programs_get_no_environment_and_no_packages(pool):
    os.environ["PGRPO_TEST_TOKEN"] = "secret"
    program = READ + "import os\nassert not any('TOKEN' in key for key in os.environ)\nprint(a + b)"
    assert pool.judge(SUM, program).passed


def test_files_do_not_reach_the_next_case(pool):
    program = READ + "import os\nassert not os.listdir('.')\nos.makedirs('x/y'); os.chmod('x', 0)\nprint(a + b)"
    assert pool.judge(SUM, program).passed


def alive(marker):
    found = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if line.rstrip().endswith(marker)]


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


DAEMON = """
import os, subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', {marker!r}], start_new_session=True)
"""


def test_leftover_processes_are_killed(pool):
    marker = f"pgrpo-leftover-{os.getpid()}"
    assert pool.judge(SUM, DAEMON.format(marker=marker) + READ + "print(a + b)").passed
    assert alive(marker) == []


OWNER = """
import sys

from pgrpo_ray.sandbox.plan import make_request
from pgrpo_ray.sandbox.process_runner import ProcessRunner
from pgrpo_ray.types import Limits, Problem, StdinCase, TestStyle
problem = Problem('p', '', TestStyle.STDIN, (StdinCase('', ''),), limits=Limits(wall_s=100))
ProcessRunner().run(make_request(problem, sys.argv[1] + 'import time; time.sleep(100)', '1'), 100)
"""


def test_nothing_outlives_a_killed_owner(pool):
    marker = f"pgrpo-orphan-{os.getpid()}"
    program = DAEMON.format(marker=marker)
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", OWNER, program], cwd=root) as owner:
        try:
            wait_until(lambda: alive(marker))
        finally:
            owner.kill()
    wait_until(lambda: not alive(marker))


class BrokenRunner:
    """A runner whose machinery fails a given number of times."""

    kind = "process"

    def __init__(self, failures):
        self.inner, self.failures = ProcessRunner(), failures

    def run(self, request, timeout_s):
        if not request["id"].startswith("canary") and self.failures:
            self.failures.pop()
            raise SandboxError("pulled the plug")
        return self.inner.run(request, timeout_s)

    def close(self):
        self.inner.close()


@pytest.mark.parametrize(("failures", "passed"), [(2, True), (3, False)])
def test_machinery_failures_are_retried_then_errors(pool, failures, passed):
    left = [None] * failures
    broken = ExecutionPool(lambda: BrokenRunner(left), slots=1, retries=2)
    judgement = broken.judge(ADD, DEF)
    broken.close()
    assert judgement.passed is passed
    if not passed:
        assert judgement.verdict is None
        assert "pulled the plug" in judgement.error


def test_a_judge_that_cannot_tell_is_refused():
    class Yes:
        kind = "process"

        def run(self, request, timeout_s):
            cases = [{"status": "ok", "value": "42", "output": ""} for _ in request["cases"]]
            return {"id": request["id"], "cases": cases, "dirty": False}

        def close(self):
            return None

    with pytest.raises(SandboxError, match="misjudges"):
        ExecutionPool(Yes, slots=1, retries=0)


def test_close_is_prompt_and_answers_everybody(pool):
    own = ExecutionPool(ProcessRunner, slots=1, retries=2)
    sleepy = Problem("s", "", TestStyle.STDIN, (StdinCase("", ""),), limits=Limits(wall_s=60))
    answers = []
    asker = threading.Thread(
        target=lambda: answers.extend(own.judge_many([(sleepy, "import time; time.sleep(60)")] * 3))
    )
    asker.start()
    time.sleep(0.5)
    start = time.monotonic()
    own.close()
    own.close()
    asker.join(3)
    assert time.monotonic() - start < 10
    assert [answer.verdict for answer in answers] == [None] * 3
    assert own.judge(ADD, DEF).error


@pytest.mark.parametrize(
    ("program", "verdict", "first_failed"),
    [
        ("seen = []\ndef add(a, b):\n    seen.append(a)\n    return a + b if len(seen) == 1 else 0", "passed", None),
        ("import time\ndef add(a, b):\n    end = time.process_time() + 0.7\n    while time.process_time() < end: pass\n"
         "    return a + b", "passed", None),
        ("import os\ndef add(a, b):\n    if a == 5: os._exit(0)\n    return a + b", "runtime_error", 1),
        ("import os\ndef add(a, b):\n    if a == 5: os.kill(os.getpid(), 11)\n    return a + b", "runtime_error", 1),
        ("def add(a, b):\n    if a == 5: raise SystemExit\n    return a + b", "runtime_error", 1),
        ("def add(a, b): return 3", "wrong_answer", 1),
        ("def add(a, b): return 11", "wrong_answer", 0),
        ("undefined", "runtime_error", 0),
        ("def add(a, b) return 3", "compile_error", 0),
        ("add = 5", "runtime_error", 0),
    ],
)  # fmt: skip
def test_sharing_a_process_between_calls_changes_no_verdict(pool, program, verdict, first_failed):
    judgement = pool.judge(ADD, program)
    assert (judgement.verdict, judgement.first_failed) == (verdict, first_failed)


@pytest.mark.parametrize(
    ("problem", "program"),
    [
        (SUM, READ + "if a == 1: 1 / 0\nwhile True: pass"),
        (ADD, "def add(a, b):\n    if a == 1: 1 / 0\n    while True: pass"),
        (CHECK, "class N(int): pass\ndef add(a, b):\n    if a == 1: 1 / 0\n    while True: pass"),
    ],
)
def test_where_all_must_pass_the_first_failure_ends_the_program(problem, program):
    pool = ExecutionPool(ProcessRunner, slots=1, retries=0, fail_fast=True)
    try:
        start = time.monotonic()
        judgement = pool.judge(problem, program)
        seconds = time.monotonic() - start
    finally:
        pool.close()
    assert (judgement.verdict, judgement.first_failed) == ("runtime_error", 0)
    assert seconds < LIMITS.cpu_s  # the second case would take half as long again


def test_a_script_has_its_own_input_and_output_in_each_case_of_one_process():
    cases = tuple(StdinCase(text, "") for text in ("a long first line\nand a second\n", "b\n", "", "c\n" * 9000))
    problem = Problem("echo", "", TestStyle.STDIN, cases, limits=LIMITS)
    program = "import os, sys\nsys.stdout.write(sys.stdin.read())\nsys.stderr.write('not this')"
    runner = ProcessRunner()
    try:
        answer = runner.run(make_request(problem, program, "1"), 30)
    finally:
        runner.close()
    assert [case["output"] for case in answer["cases"]] == [case.input for case in cases]
    assert [case["fresh"] for case in answer["cases"]] == [True, False, False, False]


def test_a_forged_statement_about_all_calls_is_not_believed(pool):
    forge = (
        "import os, json, inspect\ndef add(a, b):\n"
        "    frame = inspect.currentframe().f_back\n"
        "    while 'nonce' not in frame.f_locals: frame = frame.f_back\n"
        "    nonce = frame.f_locals['nonce'].decode()\n"
        "    os.write(3, f'\\nvalue {nonce}\\n'.encode() + json.dumps(%s).encode())\n"
        "    os._exit(0)"
    )
    for claim in ("[]", "[['ok', '3']]", "{'a': 1}", "[['value', '3'], ['value', '11'], ['value', '11']]", "5", "[5]"):
        assert pool.judge(ADD, forge % claim).verdict not in (Verdict.PASSED, None), claim


def test_a_case_takes_no_less_than_no_time_where_the_kernels_accounts_differ():
    """Its rusage gives a dead process a little less than its clock gave the living one."""
    session = object.__new__(Session)
    session.warden = SimpleNamespace(place_cpu_s=lambda: None)
    session.living = list
    session.deaths, session.cpu_mark = {7: {"spent_s": 0.0119}}, 0.012
    assert session.cpu_s() == 0.012
    session.deaths = {7: {"spent_s": 0.0135}}
    assert session.cpu_s() == 0.0135
