"""Does it learn, and not by luck? Runs a config once per seed and compares held-out pass@1 before and after.

    .venv/bin/python benchmarks/learning_over_seeds.py --seeds 0 1 2

A seed decides everything: the starter's problems, tokenizer, policy and reward model, the order of problems, and every
sample. Writes table, machine and command to `benchmarks/results/learning-over-seeds.json`, the terminal's lines to
`.log`, the curves to `.png`. Exits with 1 unless pass@1 rose by `--points` on at least two thirds of the seeds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from provenance import REPOSITORY, RESULTS, origin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="cluster/local.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--points", type=float, default=15.0, help="rise of pass@1 that counts, percentage points")
    parser.add_argument("--runs", default="runs", help="where run folders go")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    rows, curves = [], {}
    with (RESULTS / "learning-over-seeds.log").open("w") as log:
        for seed in arguments.seeds:
            folder = train(arguments.config, seed, arguments.runs, log)
            summary = json.loads((folder / "summary.json").read_text())
            rows.append({key: summary[key] for key in sorted(summary) if key != "versions"})
            curves[seed] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    gains = [100 * (row["pass_at_1_after"] - row["pass_at_1_before"]) for row in rows]
    risen = sum(gain >= arguments.points for gain in gains)
    result = {
        "question": f"does held-out pass@1 rise by {arguments.points:g} points?",
        "command": "python benchmarks/learning_over_seeds.py " + " ".join(sys.argv[1:]),
        **origin(),
        "versions": summary["versions"],
        "gains_points": [round(gain, 1) for gain in gains],
        "runs": rows,
    }
    (RESULTS / "learning-over-seeds.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(curves, RESULTS / "learning-over-seeds.png")
    for row, gain in zip(rows, gains, strict=True):
        before, after = (f"{100 * row[f'pass_at_1_{when}']:.1f} %" for when in ("before", "after"))
        print(f"seed {row['seed']}: {before} -> {after} ({gain:+.1f} points) in {row['seconds'] / 60:.1f} minutes")
    print(f"{risen} of {len(gains)} seeds rose by {arguments.points:g} points or more")
    return 0 if 3 * risen >= 2 * len(gains) else 1


def train(config: str, seed: int, runs: str, log) -> Path:
    """Train with one seed; return the run's folder. Raises when the run fails."""
    name = f"seed-{seed}"
    overrides = [f"run.name={name}", f"run.dir={runs}", f"run.seed={seed}", f"starter.seed={seed}"]
    command = [str(Path(sys.executable).with_name("pgrpo")), "train", config]
    for override in overrides:
        command += ["--set", override]
    print(f"$ pgrpo train {config} {' '.join(f'--set {override}' for override in overrides)}", file=log, flush=True)
    subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, check=True)
    return REPOSITORY / runs / name


def plot(curves: dict[int, list[dict]], path: Path) -> None:
    """Draw pass rate and thinking reward of passers on training batches, one line a seed."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.5))
    for seed, steps in curves.items():
        left.plot([step["step"] for step in steps], [step["pass_rate"] for step in steps], label=f"seed {seed}")
        right.plot([step["step"] for step in steps], [step["thinking_passers"] for step in steps], label=f"seed {seed}")
    left.set(xlabel="step", ylabel="pass rate of the batch", ylim=(0, 1))
    right.set(xlabel="step", ylabel="thinking reward of passers", ylim=(0, 1))
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
