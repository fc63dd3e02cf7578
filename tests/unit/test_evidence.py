"""What is read of real processes, logs and cgroup files, without Ray."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pgrpo_ray.actors import evidence


@pytest.fixture
def program(tmp_path):
    """Start a Python program as Ray would, its standard error in a worker's log; give its pid once it printed a line.

    The folder is outside the standard library and packages, so its frames count.
    """
    started = []

    def start(source):
        path = tmp_path / "role.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        with (tmp_path / "starting").open("w", encoding="utf-8") as err:
            child = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, stderr=err, text=True)
        (tmp_path / "starting").rename(tmp_path / f"worker-ab12-01000000-{child.pid}.err")
        started.append(child)
        assert child.stdout.readline()
        while "State:\tS" not in Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8"):  # now it sleeps
            time.sleep(0.01)
        return child.pid

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


SLEEPER = """
    import time
    def outer(): inner()
    def inner():
        print("up", flush=True)
        time.sleep(60)
    {before}
    outer()
"""
REGISTERED = "from pgrpo_ray.actors import evidence; evidence.write_stacks_on_signal()"


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_is_found_with_its_state_and_where_it_stands(program, tmp_path, stopped):
    pid = program(SLEEPER.format(before=""))
    if stopped:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)
    found = evidence.examine(pid, tmp_path)
    assert found.state.startswith("stopped by a signal" if stopped else "waiting")
    (stack,) = found.stacks
    place = tmp_path.name + "/role.py"
    assert stack.frames == (f"{place}:6 inner", f"{place}:3 outer", f"{place}:8 <module>")
    assert found.note == ""


@pytest.fixture
def no_spy(monkeypatch):
    monkeypatch.setattr(evidence, "_run", lambda command: "")


def test_where_py_spy_may_not_read_the_process_writes_its_stacks_itself(program, tmp_path, no_spy):
    found = evidence.examine(program(SLEEPER.format(before=REGISTERED)), tmp_path)
    assert [frame.rpartition(" ")[2] for frame in found.stacks[0].frames] == ["inner", "outer", "<module>"]
    assert found.note == ""


def test_a_process_that_does_not_expect_the_signal_is_left_alone(program, tmp_path, no_spy):
    pid = program(SLEEPER.format(before=""))
    found = evidence.examine(pid, tmp_path)
    assert "does not write its stacks on SIGUSR2" in found.note
    assert evidence.examine(pid, tmp_path).state.startswith("waiting")  # the signal would have ended it


def test_a_stopped_process_cannot_write_its_stacks_and_that_is_said(program, tmp_path, no_spy):
    pid = program(SLEEPER.format(before=REGISTERED))
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.2)
    found = evidence.examine(pid, tmp_path)
    assert found.stacks == ()
    assert found.note.endswith("A stopped process cannot write its stacks itself.")


def test_a_process_that_is_gone_is_said_to_be_gone(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert evidence.examine(child.pid, tmp_path).state == "gone"


def test_only_threads_that_run_more_than_ray_and_the_library_are_kept():
    library = f"{os.path.dirname(os.__file__)}/threading.py"
    ray = "/x/site-packages/ray/_private/worker.py"
    stacks = evidence._stacks(
        [
            ("main", [(ray, 1069, "main_loop")]),
            ("pool", [(library, 327, "wait"), (library, 1002, "_bootstrap")]),
            ("engine", [(library, 327, "wait"), ("/x/pgrpo_ray/rollout/a.py", 7, "step"), (ray, 740, "executor")]),
            ("deep", [("/x/site-packages/torch/t.py", line, "f") for line in range(100)]),
        ]
    )
    assert [stack.thread for stack in stacks] == ["engine", "deep"]
    assert stacks[0].frames == ("threading.py:327 wait", "pgrpo_ray/rollout/a.py:7 step")
    assert len(stacks[1].frames) == evidence.MAX_FRAMES
    assert stacks[1].frames[0] == "torch/t.py:0 f"


def write_logs(folder, out, err):
    (folder / "worker-ab12-01000000-7.out").write_text("\n".join(out), encoding="utf-8")
    (folder / "worker-ab12-01000000-7.err").write_text("\n".join(err), encoding="utf-8")
    (folder / "worker-cd34-01000000-8.err").write_text("somebody else's", encoding="utf-8")


@pytest.mark.parametrize(("out", "err", "shown"), [(50, 50, (10, 10)), (3, 50, (3, 17)), (50, 0, (20, 0))])
def test_the_last_lines_are_shared_between_the_two_logs(tmp_path, out, err, shown):
    outs, errs = [f"out {n}" for n in range(out)], [f"err {n}" for n in range(err)]
    write_logs(tmp_path, [":job_id:01000000", ":actor_name:A", *outs], errs)
    kept = outs[out - shown[0] :] + errs[err - shown[1] :]
    assert evidence.log_lines(tmp_path, "ab12") == kept


def test_log_lines_are_bounded_and_tell_what_python_and_not_c_did(tmp_path):
    c_frame = "/x/_raylet.so(+0x1812b9a) [0x7fa20ae12b9a] ray::operator<<()"
    write_logs(tmp_path, ["x" * 10_000], [c_frame, "\x1b[36mValueError: no\x1b[39m", "    @     0x7f9cece5a050  kill"])
    assert evidence.log_lines(tmp_path, "ab12") == ["x" * evidence.LINE_CHARS + " ...", "ValueError: no"]
    write_logs(tmp_path, ["first", *[c_frame] * (evidence.LOG_BYTES // 50), "last"], [])
    shown = evidence.log_lines(tmp_path, "ab12")
    assert shown[-1] == "last"
    assert "first" not in shown
    assert evidence.log_lines(tmp_path / "absent", "ab12") == []


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        ("0::/ray/workers\n", "ray/workers/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n"),
        ("5:cpu:/a\n4:memory:/a/b\n0::/\n", "memory/a/b/memory.oom_control", "under_oom 0\noom_kill 2\n"),
        (
            "4:cpu,memory:/docker/ab\n",
            "memory/memory.oom_control",
            "oom_kill_disable 0\noom_kill 2\n",
        ),  # in a container
    ],
)
def test_kills_of_the_kernel_are_counted_in_either_kind_of_cgroup(tmp_path, membership, file, text):
    (tmp_path / "self").write_text(membership, encoding="utf-8")
    assert evidence.oom_kills(tmp_path, tmp_path / "self") is None
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert evidence.oom_kills(tmp_path, tmp_path / "self") == 2


def test_the_kernels_line_is_the_one_of_that_process(monkeypatch):
    kernel = (
        "[25624.479006] Memory cgroup out of memory: Killed process 2501 (python3) total-vm:19360kB\n"
        "[25624.906878] Out of memory: Killed process 25011 (ray::Rollout) total-vm:111524kB, anon-rss:100924kB\n"
    )
    monkeypatch.setattr(evidence, "_run", lambda command: kernel)
    told = "Out of memory: Killed process 25011 (ray::Rollout) total-vm:111524kB, anon-rss:100924kB"
    assert evidence.kernel_kill(25011) == told
    assert evidence.kernel_kill(5011) == ""


def test_a_pulse_tells_of_this_process():
    pulse = evidence.pulse("ab12", "10.0.0.3")
    assert (pulse.pid, pulse.node_id, pulse.address) == (os.getpid(), "ab12", "10.0.0.3")
    assert evidence.MIB < pulse.resident_bytes < 1 << 36
