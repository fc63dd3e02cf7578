"""How fast is the reward server, against scoring each request alone? And what does it say when asked for too much?

    .venv/bin/python benchmarks/reward_server.py

Same model, same requests, same client, arms taking turns for `--rounds` rounds; medians. Arms:
- `alone`: what `remote_rm_url` of other projects points to: a FastAPI server that makes one padded forward pass per
  request. Ours, and minimal; it encodes as the reward server does, so its scores are the same.
- `http x1`, `http x2`: `pgrpo rm serve` with one and two replicas.
- `handle x1`, `handle x2`: the same deployment by handle, as a training run asks.
Every process that holds a model has one CPU thread. Closed loop: `--clients` clients send the next request when the
last one is answered. Then four times as many clients as one server admits; all answers are counted.
Writes `benchmarks/results/reward-server.json` and `.png`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
from provenance import RESULTS

Item = tuple[str, str]
Ask = Callable[[list[Item]], Awaitable[int]]
"""Sends one request; returns its HTTP status."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each arm in each round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--items", type=int, nargs="+", default=[1, 8], help="reasonings in a request")
    parser.add_argument("--starter", type=Path, help="folder of a starter made before; none: the cache's, or made now")
    parser.add_argument("--alone", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        serve_alone(arguments.alone, arguments.port)
        return
    model, items = inputs(arguments.starter)
    with contextlib.ExitStack() as stack:
        arms = dict(stack.enter_context(start()) for start in starters(model))
        rows = [asyncio.run(measure(arms, items, size, arguments)) for size in arguments.items]
        overload = asyncio.run(flood(arms["http x1"].url, items, arguments.seconds))
    shown = ["STARTER" if argument == str(arguments.starter) else argument for argument in sys.argv[1:]]
    result = {
        "question": "how fast are scores, against one forward pass per request?",
        "command": " ".join(["python benchmarks/reward_server.py", *shown]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}; load average at the end {os.getloadavg()[0]:.1f}",
        "clients": arguments.clients,
        "by_items_per_request": {str(size): row for size, row in zip(arguments.items, rows, strict=True)},
        "overload": overload,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reward-server.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(result, RESULTS / "reward-server.png")
    print(json.dumps(result, indent=2))


def inputs(folder: Path | None) -> tuple[str, list[Item]]:
    """The starter's reward model, and reasonings about its held-out problems in random order."""
    from pgrpo_ray.config import StarterSection
    from pgrpo_ray.preflight.disk import cache_folder
    from pgrpo_ray.starter.artifacts import StarterPaths, ensure_starter
    from pgrpo_ray.starter.pairs import make_pairs
    from pgrpo_ray.starter.problems import read_jsonl

    paths = StarterPaths.inside(folder) if folder else ensure_starter(StarterSection(), cache_folder())
    pairs = make_pairs(read_jsonl(paths.heldout), 500, seed=1)
    items = [(pair.prompt, text) for pair in pairs for text in (pair.better, pair.worse)]
    random.Random(0).shuffle(items)
    return str(paths.reward_model), items


def serve_alone(model: str, port: int) -> None:
    """One forward pass per request, in the order of arrival; nothing is gathered, sorted or bounded."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request

    from pgrpo_ray.reward_model.model import load

    torch.set_num_threads(1)
    loaded = load(model)
    app = FastAPI()

    @app.post("/score")
    async def score(request: Request) -> dict:
        body = await request.json()
        with torch.inference_mode():
            encoded = loaded.encode([(item["prompt"], item["reasoning"]) for item in body["items"]], 512)
            return {"rewards": loaded.logits(encoded).sigmoid().tolist()}

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


class Http:
    """Asks over HTTP."""

    def __init__(self, url: str):
        self.url = url

    @contextlib.asynccontextmanager
    async def asking(self, clients: int):
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(limits=limits, timeout=120) as http:

            async def ask(items: list[Item]) -> int:
                body = {"items": [{"prompt": prompt, "reasoning": reasoning} for prompt, reasoning in items]}
                return (await http.post(f"{self.url}/score", json=body)).status_code

            yield ask


class Handle:
    """Asks a deployment of this process's Ray."""

    def __init__(self, server):
        self._server = server

    @contextlib.asynccontextmanager
    async def asking(self, clients: int):
        async def ask(items: list[Item]) -> int:
            await self._server.score(items, 120)
            return 200

        yield ask


def starters(model: str):
    """Start every arm, one after the other; each gives its name and how it is asked."""
    from pgrpo_ray.actors.cluster import cluster_session
    from pgrpo_ray.actors.reward_server import RewardServer
    from pgrpo_ray.actors.spawn import reward_env
    from pgrpo_ray.config import ClusterSection, RewardModelSection

    @contextlib.contextmanager
    def process(name: str, command: list[str], port: int) -> Iterator[tuple[str, Http]]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        child = subprocess.Popen([sys.executable, *command, "--port", str(port)], env=environment)
        try:
            wait_for_port(port, child)
            yield name, Http(f"http://127.0.0.1:{port}")
        finally:
            child.terminate()
            child.wait(60)

    @contextlib.contextmanager
    def handle(replicas: int) -> Iterator[tuple[str, Handle]]:
        section = RewardModelSection(model=model, replicas=replicas)
        server = RewardServer(f"benchmark-{replicas}", section, "", reward_env(section), drain_s=1.0)
        server.deploy()
        server.wait_ready(120)
        yield f"handle x{replicas}", Handle(server)

    def serve(replicas: int):
        entry = ["-c", "from pgrpo_ray.cli import main; main()", "rm", "serve", "--model", model]
        entry += ["--set", "server.authentication=none"]
        return process(f"http x{replicas}", [*entry, "--replicas", str(replicas)], free_port())

    @contextlib.contextmanager
    def handle_in_new_ray() -> Iterator[tuple[str, Handle]]:
        with cluster_session(ClusterSection(), 4, {}), handle(1) as arm:
            yield arm

    return [
        lambda: process("alone", [__file__, "--alone", model], free_port()),
        lambda: serve(1),
        lambda: serve(2),
        handle_in_new_ray,
        lambda: handle(2),
    ]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, child: subprocess.Popen) -> None:
    """Return once somebody listens."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise SystemExit(f"nothing listens on port {port}")


async def measure(arms: dict, items: list[Item], size: int, arguments: argparse.Namespace) -> dict:
    """Throughput and latency of each arm, and its ratio to `alone` of the same round; medians over rounds."""
    rounds: dict[str, list[dict]] = {name: [] for name in arms}
    for number in range(arguments.rounds + 1):  # the first warms up
        for name, arm in arms.items():
            async with arm.asking(arguments.clients) as ask:
                rounds[name].append(await load(ask, items, size, arguments.clients, arguments.seconds, number))
    table = {}
    for name, runs in rounds.items():
        warm, base = runs[1:], rounds["alone"][1:]
        ratios = [run["reasonings_per_s"] / other["reasonings_per_s"] for run, other in zip(warm, base, strict=True)]
        keys = ("reasonings_per_s", "p50_ms", "p99_ms")
        table[name] = {key: round(statistics.median(run[key] for run in warm), 1) for key in keys}
        table[name] |= {"times_alone": round(statistics.median(ratios), 2), "times_alone_rounds": ratios}
    return table


async def load(ask: Ask, items: list[Item], size: int, clients: int, seconds: float, seed: int) -> dict:
    """Run the closed loop."""
    rng, latencies = random.Random(seed), []
    started = time.monotonic()

    async def client() -> None:
        while time.monotonic() - started < seconds:
            request, asked = rng.sample(items, size), time.monotonic()
            assert await ask(request) == 200
            latencies.append(time.monotonic() - asked)

    await asyncio.gather(*[client() for _ in range(clients)])
    elapsed = time.monotonic() - started
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "reasonings_per_s": size * len(latencies) / elapsed,
        "p50_ms": 1000 * statistics.median(latencies),
        "p99_ms": 1000 * cuts[98],
    }


async def flood(url: str, items: list[Item], seconds: float) -> dict:
    """Four times as many clients as a server admits by default; nobody waits before asking again."""
    from pgrpo_ray.config.serving import ServerSection

    section = ServerSection()
    admitted = section.max_requests
    statuses: Counter[str] = Counter()
    seen: dict[str, list[float]] = {}
    started = time.monotonic()
    async with Http(url).asking(4 * admitted) as ask:

        async def client() -> None:
            while time.monotonic() - started < seconds:
                asked = time.monotonic()
                try:
                    status = str(await ask(items[:8]))
                except httpx.HTTPError as error:  # silence, or a broken connection
                    status = type(error).__name__
                statuses[status] += 1
                seen.setdefault(status, []).append(1000 * (time.monotonic() - asked))
                if status == "429":
                    await asyncio.sleep(section.retry_after_s)

        await asyncio.gather(*[client() for _ in range(4 * admitted)])
    p50 = {status: round(statistics.median(times), 1) for status, times in seen.items()}
    return {"clients": 4 * admitted, "admitted_at_a_time": admitted, "answers": dict(statuses), "p50_ms": p50}


def plot(result: dict, path: Path) -> None:
    """Bars: times as many reasonings a second as `alone`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_items = result["by_items_per_request"]
    figure, axes = pyplot.subplots(1, len(by_items), figsize=(5 * len(by_items), 3.5), squeeze=False)
    for axis, (size, table) in zip(axes[0], by_items.items(), strict=True):
        bars = axis.bar(list(table), [row["times_alone"] for row in table.values()])
        axis.bar_label(bars, [f"{row['reasonings_per_s']:.0f}/s" for row in table.values()])
        axis.set_title(f"{size} reasonings a request, {result['clients']} clients")
        axis.set_ylabel("throughput, times `alone`")
        axis.tick_params(axis="x", rotation=20)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
