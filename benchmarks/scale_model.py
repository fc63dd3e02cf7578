"""Where would the design saturate past one machine? A discrete-event simulation of the driver, its queues, its roles.

    .venv/bin/python benchmarks/scale_model.py --run runs/local

First it learns from a recorded run (any `pgrpo train` folder): from the first half of its steps what an engine's
decoding step, a judged program and a trained token cost; then it predicts the second half from the lengths of its
responses alone, which says how far to trust the rest. Then it simulates a 7B policy on 8 to 1,024 GPUs: of these costs
only the driver's could be measured here (`driver_cost.py`); the others are assumptions, each with its reason, in
`CLUSTER`.

What is simulated: engines that decode their share of groups in one continuous batch, to the last token of the last
group; the driver as one server; slots and reward replicas as queues; the learner; the publication of weights. Staleness
1 means that the next batch is sampled while one is learned from. Writes `benchmarks/results/scale-model.json` and
`.png`.
"""

import argparse
import heapq
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
from provenance import RESULTS

matplotlib.use("Agg")
import numpy as np
import simpy
from matplotlib import pyplot
from scipy.optimize import nnls

from pgrpo_ray.config import load
from pgrpo_ray.data.arrow import read_ipc


@dataclass(frozen=True)
class Costs:
    """Seconds that parts of the work take."""

    decode_step_s: float
    """One token for every running sequence of an engine, however few they are."""
    decode_sequence_s: float
    """More of it for each running sequence."""
    program_s: float
    """Mean time of a judged program on a slot; drawn from an exponential distribution."""
    score_s: float
    """One reasoning, on one reward replica."""
    train_token_s: float
    """One token on one learner GPU (or rank)."""
    train_step_s: float
    """One optimizer step, however small."""
    driver_group_s: float
    """The driver, each time that it takes a group: sampled, judged, scored."""
    driver_rollout_s: float
    """The driver, per rollout of a batch: rewards, advantages, plan, shares."""
    publish_s: float
    """Gathering the weights and making them available."""
    fetch_s: float
    """One copy of the weights from node to node; copies spread in a tree."""
    load_s: float
    """Applying the weights in an engine."""


@dataclass(frozen=True)
class Shape:
    """What there is, and what it has to do in a step."""

    engines: int
    max_concurrent: int
    slots: int
    replicas: int
    learners: int
    groups: int
    group_size: int
    mini_batches: int
    pass_frac: float
    nodes: int
    ahead: int = 0
    """Batches sampled ahead of the learner: 0 or 1."""


@dataclass
class Busy:
    """Seconds for which parts worked, summed over their servers."""

    engines: float = 0.0
    driver: float = 0.0
    slots: float = 0.0
    replicas: float = 0.0
    learner: float = 0.0
    sync: float = 0.0


