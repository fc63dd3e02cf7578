"""How long does a run take from the loss of a part to its next good step?

    .venv/bin/python benchmarks/recovery.py                # every part, killed and stopped: about 15 minutes
    .venv/bin/python benchmarks/recovery.py --parts "learner rank" --how kill

One run with two rollout workers, a checkpoint at every second step. Each part in turn is killed (SIGKILL) or stopped
(SIGSTOP: it lives and does not answer, and is to be found by the watchdog within `cluster.silence_s`, here 10 s). Noted
are the seconds until the run names the part, and until the next step after what was lost is done. At the end every
rollout must have one fate. Writes `recovery.json` to `benchmarks/results/`.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
from live_run import PARTS, LiveRun
from provenance import RESULTS, origin

from pgrpo_ray.data.ledger import audit
from pgrpo_ray.sandbox.runners import LABEL

SETTINGS = {
    "run.steps": 2000,
    "rollout.num_workers": 2,
    "checkpoint.every_steps": 2,
    "cluster.silence_s": 10,
    "cluster.max_restarts": 100,
    "sandbox.backend": "docker",
    "reward_model.score": "all",  # else a step in which nothing passes needs no replica
}
TIMEOUT_S = 240
NAMED = {  # what the run says of it
    "rollout worker": "rollout worker",
    "learner rank": "learner",
    "execution pool": "execution pool",
    "recorder": "recorder",
    "reward replica": "reward replica",
}


def harm(run: LiveRun, part: str, how: str) -> None:
    """Kill or stop one process of a part."""
    if part == "container":
        containers = docker.from_env().containers.list(filters={"label": LABEL})
        containers[0].kill() if how == "kill" else containers[0].pause()
        return
    os.kill(run.pids(part)[0], signal.SIGKILL if how == "kill" else signal.SIGSTOP)


def recover(run: LiveRun, part: str, how: str) -> dict[str, Any]:
    """Harm a part; return when the run named it, and when it had taken the next step after that."""
    run.wait(lambda: len(run.pids(part)) >= 1 if part in PARTS else True, TIMEOUT_S, f"a {part} is there")
    before, seen = run.steps(), len(run.said())
    run.wait(lambda: len(run.steps()) > len(before), TIMEOUT_S, "a step goes well")
    steps = len(run.steps())
    harm(run, part, how)
    began, named, least = time.monotonic(), None, steps
    word = NAMED.get(part)
    while True:
        run.wait(lambda: True, 1, "")
        if named is None and word and any(word in line for line in run.said()[seen:].splitlines()[1:]):
            named = time.monotonic() - began
        now = len(run.steps())
        least = min(least, now)
        # After the loss: one step may have been all but done when it came, so two more.
        if now >= (least if least < steps else steps + 1) + 1:
            break
        if time.monotonic() - began > TIMEOUT_S:
            raise RuntimeError(f"{part}, {how}: no step within {TIMEOUT_S} s:\n{run.said()[-4000:]}")
        time.sleep(0.05)
    return {
        "part": part,
        "how": how,
        "named_s": named,
        "next_step_s": time.monotonic() - began,
        "steps_lost": steps - least,
        "said": [line for line in run.said()[seen:].splitlines() if word and word in line][:3],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ["rollout worker", "execution pool", "container", "reward replica", "recorder", "learner rank"]
    parser.add_argument("--parts", nargs="+", default=everything)
    parser.add_argument("--how", nargs="+", default=["kill", "stop"])
    parser.add_argument("--out", type=Path, default=RESULTS / "recovery.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = LiveRun(Path(folder) / "run", [f"{key}={value}" for key, value in SETTINGS.items()])
        run.start()
        try:
            run.wait(lambda: len(run.steps()) >= 3, 600, "the first steps")
            usual = [step["step_s"] for step in run.steps()][1:]
            found = []
            for how in arguments.how:
                for part in arguments.parts:
                    if (part, how) == ("container", "stop"):
                        continue  # found when a program's own patience ends, minutes later (docs/checkpoints.md)
                    found.append(recover(run, part, how))
                    print(json.dumps(found[-1]), flush=True)
        finally:
            run.end()
            (arguments.out.parent / "recovery.log").write_text(run.log())
        ledger = audit(run.folder / "ledger")
    results = {**origin(), "settings": SETTINGS, "step_s": usual, "recoveries": found, "ledger": ledger}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
