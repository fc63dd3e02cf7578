"""How long does a stranger wait for the first training step of `make demo`, and for what?

    .venv/bin/python benchmarks/first_step.py                      # ten minutes or so
    .venv/bin/python benchmarks/first_step.py --before FOLDER      # alternates with another checkout's pgrpo_ray

Runs what `make demo` runs, `pgrpo train cluster/local.yaml`, for one step, with an empty cache of starters, and notes
when the run says what: the starter made, the policy measured before training, the first step done. Set-up (packages,
Docker, image) is not part of it. Writes `first-step.json` to `benchmarks/results/`.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provenance import REPOSITORY, RESULTS, commit, machine

MARKS = {  # what is over when a line says so
    "starter": re.compile(r"^starter: "),
    "start, and pass@1 before": re.compile(r"^held-out pass@1 before"),
    "first step": re.compile(r"^ +1 +\d+%"),
}


def wait_for_first_step(tree: Path) -> dict[str, Any]:
    """Run; return the seconds of each part, those of the starter's own report, and what the starter is worth."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(tree), "PGRPO_CACHE": f"{folder}/cache", "PYTHONUNBUFFERED": "1"}
        command = [str(Path(sys.executable).with_name("pgrpo")), "train", "cluster/local.yaml"]
        command += ["--set", f"run.dir={folder}/runs", "--set", "run.steps=1"]
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        seconds, last, said = {}, began, []
        for line in process.stdout or ():
            said.append(line)
            for name, pattern in MARKS.items():
                if name not in seconds and pattern.match(line):
                    now = time.monotonic()
                    seconds[name], last = now - last, now
        if process.wait() or len(seconds) < len(MARKS):
            raise SystemExit("".join(said[-40:]))
        (report,) = Path(folder, "cache").glob("starter-*/report.json")
        made = json.loads(report.read_text())
        summary = json.loads(Path(folder, "runs", "local", "summary.json").read_text())
    return {
        "seconds": sum(seconds.values()),
        "parts": seconds,
        "starter": {key: made[key] for key in ("problems_s", "policy_s", "reward_model_s")},
        "rm_pair_accuracy": made["rm_pair_accuracy"]["all"],
        "pass_at_1_before": summary["pass_at_1_before"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="folder of another checkout, measured in alternation")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures go")
    arguments = parser.parse_args()
    trees = ({"before": arguments.before.resolve()} if arguments.before else {}) | {"now": REPOSITORY}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for number in range(arguments.rounds):
        for name, tree in trees.items():
            one = wait_for_first_step(tree)
            runs[name].append({"commit": commit(tree), **one})
            print(f"round {number}, {name}: {one['seconds']:.0f} s, {one['parts']}, {one['starter']}", flush=True)
    medians = {name: statistics.median(one["seconds"] for one in several) for name, several in runs.items()}
    result = {
        "question": __doc__.splitlines()[0],
        "command": f"python benchmarks/first_step.py{' --before FOLDER' if arguments.before else ''}",
        "machine": machine(),
        "seconds": medians,
        "runs": runs,
    }
    if arguments.before:
        result["before_over_now"] = medians["before"] / medians["now"]
        print(f"{result['before_over_now']:.2f} times as long before")
    arguments.results.mkdir(exist_ok=True)
    (arguments.results / "first-step.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
