"""Does proofreading teach the starter's reward model to see planted mistakes, where pairs alone do not?

    .venv/bin/python benchmarks/starter_reward_model.py --starter ~/.cache/pgrpo_ray/starter-<key>

Trains from the policy of a starter that was made before (`pgrpo` makes it on first use; its folder is in the cache),
once on pairs alone and once as the starter does it, with equally many steps, and measures pairs of held-out problems.
Also measured: how well length or a bag of words orders these pairs. Writes table, machine and command to
`benchmarks/results/starter-reward-model.json` and a plot beside it. Exits with 1 unless the starter's way orders
`--wanted` of the pairs.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot

from pgrpo_ray.config import StarterSection
from pgrpo_ray.reward_model.model import untrained
from pgrpo_ray.reward_model.od.shortcuts import examine
from pgrpo_ray.reward_model.train import Recipe, pair_accuracy, train
from pgrpo_ray.starter import proofreading
from pgrpo_ray.starter.pairs import make_pairs
from pgrpo_ray.starter.problems import read_jsonl

RESULTS = Path(__file__).parent / "results"
ARMS = {"pairs": 0.0, "proofreading": proofreading.SHARE_FRAC}
"""Share of the steps that proofread."""
PAIRS_LEARNING_RATE = 1e-3
"""Of the arm without proofreading: `train.Recipe`'s own, at which a fresh head learns faster."""


def main() -> int:
    defaults = StarterSection()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starter", type=Path, required=True, help="folder of a starter")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=defaults.reward_model_steps)
    parser.add_argument("--pairs", type=int, default=2000, help="held-out pairs")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--wanted", type=float, default=0.85, help="pair accuracy that counts, in [0, 1]")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    heldout = make_pairs(read_jsonl(arguments.starter / "heldout.jsonl"), arguments.pairs, arguments.seed + 1)
    shortcuts = examine(heldout)
    arms = {arm: run(arm, arguments, heldout) for arm in arguments.arms}
    result = {
        "question": __doc__.splitlines()[0],
        "command": "python benchmarks/starter_reward_model.py " + " ".join(sys.argv[1:]),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "torch": torch.__version__,
        "heldout_pairs": len(heldout),
        "longer_wins": shortcuts.longer_wins.accuracy,
        "bag_of_words": shortcuts.bag_of_words.accuracy,
        "arms": arms,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "starter-reward-model.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(arms, RESULTS / "starter-reward-model.png")
    return 0 if arms.get("proofreading", {"accuracy": {"all": math.nan}})["accuracy"]["all"] >= arguments.wanted else 1


def run(arm: str, arguments: argparse.Namespace, heldout: list) -> dict:
    """Train one arm and measure it."""
    started = time.monotonic()
    exercises = read_jsonl(arguments.starter / "warmup.jsonl")
    model = untrained(arguments.starter / "policy", seed=arguments.seed)
    first = int(arguments.steps * ARMS[arm])
    if first:
        proofs = proofreading.make_proofs(model, exercises, first * proofreading.BATCH_SIZE, arguments.seed)
        proofreading.train(model, proofs, first, arguments.seed)
    rate = proofreading.PREFERENCE_LEARNING_RATE if first else PAIRS_LEARNING_RATE
    recipe = Recipe(steps=arguments.steps - first, learning_rate=rate, seed=arguments.seed)
    loss = train(model, make_pairs(exercises, recipe.steps * recipe.batch_pairs, arguments.seed), recipe)
    seconds = time.monotonic() - started
    accuracy = pair_accuracy(model, heldout)
    print(f"{arm}: {100 * accuracy['all']:.1f} % of {len(heldout)} pairs in {seconds:.0f} s", flush=True)
    for kind in sorted(accuracy):
        print(f"  {kind:<18} {100 * accuracy[kind]:5.1f} %", flush=True)
    return {
        "proofreading_steps": first,
        "pair_steps": recipe.steps,
        "seconds": seconds,
        "loss": loss,
        "accuracy": accuracy,
    }


def plot(arms: dict[str, dict], path: Path) -> None:
    """Draw pair accuracy by kind, one bar an arm."""
    kinds = sorted(next(iter(arms.values()))["accuracy"])
    figure, axes = pyplot.subplots(figsize=(10, 3.8))
    for place, (arm, row) in enumerate(arms.items()):
        width = 0.8 / len(arms)
        at = [number + width * place for number in range(len(kinds))]
        axes.bar(at, [row["accuracy"][kind] for kind in kinds], width, label=arm, align="edge")
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(ylabel="pairs ordered rightly", ylim=(0, 1.02))
    axes.set_xticks([number + 0.4 for number in range(len(kinds))], kinds, rotation=20, ha="right")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(arms))
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
