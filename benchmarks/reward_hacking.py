"""Does gating the thinking reward prevent reward hacking, and does it help? One run an arm and seed, paired by seed.

    .venv/bin/python benchmarks/reward_hacking.py run --seeds 0 1 2 3 4
    .venv/bin/python benchmarks/reward_hacking.py run --reward-model brief --arms linear posterior soft decoupled
    .venv/bin/python benchmarks/reward_hacking.py report

`run` trains what is missing, one `pgrpo train` each, seed after seed through all arms, so that an interrupted series is
whole for its first seeds; it may be called again at any time, and two calls may share the arms. What a run was comes
down to three Parquet files under `benchmarks/results/reward-hacking/`: its steps, its held-out samples, and its
highest-scored failures. `report` reads those alone and writes tables, plots and the exploits beside them.

With the starter's own reward model there is little to hack: what it likes is what passes. `--reward-model brief` asks
the same of one whose taste is against the tests (`reward_hacking_models.py`).

All arms start from one policy and have the same budget of rollouts; within a seed they see the same problems in the
same order, but for `dapo`, which draws more in each step and so takes fewer, and ends with the batch that reaches the
budget. Every reasoning is scored in every arm, for the record; what an arm learns from is its rule's business.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from provenance import REPOSITORY, origin
from reward_hacking_facts import count_facts
from reward_hacking_models import REWARD_MODELS, ensure
from reward_hacking_report import write_report

from pgrpo_ray.config import load, parse
from pgrpo_ray.data.arrow import read_ipc
from pgrpo_ray.starter.problems import Exercise, read_jsonl

RESULTS = REPOSITORY / "benchmarks" / "results" / "reward-hacking"
CONFIG = "cluster/local.yaml"
GROUPS, SIZE = 32, 8
HOT = "learner.learning_rate=1.0e-3"
ARMS: dict[str, list[str]] = {
    "outcome_only": ["algo.reward=outcome_only"],
    "linear": ["algo.reward=linear"],
    "posterior": ["algo.reward=posterior"],
    "soft": ["algo.reward=soft", "sandbox.fail_fast=false"],
    "decoupled": ["algo.reward=decoupled"],
    # DAPO's dynamic sampling: the budget of rollouts ends it, so it takes fewer steps.
    "dapo": ["algo.reward=outcome_only", "algo.sampling_rounds=3"],
    # What group normalisation does to tiny thinking differences: no floor under the deviation, and no division.
    "posterior_no_floor": ["algo.reward=posterior", "algo.advantage_std_floor=1.0e-6"],
    "posterior_dr_grpo": ["algo.reward=posterior", "algo.advantage=dr_grpo"],
    # The same at five times the learning rate, where a trial without a floor had collapsed.
    "posterior_hot": ["algo.reward=posterior", HOT],
    "posterior_no_floor_hot": ["algo.reward=posterior", "algo.advantage_std_floor=1.0e-6", HOT],
    "posterior_dr_grpo_hot": ["algo.reward=posterior", "algo.advantage=dr_grpo", HOT],
    "decoupled_hot": ["algo.reward=decoupled", HOT],
}
MAIN = ("outcome_only", "linear", "posterior", "soft", "decoupled", "dapo")
NUM_EXPLOITS = 12
"""Highest-scored failures kept of a run's last steps."""
LAST_STEPS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run")
    run.add_argument("--arms", nargs="+", choices=ARMS, default=list(MAIN))
    run.add_argument("--reward-model", choices=REWARD_MODELS, default=REWARD_MODELS[0])
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    run.add_argument("--steps", type=int, default=40)
    run.add_argument("--every", type=int, default=20, help="steps between two evaluations")
    run.add_argument("--runs", default="runs/reward-hacking", help="where run folders go")
    run.add_argument("--until", type=float, help="start no run after so many minutes")
    report = actions.add_parser("report")
    report.add_argument("--resamples", type=int, default=10_000)
    arguments = parser.parse_args()
    if arguments.action == "report":
        write_report(RESULTS, list(ARMS), arguments.resamples)
        return 0
    return run_missing(arguments)