DRIVER_GROUP_S, DRIVER_ROLLOUT_S = 5e-4, 5e-6
"""Measured on two cores, rounded up (`results/driver-cost.json`): each of three visits where every group of eight
travels alone, which is the dear way; the numpy of a rollout."""
H100_BYTES_S, H100_FLOPS = 3.35e12, 989e12
PARAMETERS = 7.6e9
CLUSTER = Costs(
    decode_step_s=1.4 * 2 * PARAMETERS / H100_BYTES_S,  # bf16 weights are read once a step, at 70 % of the bandwidth
    decode_sequence_s=4096 * 57e3 / H100_BYTES_S * 1.4,  # 57 KB of keys and values a token (28 layers, 4 heads), at 4K
    program_s=0.3,  # LiveCodeBench programs on some tens of tests; our own starter's take 4 ms
    score_s=1024 * 2 * PARAMETERS / (0.4 * H100_FLOPS),  # a forward pass over 1,024 tokens at 40 % utilisation
    train_token_s=8 * PARAMETERS / (0.35 * H100_FLOPS),  # forward, its recomputation, backward, at 35 %
    train_step_s=1.0,
    driver_group_s=DRIVER_GROUP_S,
    driver_rollout_s=DRIVER_ROLLOUT_S,
    publish_s=2 * PARAMETERS / 5e9,  # one process copies 15 GB into shared memory
    fetch_s=2 * PARAMETERS / 12.5e9,  # 100 Gbit/s between nodes
    load_s=2 * PARAMETERS / 10e9,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a recorded run to learn from")
    parser.add_argument("--tokens", type=float, default=1e6, help="response tokens of a step")
    arguments = parser.parse_args()
    learned, check = calibrate(arguments.run)
    table = [
        best(gpus, ahead, CLUSTER, arguments.tokens)
        for ahead in (0, 1)
        for gpus in (8, 16, 32, 64, 128, 256, 512, 1024)
    ]
    larger = [best(1024, 1, CLUSTER, tokens) for tokens in (1e6, 4e6, 16e6, 64e6)]
    result = {
        "question": __doc__.splitlines()[0],
        "command": f"python benchmarks/scale_model.py --run {arguments.run.name}",
        "learned": asdict(learned),
        "check": check,
        "assumed": asdict(CLUSTER),
        "steps_of_1m_tokens": table,
        "larger_steps_on_1024": larger,
    }
    (RESULTS / "scale-model.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(check, table, larger)
    plot(table, RESULTS / "scale-model.png")
    return 0


def calibrate(folder: Path) -> tuple[Costs, dict[str, float]]:
    """Fit `Costs` to the first half of a run's steps; return them and how well they predict the second half."""
    config = _config(folder)
    steps = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        table = read_ipc(folder / "rollouts" / f"step-{row['step']:06d}.arrow")
        lengths = np.array([len(ids) for ids in table["response_ids"]]).reshape(-1, config.group_size)
        steps.append((row, lengths, float(np.mean(table["duration_ms"].drop_null().to_numpy())) / 1000))
    half = len(steps) // 2
    known = steps[:half]

    # Decoding takes a share for each step of the longest response and one for each token; neither can be below 0.
    def line(ones: list[float], twos: list[float], seen: list[float]) -> tuple[float, float]:
        (first, second), _ = nnls(np.column_stack([ones, twos]), np.array(seen))
        return float(first), float(second)

    decode = line([s[1].max() for s in known], [s[1].sum() for s in known], [s[0]["sample_s"] for s in known])
    train = line(
        [config.mini_batches] * half, [s[0]["trained_tokens"] for s in known], [s[0]["update_s"] for s in known]
    )
    costs = Costs(
        decode_step_s=decode[0],
        decode_sequence_s=decode[1],
        program_s=float(np.mean([s[2] for s in known])),
        score_s=0.0,
        train_token_s=train[1],
        train_step_s=train[0],
        driver_group_s=DRIVER_GROUP_S,
        driver_rollout_s=DRIVER_ROLLOUT_S,
        publish_s=float(np.mean([s[0]["sync_s"] for s in known])),
        fetch_s=0.0,
        load_s=0.0,
    )
    ratios = []
    for row, lengths, _ in steps[half:]:
        shape = replace(config, pass_frac=row["pass_rate"], groups=len(lengths))
        took, _ = simulate([lengths], [row["trained_tokens"]], shape, costs, np.random.default_rng(row["step"]))
        ratios.append(took / row["step_s"])
    return costs, {
        "steps": len(ratios),
        "predicted_over_measured": float(np.mean(ratios)),
        "worst_low": float(np.min(ratios)),
        "worst_high": float(np.max(ratios)),
    }


def _config(folder: Path) -> Shape:
    """The shape of a recorded run."""
    config = load(folder / "config.yaml")
    return Shape(
        engines=config.rollout.num_workers,
        max_concurrent=config.rollout.max_concurrent,
        slots=config.sandbox.slots,
        replicas=config.reward_model.replicas,
        learners=1,  # what is learned is the time of all ranks together
        groups=config.rollout.prompts_per_step,
        group_size=config.rollout.group_size,
        mini_batches=config.algo.num_mini_batches,
        pass_frac=0.5,
        nodes=1,
    )


def simulate(
    batches: list[np.ndarray], trained: list[float], shape: Shape, costs: Costs, random: np.random.Generator
) -> tuple[float, Busy]:
    """Return the seconds that training on `batches` takes, and what was busy meanwhile.

    `batches`: response lengths, int [groups, group_size] each; `trained`: tokens with a gradient of each.
    """
    world = simpy.Environment()
    driver = simpy.Resource(world, 1)
    slots, replicas = simpy.Resource(world, shape.slots), simpy.Resource(world, max(1, shape.replicas))
    busy = Busy()
    # Sampling of batch b may begin when b - ahead batches are learned from and published.
    published = [world.event() for _ in range(len(batches) + shape.ahead + 1)]
    for event in published[: shape.ahead + 1]:
        event.succeed()
    collected = [world.event() for _ in batches]

    def use(resource: simpy.Resource, seconds: float, name: str):
        with resource.request() as turn:
            yield turn
            setattr(busy, name, getattr(busy, name) + seconds)
            yield world.timeout(seconds)

    def group(sampled_s: float, passers: int, programs: np.ndarray):
        yield world.timeout(sampled_s)
        yield from use(driver, costs.driver_group_s, "driver")
        yield world.all_of([world.process(use(slots, seconds, "slots")) for seconds in programs])
        yield from use(driver, costs.driver_group_s, "driver")
        if passers:
            yield from use(replicas, passers * costs.score_s, "replicas")
            yield from use(driver, costs.driver_group_s, "driver")

    def collect():
        for number, lengths in enumerate(batches):
            yield published[number]
            ends = np.empty(len(lengths))
            for engine in range(shape.engines):
                share = lengths[engine :: shape.engines]
                if len(share):
                    ends[engine :: shape.engines] = finish_times(share, shape.max_concurrent, costs)
                    busy.engines += ends[engine :: shape.engines].max()
            passers = random.binomial(shape.group_size, shape.pass_frac, len(lengths))
            programs = random.exponential(costs.program_s, lengths.shape)
            yield world.all_of(
                [world.process(group(*one)) for one in zip(ends, passers.tolist(), programs, strict=True)]
            )
            yield from use(driver, lengths.size * costs.driver_rollout_s, "driver")
            collected[number].succeed()

    def learn():
        for number, tokens in enumerate(trained):
            yield collected[number]
            seconds = tokens * costs.train_token_s / shape.learners + shape.mini_batches * costs.train_step_s
            busy.learner += seconds
            yield world.timeout(seconds)
            hops = math.ceil(math.log2(shape.nodes)) if shape.nodes > 1 else 0
            seconds = costs.publish_s + hops * costs.fetch_s + costs.load_s
            busy.sync += seconds
            yield world.timeout(seconds)
            published[number + shape.ahead + 1].succeed()

    world.process(collect())
    world.run(world.process(learn()))
    return world.now, busy


def finish_times(lengths: np.ndarray, max_concurrent: int, costs: Costs) -> np.ndarray:
    """Return when each group of one engine is whole, seconds [groups]; `lengths` int [groups, group_size].

    Sequences start in order, as many at a time as may run; a step gives each running one a token.
    """
    flat, size = lengths.ravel(), lengths.shape[1]
    ends = np.zeros(len(lengths))
    running = [(int(length), index) for index, length in enumerate(flat[:max_concurrent])]
    heapq.heapify(running)  # by the step at which each ends
    waiting, step, now = max_concurrent, 0, 0.0
    while running:
        ends_at, index = heapq.heappop(running)
        now += (ends_at - step) * (costs.decode_step_s + (len(running) + 1) * costs.decode_sequence_s)
        step = ends_at
        ends[index // size] = now
        if waiting < len(flat):
            heapq.heappush(running, (step + int(flat[waiting]), waiting))
            waiting += 1
    return ends


def best(gpus: int, ahead: int, costs: Costs, tokens: float, steps: int = 3) -> dict[str, float | str]:
    """Simulate a cluster under several splits of its GPUs; return the one with most tokens per second."""
    mean, sigma, longest, group_size = 1500.0, 0.6, 4096, 8
    groups = max(1, round(tokens / mean / group_size))
    found = []
    for learner_frac in (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4):
        learners = max(1, round(gpus * learner_frac))
        replicas = max(1, gpus // 32)
        shape = Shape(
            engines=gpus - learners - replicas,
            max_concurrent=256,
            slots=8 * max(1, gpus // 8),
            replicas=replicas,
            learners=learners,
            groups=groups,
            group_size=group_size,
            mini_batches=1,
            pass_frac=0.5,
            nodes=max(1, gpus // 8),
            ahead=ahead,
        )
        if shape.engines < 1:
            continue
        random = np.random.default_rng(gpus)
        draw = random.lognormal(math.log(mean) - sigma**2 / 2, sigma, (steps, groups, group_size))
        batches = list(np.clip(draw, 1, longest).astype(int))
        sums = [float(batch.sum()) for batch in batches]
        took, busy = simulate(batches, sums, shape, costs, random)
        shares = {
            "engines": busy.engines / shape.engines,
            "driver": busy.driver,
            "slots": busy.slots / shape.slots,
            "replicas": busy.replicas / shape.replicas,
            "learner": busy.learner,
            "sync": busy.sync,
        }
        found.append(
            {
                "gpus": gpus,
                "ahead": ahead,
                "learners": learners,
                "tokens": sum(sums) / steps,
                "step_s": took / steps,
                "tokens_per_s": sum(sums) / took,
                "tokens_per_s_gpu": sum(sums) / took / gpus,
                **{f"{name}_busy": share / took for name, share in shares.items()},
                "bottleneck": max(shares, key=shares.get),
            }
        )
    return max(found, key=lambda one: one["tokens_per_s"])


def show(check: dict[str, float], table: list[dict], larger: list[dict]) -> None:
    """Print what came out."""
    print(
        f"prediction over measurement on {check['steps']} steps of the recorded run: mean "
        f"{check['predicted_over_measured']:.2f}, {check['worst_low']:.2f} to {check['worst_high']:.2f}"
    )
    names = ("engines", "learner", "sync", "slots", "replicas", "driver")
    print(f"{'GPUs':>6} {'ahead':>5} {'Mtokens':>8} {'step s':>8} {'tokens/s':>10} {'per GPU':>8}  busy %: {names}")
    for row in [*table, *larger]:
        shares = " ".join(f"{100 * row[f'{name}_busy']:4.0f}" for name in names)
        print(
            f"{row['gpus']:6} {row['ahead']:5} {row['tokens'] / 1e6:8.1f} {row['step_s']:8.1f} "
            f"{row['tokens_per_s']:10,.0f} {row['tokens_per_s_gpu']:8.0f}  {shares}  {row['bottleneck']}"
        )


def plot(table: list[dict], path: Path) -> None:
    """Tokens per second and GPU, and what is busy, against GPUs."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    for ahead in (0, 1):
        rows = [row for row in table if row["ahead"] == ahead]
        gpus = [row["gpus"] for row in rows]
        axes[0].plot(gpus, [row["tokens_per_s_gpu"] for row in rows], "o-", label=f"staleness {ahead}")
        if ahead == 1:
            for name in ("engines", "learner", "sync", "slots", "replicas", "driver"):
                axes[1].plot(gpus, [100 * row[f"{name}_busy"] for row in rows], "o-", label=name)
    axes[0].set(xscale="log", ylim=(0, None), xlabel="GPUs", title="response tokens per second and GPU, simulated")
    axes[1].set(xscale="log", ylim=(0, 105), xlabel="GPUs", title="busy share of each part, staleness 1, %")
    for axis in axes:
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
