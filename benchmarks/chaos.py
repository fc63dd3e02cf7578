"""Does a run that is harmed again and again end like one that nobody harmed, with nothing lost and nothing left?

    .venv/bin/python benchmarks/chaos.py                     # 200 steps twice: about 25 minutes on two cores
    .venv/bin/python benchmarks/chaos.py --steps 30 --harms 4 --seed 1

A seeded schedule harms parts of a real run (two rollout workers, a small policy): kills and stops of every role and of
containers, the recorder stopped for a while as by a slow disk, a full disk under the checkpoints, learner ranks' TCP
connections cut, and kills of the driver, of Ray's raylet or of everything, after which the run is resumed. An OOM kill
of a role is a SIGKILL to whoever sees it from outside, so it is among the kills. At the end:
- conservation: every rollout that was asked for has one fate;
- every checkpoint is whole;
- no process, container, shared-memory segment or draft is left;
- the mean reward of the last quarter of steps lies within three standard errors of the unharmed run's.
Writes `chaos.json` and the terminal's log to `benchmarks/results/`; exits with 1 where one of these does not hold.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
from live_run import PARTS, LiveRun
from provenance import RESULTS, origin

from pgrpo_ray.data.ledger import audit
from pgrpo_ray.errors import CheckpointError
from pgrpo_ray.obs.checkpoints import CheckpointStore
from pgrpo_ray.sandbox.runners import LABEL

SETTINGS = {
    "rollout.num_workers": 2,
    "rollout.prompts_per_step": 4,
    "checkpoint.every_steps": 3,
    "checkpoint.max_failures": 100,
    "cluster.silence_s": 10,
    "cluster.max_restarts": 1000,
    "sandbox.backend": "docker",
}
STEP_TIMEOUT_S = 300
SLOW_S = 6.0
"""For which the recorder stands still: less than `cluster.silence_s`, so that nobody may be ended for it."""
CHECKPOINT_DISK_MIB = 64


def harms() -> dict[str, Any]:
    """Every harm by name: what is done to a run. One that needs a resume returns True."""
    found = {f"kill {part}": lambda run, part=part: send(run, part, signal.SIGKILL) for part in PARTS}
    found |= {f"stop {part}": lambda run, part=part: send(run, part, signal.SIGSTOP) for part in PARTS}
    return found | {
        "kill container": lambda run: containers()[0].kill(),
        "slow disk": slow_disk,
        "full disk": full_disk,
        "cut connections": cut_connections,
        "kill driver": lambda run: end(run, [run.process.pid]),
        "kill raylet": kill_raylet,
        "kill everything": lambda run: end(run, [run.process.pid, *run.pids("all")]),
    }


def send(run: LiveRun, part: str, number: int) -> None:
    """Send a signal to one process of a part, if it has any just now."""
    if pids := run.pids(part):
        os.kill(random.choice(pids), number)


def containers() -> list[Any]:
    """Containers of sandboxes."""
    return docker.from_env().containers.list(all=True, filters={"label": LABEL})


def slow_disk(run: LiveRun) -> None:
    """Have the recorder stand still for a while."""
    for pid in run.pids("recorder"):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(SLOW_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def full_disk(run: LiveRun) -> None:
    """Leave no room under the checkpoints for two of them, where these have a disk of their own."""
    filler = run.checkpoints / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    steps = len(run.steps())
    run.wait(lambda: len(run.steps()) >= steps + 7, STEP_TIMEOUT_S, "two checkpoints fail")
    filler.unlink()


def cut_connections(run: LiveRun) -> None:
    """Cut the TCP connections of one learner rank."""
    for pid in run.pids("learner rank")[:1]:
        lines = subprocess.run(["ss", "-tnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
        for line in lines:
            if f"pid={pid}," in line:
                local, peer = line.split()[3:5]
                subprocess.run(["ss", "-K", "src", local, "dst", peer], capture_output=True, check=False)


def kill_raylet(run: LiveRun) -> bool:
    """Kill Ray's own process on the node: the driver cannot go on."""
    raylets = [pid for pid in run.pids("all") if "raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_text()]
    return end(run, raylets)


def end(run: LiveRun, pids: list[int]) -> bool:
    """Kill processes that a run cannot do without; wait for its end."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if run.process.wait(180) == 0:
        raise RuntimeError("a run whose Ray was killed ended with status 0")
    return True


def train(folder: Path, arguments: argparse.Namespace, schedule: list[tuple[int, str]]) -> dict[str, Any]:
    """Run to the end, doing each harm of the schedule once its step has been taken; return what came of it."""
    disk = folder.with_name(f"{folder.name}-checkpoints")
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={CHECKPOINT_DISK_MIB}m", "tmpfs", str(disk)], check=False
        ).returncode
    )
    settings = SETTINGS | {"run.steps": arguments.steps, "checkpoint.dir": disk}
    run = LiveRun(folder, [f"{key}={value}" for key, value in settings.items()], arguments.cache)
    run.checkpoints = disk / folder.name
    before = lent(run)
    began, done, resumes = time.monotonic(), [], 0
    run.start()
    try:
        for step, name in schedule:
            run.wait(lambda step=step: len(run.steps()) >= step, STEP_TIMEOUT_S, f"step {step}")
            if name == "full disk" and not mounted:
                print("full disk: left out, as this user cannot mount a small one")
                continue
            at, seen = len(run.steps()), len(run.said())
            must_resume = harms()[name](run)
            if must_resume:
                resumes += 1
                time.sleep(5)  # for what is left of Ray to notice
                run.start("--resume")
            done.append({"harm": name, "after_step": at, "second": round(time.monotonic() - began, 1)})
            print(json.dumps(done[-1]), flush=True)
            least = min(at, len(run.steps())) + 2
            run.wait(lambda least=least: len(run.steps()) >= least, STEP_TIMEOUT_S, f"going on after {name}")
            said = run.said()[seen:].splitlines()
            done[-1]["said"] = [line[:200] for line in said if "died" in line or "answered" in line]
        status = run.process.wait(max(600, 10 * arguments.steps))
        seconds = time.monotonic() - began
        time.sleep(5)
        store, damaged = CheckpointStore(str(run.checkpoints)), []
        for name in store.names():
            try:
                store.open(name)
            except CheckpointError as error:
                damaged.append(str(error))
        return {
            "status": status,
            "seconds": round(seconds, 1),
            "harms": done,
            "resumes": resumes,
            "rewards": [step["reward"] for step in run.steps()],
            "steps": [step["step"] for step in run.steps()],
            "ledger": audit(folder / "ledger"),
            "checkpoints": store.names(),
            "damaged": damaged,
            "drafts": [path.name for path in run.checkpoints.glob(".*")],
            "left": {kind: sorted(after - before[kind]) for kind, after in lent(run).items()},
        }
    finally:
        run.end()
        (arguments.out.parent / f"chaos-{folder.name}.log").write_text(run.log())
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def lent(run: LiveRun) -> dict[str, set[str]]:
    """What a run takes of a machine: processes, containers, shared memory."""
    memory = {path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").is_dir() else set()
    return {"processes": set(run.left()), "containers": {one.id[:12] for one in containers()}, "shared memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--harms", type=int, default=18, help="how many: each kind comes before any twice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="of starters")
    parser.add_argument("--out", type=Path, default=RESULTS / "chaos.json")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    names: list[str] = []
    while len(names) < arguments.harms:
        names += random.sample(sorted(harms()), len(harms()))
    every = max(2, (arguments.steps - 10) // arguments.harms)
    schedule = [(3 + index * every, name) for index, name in enumerate(names[: arguments.harms])]
    with tempfile.TemporaryDirectory() as folder:
        unharmed = train(Path(folder) / "unharmed", arguments, [])
        harmed = train(Path(folder) / "harmed", arguments, schedule)
    quarter = arguments.steps // 4
    last = [run["rewards"][-quarter:] for run in (unharmed, harmed)]
    means = [statistics.mean(rewards) for rewards in last]
    error = (sum(statistics.variance(rewards) / quarter for rewards in last)) ** 0.5
    findings = {
        "ended well": harmed["status"] == 0 and unharmed["status"] == 0,
        "every step once": harmed["steps"] == list(range(1, arguments.steps + 1)),
        "conservation": harmed["ledger"]["missing_groups"] == 0
        and harmed["ledger"]["groups"] == unharmed["ledger"]["groups"],
        "checkpoints are whole": bool(harmed["checkpoints"]) and not harmed["damaged"] and not harmed["drafts"],
        "nothing is left": not any(harmed["left"].values()),
        "same learning": abs(means[0] - means[1]) <= 3 * error,
    }
    results = {**origin(), "seed": arguments.seed, "settings": SETTINGS, "findings": findings}
    results |= {"last_quarter_reward": {"unharmed": means[0], "harmed": means[1], "standard_error": error}}
    results |= {"unharmed": unharmed, "harmed": harmed}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(findings, indent=1))
    if not all(findings.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