def run_missing(arguments: argparse.Namespace) -> int:
    """Train every (seed, arm) that has no result yet; return the exit status."""
    started = time.monotonic()
    name = arguments.reward_model
    scored_by, accuracy = ensure(name, REPOSITORY)
    runs = f"{arguments.runs}/{name}"
    for seed in arguments.seeds:
        for arm in arguments.arms:
            final = RESULTS / "runs" / name / f"{arm}-{seed}"
            wanted = overrides_of(arm, seed, arguments) + scored_by
            if (final / "run.json").exists():
                check_same(json.loads((final / "run.json").read_text())["config"], wanted, final)
                continue
            folder = REPOSITORY / runs / f"{arm}-{seed}"
            if (folder / "summary.json").exists():  # trained by an earlier call that was ended before it was distilled
                check_same((folder / "config.yaml").read_text(), wanted, folder)
                keep(folder, arm, seed, final, accuracy)
                continue
            if arguments.until is not None and time.monotonic() - started > 60 * arguments.until:
                print("no time left for another run", flush=True)
                return 0
            before = time.monotonic()
            train(f"{arm}-{seed}", [*wanted, f"run.dir={runs}"], runs)
            keep(folder, arm, seed, final, accuracy)
            summary = json.loads((folder / "summary.json").read_text())
            rates = " -> ".join(f"{100 * summary[f'pass_at_1_{when}']:.1f} %" for when in ("before", "after"))
            print(f"{name}, {arm}, seed {seed}: {rates} in {time.monotonic() - before:.0f} s", flush=True)
    return 0


def overrides_of(arm: str, seed: int, arguments: argparse.Namespace) -> list[str]:
    """What makes the shipped local config the run of an arm and seed."""
    steps = 3 * arguments.steps if arm == "dapo" else arguments.steps
    return [
        f"run.name={arm}-{seed}",
        f"run.seed={seed}",
        f"run.steps={steps}",
        f"run.max_rollouts={arguments.steps * GROUPS * SIZE}",
        f"evaluation.every_steps={arguments.every}",
        "reward_model.score=all",
        *ARMS[arm],
    ]


def check_same(config: str, overrides: list[str], place: Path) -> None:
    """Exit unless a run had the config that is asked for now: results of different budgets must not mix.

    A key that is younger than the run has its default there, which is to do as before.
    """
    had = parse(yaml.safe_load(config)).model_dump(mode="json")
    wanted = load(REPOSITORY / CONFIG, overrides).model_dump(mode="json")
    for one in (had, wanted):
        one["run"].pop("dir")
    if had != wanted:
        differ = [f"{s}.{k}" for s in wanted for k in wanted[s] if had[s][k] != wanted[s][k]]
        raise SystemExit(f"{place} was made with other settings ({', '.join(differ)}). Remove it, or ask for the same.")


def train(name: str, overrides: list[str], runs: str) -> None:
    """Train. Raises when the run fails."""
    command = [str(Path(sys.executable).with_name("pgrpo")), "train", CONFIG]
    for override in overrides:
        command += ["--set", override]
    log = REPOSITORY / runs / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        subprocess.run(command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, check=True)


