"""Does `pgrpo rm train`, as shipped, order held-out pairs rightly, and what does proofreading before it bring?

    .venv/bin/python benchmarks/reward_model.py

Trains cluster/reward-model.yaml twice: as it stands, from the starter's proofreader, and from the starter's policy on
pairs alone, at the rate at which a fresh head learns faster. Both are measured on the same test pairs, about problems
of which neither base saw a pipeline. Also measured: how well length or a bag of words orders the pairs. Writes figures,
machine and command to `benchmarks/results/reward-model.json` and a plot to `.png`. An arm whose folder is in `--runs`
already is read, not trained again. Exits with 1 unless the shipped config orders `--wanted` of the pairs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from provenance import REPOSITORY, RESULTS, origin

from pgrpo_ray.config import load_tree
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.preflight.disk import cache_folder
from pgrpo_ray.reward_model.od.shortcuts import examine
from pgrpo_ray.starter.artifacts import ensure_starter
from pgrpo_ray.starter.pairs import make_pairs
from pgrpo_ray.starter.problems import read_jsonl

CONFIG = REPOSITORY / "cluster" / "reward-model.yaml"
SHIPPED, ALONE = "from the proofreader", "pairs alone"
PAIRS_LEARNING_RATE = 1e-3
"""Of the arm without proofreading: `train.Recipe`'s own."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-reward-model"), help="where models go")
    parser.add_argument("--wanted", type=float, default=0.85, help="pair accuracy that counts, in [0, 1]")
    arguments = parser.parse_args()
    config = load_tree(RewardTrainingConfig, CONFIG)
    starter = ensure_starter(config.starter, cache_folder())
    alone = [f"model.base={starter.policy}", f"learner.learning_rate={PAIRS_LEARNING_RATE}"]
    arms = {
        name: arm(trained(arguments.runs.absolute(), name.replace(" ", "-"), overrides))
        for name, overrides in ((SHIPPED, []), (ALONE, alone))
    }
    shortcuts = examine(make_pairs(read_jsonl(starter.heldout), 2000, config.output.seed + 1))
    result = {
        "question": __doc__.splitlines()[0],
        "command": "python benchmarks/reward_model.py",
        **origin(),
        "longer_wins": shortcuts.longer_wins.accuracy,
        "bag_of_words": shortcuts.bag_of_words.accuracy,
        "arms": arms,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reward-model.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(arms, RESULTS / "reward-model.png")
    return 0 if arms[SHIPPED]["accuracy"]["value"] >= arguments.wanted else 1


def trained(runs: Path, name: str, overrides: list[str]) -> Path:
    """Train one arm by the command that a user gives; return its folder."""
    folder = runs / name
    if not folder.exists():
        places = [f"output.dir={runs}", f"output.name={name}"]
        sets = [word for override in (*places, *overrides) for word in ("--set", override)]
        command = [sys.executable, "-c", "from pgrpo_ray.cli import main; main()", "rm", "train", str(CONFIG), *sets]
        subprocess.run(command, check=True)
    return folder


def arm(folder: Path) -> dict[str, Any]:
    """Return the figures of one training."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    calibration = report["calibration"]
    return {
        "accuracy": report["test_accuracy"]["all"],
        "by_kind": report["test_accuracy"]["by_kind"],
        "seconds": report["seconds"],
        "steps": report["steps"],
        "best_step": report["best_step"],
        "train_pairs": report["data"]["train_rows"],
        "validation_pairs": report["data"]["validation_pairs"],
        "validation_accuracy": [one["accuracy"] for one in report["evaluations"]],
        "temperature": calibration["fitted"]["temperature"],
        "calibration_error": {"before": calibration["before"]["ece"], "after": calibration["after"]["ece"]},
        "versions": report["versions"],
    }


def plot(arms: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw test accuracy by kind with its 95 % interval, one bar an arm."""
    kinds = ["all", *sorted(arms[SHIPPED]["by_kind"])]
    figure, axes = pyplot.subplots(figsize=(10, 3.8))
    for place, (name, figures) in enumerate(arms.items()):
        width = 0.8 / len(arms)
        found = [figures["accuracy"] if kind == "all" else figures["by_kind"][kind] for kind in kinds]
        ends = [
            [max(0.0, one["value"] - one["low"]) for one in found],
            [max(0.0, one["high"] - one["value"]) for one in found],
        ]
        at = [number + width * place for number in range(len(kinds))]
        axes.bar(at, [one["value"] for one in found], width, yerr=ends, label=name, align="edge", capsize=2)
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(ylabel="test pairs ordered rightly", ylim=(0, 1.02))
    axes.set_xticks([number + 0.4 for number in range(len(kinds))], kinds, rotation=20, ha="right")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(arms))
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
