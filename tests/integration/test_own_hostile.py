"""Every program of `hostile_programs` through one real container, and what it left behind.

All run in the same pool of one slot, one after another, as they would in training: after each one the next programs
must be judged rightly, see an empty scratch and nobody else, and no process may be left that is not the warden's.
"""

import os
import time

import docker
import pytest
from hostile_programs import CHANNELS, GAPS, LIMITS, PROGRAMS

from pgrpo_ray.sandbox.docker_runner import DockerRunner
from pgrpo_ray.sandbox.image import DEFAULT_TAG, ensure_image
from pgrpo_ray.sandbox.plan import deadline_s
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.types import Limits, Problem, StdinCase, TestStyle, Verdict

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker_engine")]
LABEL = "pgrpo-ray.test"
OWN_LABEL = f"hostile{os.getpid()}"
OK = Problem("ok", "", TestStyle.STDIN, (StdinCase("", "ok"),), limits=LIMITS)
LOOK_AROUND = """
import os
found = [f'file {name}' for name in os.listdir('/tmp')]
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        uid = os.stat(f'/proc/{pid}').st_uid
    except FileNotFoundError:
        continue
    if uid and int(pid) != os.getpid():
        found.append(f'process {pid} of uid {uid}')
found += [f'socket {line.split()[7]}' for line in open('/proc/net/unix') if '@' in line or '/' in line]
print('; '.join(found) or 'ok')
"""
"""A right program, if the one before left nothing: its failure names what was left."""
WRONG = "print('no')"


@pytest.fixture(scope="module")
def pool():
    ensure_image()
    made = ExecutionPool(
        lambda: DockerRunner(DEFAULT_TAG, memory_mib=256, labels={LABEL: OWN_LABEL}), slots=1, retries=1
    )
    yield made
    made.close()
    assert containers() == []


def containers():
    return docker.from_env().containers.list(all=True, filters={"label": f"{LABEL}={OWN_LABEL}"})


def strangers(container):
    """Processes in the container that are not the warden's: of another user, or dead and not collected."""
    warden = container.attrs["State"]["Pid"]
    rows = container.top(ps_args="-o uid,pid,stat,args")["Processes"]
    (own,) = [row[0] for row in rows if int(row[1]) == warden]
    return [row for row in rows if row[0] != own or row[2].startswith("Z")]


def check_unharmed(pool, story):
    """Judge a right and a wrong program, then look at the container from outside."""
    right, wrong = pool.judge(OK, LOOK_AROUND), pool.judge(OK, WRONG)
    assert right.passed, f"{story}\n\nthen a right program: {right}\n{spied(pool)}"
    assert wrong.verdict is Verdict.WRONG_ANSWER, f"{story}\n\nthen a wrong program: {wrong}"
    (container,) = containers()
    deadline = time.monotonic() + 15  # of the warden's own: it may collect a fork of its own a moment later
    while left := strangers(container):
        assert time.monotonic() < deadline, f"{story}\n\nleft in the container: {left}"
        time.sleep(0.05)


def spied(pool):
    """What the look-around prints, as far as a judgement can tell: as an error, whose text is shown."""
    return pool.judge(OK, LOOK_AROUND.replace("print(", "raise SystemExit(")).detail


def each(records):
    """Parametrize over `records` by name; the known gaps among them must fail."""
    for record in records:
        marks = [pytest.mark.xfail(reason=GAPS[record.name], strict=True)] if record.name in GAPS else []
        yield pytest.param(record, id=record.name, marks=marks)


@pytest.mark.parametrize("hostile", each(PROGRAMS))
def test_verdict_and_what_is_left(pool, hostile):
    start = time.monotonic()
    judgement = pool.judge(hostile.problem, hostile.program)
    seconds = time.monotonic() - start
    story = f"{hostile.name} ({hostile.style}): {hostile.why}\n\n{hostile.program}\n{judgement} in {seconds:.1f} s"
    assert judgement.verdict in hostile.allowed, f"allowed: {sorted(hostile.allowed)}\n{story}"
    assert seconds < deadline_s(hostile.problem, 2 * len(hostile.cases), 15), f"the judge itself was held up\n{story}"
    check_unharmed(pool, story)


@pytest.mark.parametrize("channel", each(CHANNELS))
def test_nothing_reaches_the_next_program(pool, channel):
    first = channel.left.problem if channel.left else OK
    judgement = pool.judge(first, channel.leave)
    story = f"{channel.name}: {channel.why}\n\n{channel.leave}\n{judgement}\n\n{channel.look}"
    assert judgement.error is None, story
    second = pool.judge(OK, channel.look)
    assert second.passed, f"{story}\n{second}"
    check_unharmed(pool, story)