def keep(folder: Path, arm: str, seed: int, final: Path, accuracy: float | None) -> None:
    """Distil a run's folder into `final`; `accuracy` is of its reward model where the run does not know it."""
    summary = json.loads((folder / "summary.json").read_text())
    if accuracy is not None:
        summary["rm_pair_accuracy"] = accuracy
    exercises = _exercises()
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    batches = {
        int(path.stem.rpartition("-")[2]): read_ipc(path) for path in sorted((folder / "rollouts").glob("*.arrow"))
    }
    for row in steps:
        row |= _quality(batches[row["step"]], exercises)
    final.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(steps), final / "steps.parquet", compression="zstd")
    heldout = pa.concat_tables(
        _samples(read_ipc(path), path.stem, exercises) for path in sorted((folder / "evaluations").glob("*.arrow"))
    )
    pq.write_table(heldout, final / "heldout.parquet", compression="zstd")
    pq.write_table(_exploits(batches), final / "exploits.parquet", compression="zstd")
    about = {
        "arm": arm,
        "seed": seed,
        "overrides": ARMS[arm],
        "config": (folder / "config.yaml").read_text(),
        "rollouts": sum(row["issued"] for row in steps),
        "seconds": summary["seconds"],
        "summary": summary,
        **origin(),
    }
    (final / "run.json").write_text(json.dumps(about, indent=2) + "\n")


def _exercises() -> dict[str, Exercise]:
    """Every problem of the starter by its id."""
    from pgrpo_ray.config import StarterSection
    from pgrpo_ray.preflight.disk import cache_folder
    from pgrpo_ray.starter.artifacts import StarterPaths, content_key

    paths = StarterPaths.inside(cache_folder() / f"starter-{content_key(StarterSection())}")
    found = {}
    for file in (paths.train, paths.heldout):
        ids = [json.loads(line)["id"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
        found |= dict(zip(ids, read_jsonl(file), strict=True))
    return found


def _facts(table: pa.Table, exercises: dict[str, Exercise]) -> np.ndarray:
    """(true, stated) facts of each row, int [N, 2]; zeros without reasoning."""
    pairs = zip(table["problem_id"].to_pylist(), table["thinking"].to_pylist(), strict=True)
    return np.array([count_facts(text, exercises[problem]) if text else (0, 0) for problem, text in pairs])


def _quality(batch: pa.Table, exercises: dict[str, Exercise]) -> dict[str, float]:
    """Of a batch: true facts over stated ones, and facts stated by a rollout."""
    true, stated = _facts(batch, exercises).sum(axis=0)
    return {
        "true_facts_frac": float(true / stated) if stated else None,
        "facts_per_rollout": float(stated / batch.num_rows),
    }


def _samples(table: pa.Table, when: str, exercises: dict[str, Exercise]) -> pa.Table:
    """One row a held-out sample; those that the machinery could not judge are left out."""
    table = table.filter(pc.or_kleene(pc.is_valid(table["verdict"]), pc.is_null(table["program"])))
    facts = _facts(table, exercises)
    tokens = [len(ids) for ids in table["response_ids"]]
    return pa.table(
        {
            "when": pa.array([when] * table.num_rows).dictionary_encode(),
            "problem_id": table["problem_id"].dictionary_encode(),
            "passed": [verdict == "passed" for verdict in table["verdict"].to_pylist()],
            "tokens": pa.array(tokens, pa.int32()),
            "true_facts": pa.array(facts[:, 0], pa.int16()),
            "stated_facts": pa.array(facts[:, 1], pa.int16()),
        }
    )


def _exploits(batches: dict[int, pa.Table]) -> pa.Table:
    """The failures that the reward model liked best, of the last steps."""
    columns = ["problem_id", "prompt", "thinking", "program", "verdict", "thinking_reward", "reward"]
    last = pa.concat_tables([batches[step].select(columns) for step in sorted(batches)[-LAST_STEPS:]])
    rows = [
        row for row in last.to_pylist() if row["verdict"] not in (None, "passed") and row["thinking_reward"] is not None
    ]
    rows.sort(key=lambda row: -row["thinking_reward"])
    distinct = {(row["problem_id"], row["thinking"]): row for row in reversed(rows)}
    best = sorted(distinct.values(), key=lambda row: -row["thinking_reward"])[:NUM_EXPLOITS]
    return pa.Table.from_pylist(best, schema=last.schema)


if __name__ == "__main__":
    sys.exit(main())
