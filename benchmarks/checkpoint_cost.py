"""How long does a checkpoint keep a learner rank from learning, and how long does it take to be on the disk?

    .venv/bin/python benchmarks/checkpoint_cost.py                 # 2.5M, 100M and 500M parameters: about four minutes

One ZeRO-3 rank holds random weights in float32 and has taken a step, so that both of Adam's moments are there. Timed,
as medians: a step; the copy of its share to memory, which is all that training waits for; writing that as the run does
(safetensors, fsync, SHA-256); reading it back into the rank. Against a memcpy of the same bytes between warm memory,
one thread. Writes `checkpoint-cost.json` to `benchmarks/results/`.
"""

import argparse
import json
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from provenance import RESULTS, origin
from transformers import AutoModelForCausalLM
from weight_sync import SHAPES, model_config

from pgrpo_ray.config import LearnerSection
from pgrpo_ray.learner.shards import Shards
from pgrpo_ray.learner.zero3 import Rendezvous, Zero3Engine
from pgrpo_ray.obs.checkpoint_files import put_file

REPEATS = 3
TOKENS = (2, 65)
"""Of a step: so few that what a checkpoint costs shows; a real step takes a thousand times as many."""


def seconds(do: Callable[[], Any]) -> float:
    """Return the median time of some calls."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        do()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def step(engine: Zero3Engine) -> None:
    """Take one optimizer step on random tokens."""
    ids = torch.randint(0, 4096, TOKENS)
    sampled = torch.ones(TOKENS[0], TOKENS[1] - 1, dtype=torch.bool)
    logprobs, _ = engine.logprobs(ids, torch.ones_like(ids), sampled, 1.0)
    engine.backward(-logprobs.sum())
    engine.step()


def of_a_rank(size: str, folder: Path) -> dict[str, Any]:
    """Time a rank of one size."""
    model = folder / "model"
    AutoModelForCausalLM.from_config(model_config(size)).save_pretrained(model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    section = LearnerSection(num_ranks=1, learning_rate=1e-6)
    engine = Zero3Engine(str(model), "float32", section, Rendezvous(0, 1, "127.0.0.1", port))
    found = {"step_s": seconds(lambda: step(engine)), "training_waits_s": seconds(engine.snapshot)}
    snapshot = engine.snapshot()
    name, write = snapshot.file_name, snapshot.write
    found["write_s"] = seconds(lambda: put_file(str(folder), name, write))

    def read() -> None:
        with Shards(str(folder), [name]) as shards:
            engine.restore(shards)

    found["read_s"], found["bytes"] = seconds(read), (folder / name).stat().st_size
    torch.distributed.destroy_process_group()
    return found


def memcpy_s(num_bytes: int) -> float:
    """Time copying so many bytes between warm memory, with one thread."""
    source = torch.ones(num_bytes // 4)
    target, threads = torch.zeros_like(source), torch.get_num_threads()
    torch.set_num_threads(1)
    taken = seconds(lambda: target.copy_(source))
    torch.set_num_threads(threads)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=RESULTS / "checkpoint-cost.json")
    arguments = parser.parse_args()
    found = {}
    for size in arguments.sizes:
        # A process each: DeepSpeed stays, and with it its way to make models, which partitions them.
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as process:
            found[size] = process.submit(of_a_rank, size, Path(folder)).result()
        found[size]["memcpy_s"] = memcpy_s(found[size]["bytes"])
        print(size, json.dumps(found[size]), flush=True)
    arguments.out.write_text(
        json.dumps({**origin(), "threads": torch.get_num_threads(), "sizes": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