@pytest.mark.parametrize("channel", [c for c in CHANNELS if c.works_within], ids=lambda channel: channel.name)
def test_the_look_can_see(pool, channel):
    seen = Problem("seen", "", TestStyle.STDIN, (StdinCase("", "seen"),), limits=LIMITS)
    judgement = pool.judge(seen, channel.leave + channel.look)
    assert judgement.passed, f"{channel.name}\n\n{channel.leave}{channel.look}\n{judgement}"


def test_names_are_unique_and_gaps_have_one():
    names = [*(hostile.name for hostile in PROGRAMS), *(channel.name for channel in CHANNELS)]
    assert len(names) == len(set(names))
    assert set(names) >= GAPS.keys()


CPP_LIMITS = Limits(cpu_s=1.0, wall_s=3.0, memory_mib=128, output_kib=64)
_ADD = "#include <iostream>\nint a, b;\nint main() { std::cin >> a >> b; %s std::cout << a + b; }\n"
CPP = {  # name: verdicts, program
    "right": ("passed", _ADD % ""),
    "wrong": ("wrong_answer", _ADD % "a += 1;"),
    "not_cpp": ("compile_error", "print(sum(map(int, input().split())))"),
    "includes_passwd": ("compile_error", "#include </etc/passwd>\n" + _ADD % ""),
    "includes_environ": ("compile_error passed", '#include "/proc/self/environ"\n' + _ADD % ""),
    "includes_a_link_of_ours": ("compile_error passed", '#include "/proc/self/fd/3"\n' + _ADD % ""),
    "includes_zeros": ("compile_error memory_limit time_limit", '#include "/dev/zero"\n' + _ADD % ""),
    "constant_without_end": (
        "compile_error memory_limit time_limit",
        "constexpr int f(int n) { int s = 0; while (n) s++; return s; }\nconstexpr int x = f(1);\n" + _ADD % "",
    ),
    "template_without_end": (
        "compile_error memory_limit time_limit",
        "template <int N> struct T { static const int v = T<N + 1>::v; };\nint x = T<0>::v;\n" + _ADD % "",
    ),
    "artifact_too_large": ("compile_error memory_limit", "char x[200 << 20] = {1};\n" + _ADD % "a += 0 * x[a];"),
    "memory_beyond_the_limit": (
        "runtime_error memory_limit",
        "#include <cstring>\nchar x[1 << 30];\n" + _ADD % "std::memset(x, 1, sizeof x);",
    ),
    "crash": ("runtime_error", _ADD % "*(volatile int *)0 = 1;"),
    "constructor_that_leaves": (
        "wrong_answer",
        "#include <unistd.h>\n__attribute__((constructor)) void first() { _exit(0); }\n" + _ADD % "",
    ),
    "reads_itself": (
        "passed",
        "#include <fstream>\n" + _ADD % 'std::ifstream f("/proc/self/exe"); if (f.get() != 127) a++;',
    ),
    "speaks_over_every_descriptor": (
        "passed",
        "#include <unistd.h>\n" + _ADD % 'for (int fd = 3; fd < 256; fd++) if (write(fd, "value 3", 7) > 0) a++;',
    ),
    "fork_bomb": (
        "passed wrong_answer time_limit",
        "#include <unistd.h>\n"
        + _ADD % "for (;;) { int p = fork(); if (p < 0) break; if (!p) { setsid(); pause(); } }",
    ),
    "spins": ("time_limit", _ADD % "for (volatile int i = 0;; i++) {}"),
}
"""C++ of the same kind. What is compiled is hostile as well: the compiler runs beside it, as the same user."""


@pytest.fixture(scope="module")
def cpp_pool():
    tag = ensure_image(["cpp"])
    made = ExecutionPool(lambda: DockerRunner(tag, memory_mib=640, labels={LABEL: f"{OWN_LABEL}cpp"}), 1, retries=1)
    yield made
    made.close()


@pytest.mark.parametrize("name", CPP)
def test_cpp(cpp_pool, name):
    verdicts, program = CPP[name]
    cases = (StdinCase("2 3\n", "5"), StdinCase("10 -4\n", "6"))
    problem = Problem(name, "", TestStyle.STDIN, cases, language="cpp", limits=CPP_LIMITS)
    judgement = cpp_pool.judge(problem, program)
    story = f"{name}\n\n{program}\n{judgement}"
    assert judgement.verdict in verdicts.split(), f"allowed: {verdicts}\n{story}"
    assert cpp_pool.judge(problem, CPP["right"][1]).passed, story
    around = cpp_pool.judge(OK, LOOK_AROUND)
    assert around.passed, f"{story}\n{around}"
