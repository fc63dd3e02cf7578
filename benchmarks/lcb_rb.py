"""Does the reward model order reasoning better than length alone, and what fools it? Builds LCB-RB, scores, probes.

    .venv/bin/python benchmarks/lcb_rb.py

With nothing else: the starter's policy is sampled, its programs are judged, the starter's judge keeps the pairs, and
the starter's reward model is scored and probed. Writes figures, machine and command to
`benchmarks/results/lcb-rb.json`, the terminal's lines to `.txt`, and a plot to `.png`. Exits with 1 unless there are
`--pairs` pairs and the accuracy's interval lies above every length baseline's.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from provenance import REPOSITORY, RESULTS, origin

LENGTH_BASELINES = ("longer wins", "shorter wins")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="cluster/lcb-rb.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="for the build")
    parser.add_argument("--folder", type=Path, default=Path("lcb-rb/benchmark"), help="where the build goes")
    parser.add_argument("--reward-model", default="starter")
    parser.add_argument("--probe-problems", help="file of the starter's problems; default: the starter's held-out ones")
    parser.add_argument("--pairs", type=int, default=200, help="pairs that are enough")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    folder = arguments.folder.absolute()
    places = [f"lcb_rb.dir={folder.parent}", f"lcb_rb.name={folder.name}"]
    sets = [word for override in (*places, *arguments.overrides) for word in ("--set", override)]
    probed = ["--problems", arguments.probe_problems] if arguments.probe_problems else []
    model = ["--reward-model", arguments.reward_model]
    sampled_before = any(folder.glob("samples/*.arrow"))
    started = time.monotonic()
    with (RESULTS / "lcb-rb.txt").open("w") as log:
        pgrpo(log, "lcb-rb", "build", arguments.config, *sets)
        built = time.monotonic()
        pgrpo(log, "lcb-rb", "score", str(folder / "pairs.jsonl"), *model, "--out", str(folder / "scores.json"))
        pgrpo(log, "rm", "probe", *model, *probed, "--out", str(folder / "probes.json"))
    build, scores, probes = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("report", "scores", "probes")
    )
    result = {
        "question": "does the reward model order reasoning better than length alone, and what fools it?",
        # Values of arguments are places on this machine; which were given is what counts.
        "command": " ".join(["python benchmarks/lcb_rb.py", *(word for word in sys.argv[1:] if word[:2] == "--")]),
        **origin(),
        "build_s": round(built - started, 1),
        "samples": "were there before" if sampled_before else "made in this run",
        "score_and_probe_s": round(time.monotonic() - built, 1),
        "build": {name: build[name] for name in ("pairs", "problems", "stages", "by_difficulty", "length")},
        "judge": {"name": build["judge"]["name"]},
        "scores": {name: without_paths(one) for name, one in scores["results"].items()},
        "minus_best_length_baseline": scores["minus_best_length_baseline"],
        "probes": probes["probes"],
        "worst_probe": probes["worst"],
    }
    (RESULTS / "lcb-rb.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(result, RESULTS / "lcb-rb.png")
    return 0 if enough(result, arguments.pairs) else 1


def pgrpo(log: Any, *arguments: str) -> None:
    """Run one command; its lines go to the terminal and, without the paths of this machine, to the log."""
    command = [str(Path(sys.executable).with_name("pgrpo")), *arguments]
    print("$ pgrpo", *arguments[:2], file=log)
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "110", "NO_COLOR": "1"}
    )
    sys.stdout.write(done.stdout)
    hidden = (f"{Path.home()}/", f"{REPOSITORY}/", "report:", "benchmark:", "starter:", "reward model: ")
    log.writelines(line for line in done.stdout.splitlines(True) if not any(word in line for word in hidden))
    log.flush()
    if done.returncode:
        sys.exit(f"pgrpo {' '.join(arguments)} ended with status {done.returncode}")


def without_paths(one: dict[str, Any]) -> dict[str, Any]:
    """Leave out where the model lay."""
    return {key: value for key, value in one.items() if key != "model"}


def enough(result: dict[str, Any], pairs: int) -> bool:
    """Whether there are enough pairs and the reward model's interval lies above the length baselines'."""
    accuracies = {name: one["accuracy"] for name, one in result["scores"].items()}
    best = max(accuracies[name]["high"] for name in LENGTH_BASELINES)
    low = accuracies["reward model"]["low"]
    print(f"{result['build']['pairs']} pairs; reward model from {100 * low:.1f} %, length up to {100 * best:.1f} %")
    return result["build"]["pairs"] >= pairs and low > best


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw accuracies and how often each probe fools, with their 95 % intervals."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    scores = {name: one["accuracy"] for name, one in result["scores"].items()}
    buckets = result["scores"]["reward model"].get("by_difficulty", {})
    scores |= {f"reward model, {bucket}": one for bucket, one in buckets.items()}
    bars(left, scores, "pair accuracy, %")
    left.axvline(50, color="grey", linestyle=":", linewidth=1)
    left.set_title(f"LCB-RB from the starter: {result['build']['pairs']} pairs")
    bars(right, {one["probe"]: one["fooled"] for one in result["probes"] if one["fooled"]}, "fooled, %")
    right.set_title("probes: worse text scores at least as high")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def bars(axes: Any, estimates: dict[str, dict[str, Any]], label: str) -> None:
    """Draw one horizontal bar an estimate, the first on top."""
    for row, (name, one) in enumerate(reversed(estimates.items())):
        low, high = (one["value"] if one[end] is None else one[end] for end in ("low", "high"))
        errors = [[100 * max(0, one["value"] - low)], [100 * max(0, high - one["value"])]]
        colour = "#2b5fab" if "reward model" in name or label.startswith("fooled") else "#9aa3ad"
        axes.barh(row, 100 * one["value"], color=colour, xerr=errors, capsize=3)
    axes.set_yticks(range(len(estimates)), list(reversed(estimates)))
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)


if __name__ == "__main__":
    sys.exit(main())
