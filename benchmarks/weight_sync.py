"""How fast do new weights reach an engine, as a share of copying the same bytes once?

    .venv/bin/python benchmarks/weight_sync.py                   # 2.5M, 100M and 500M parameters, two to three minutes
    .venv/bin/python benchmarks/weight_sync.py --sizes 2.5M --no-vllm

Random bfloat16 weights go from a learner's process to a rollout worker's by the code of a run (`actors.weight_sync`,
the roles, Ray's object store), one thread each. The engine is (a) plain tensors, copied into, or (b) vLLM, for
the sizes that start in seconds. Against it, in alternation: the path before, which packed parameters into chunks,
checked each chunk's CRC-32 and copied every parameter out again; and a memcpy of the same bytes between warm memory in
the worker's process, one thread. Seconds are medians. Writes `weight-sync.json` and `.png` to `benchmarks/results/`.
Exits with 1 unless the largest size reaches `--wanted` of the memcpy with plain tensors.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import ray
import torch

matplotlib.use("Agg")
from matplotlib import pyplot
from provenance import RESULTS, origin

from pgrpo_ray.actors import waits, weight_sync
from pgrpo_ray.actors.cluster import actor_class, vllm_env
from pgrpo_ray.actors.roles import LearnerRole, RolloutRole
from pgrpo_ray.config import RunConfig, parse

SHAPES = {  # vocabulary, width, inner width, layers, heads, key-value heads
    "2.5M": (4096, 256, 688, 2, 4, 4),
    "100M": (32000, 768, 2048, 11, 12, 12),
    "500M": (151936, 896, 4864, 24, 14, 2),  # that of Qwen2.5-0.5B
}
REPEATS = {"2.5M": 15, "100M": 7, "500M": 5}
IN_VLLM = ("2.5M", "100M")
DEADLINE_S = 120.0
OLD, NEW, COPY = "before", "now", "memcpy"


def model_config(size: str) -> Any:
    """Return the shape of a model."""
    from transformers import Qwen2Config

    vocabulary, width, inner, layers, heads, kv_heads = SHAPES[size]
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )


def random_weights(size: str) -> dict[str, torch.Tensor]:
    """Return random parameters, tied ones once."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(model_config(size))
    torch.manual_seed(0)
    return {
        name: torch.empty(parameter.shape, dtype=torch.bfloat16).uniform_(-0.05, 0.05)
        for name, parameter in shell.named_parameters()
    }


# the path before


def pack(weights: Iterable[tuple[str, torch.Tensor]], version: int, chunk_bytes: int) -> Iterator[Any]:
    """Yield chunks, then (version, entries, checksums)."""
    entries, checksums, parts, filled = [], [], [], 0

    def chunk() -> np.ndarray:
        whole = np.concatenate(parts)
        checksums.append(zlib.crc32(whole))
        return whole

    for name, tensor in weights:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().copy()
        if parts and filled + data.nbytes > chunk_bytes:
            yield chunk()
            parts, filled = [], 0
        entries.append((name, tuple(tensor.shape), len(checksums), filled, data.nbytes))
        parts.append(data)
        filled += data.nbytes
    yield chunk()
    yield version, entries, checksums


def unpack(entries: list, checksums: list[int], chunks: Sequence[np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) after checking every chunk; each tensor is a copy."""
    if [zlib.crc32(chunk) for chunk in chunks] != checksums:
        raise ValueError("a chunk differs from what was published")
    for name, shape, chunk, offset, size in entries:
        data = chunks[chunk][offset : offset + size]
        yield name, torch.from_numpy(data.copy()).view(torch.bfloat16).reshape(shape)


def publish_before(learner: Any, worker: Any, version: int) -> None:
    """Publish as it was done before."""
    stream = learner.publish_before.options(num_returns="streaming").remote(version)
    *chunks, last = stream
    waits.get(worker.load_before.remote(waits.get(last, DEADLINE_S, "learner"), *chunks), DEADLINE_S, "rollout worker")


# roles


class RandomLearner(LearnerRole):
    """A learner of one rank whose parameters are random and lie in its memory."""

    def join(self, size: str) -> int:
        """Make the parameters; return their bytes."""
        weights = random_weights(size)
        engine = SimpleNamespace(rank=0)
        self._worker = SimpleNamespace(named_weights=lambda: iter(weights.items()), engine=engine)
        return sum(tensor.nbytes for tensor in weights.values())

    def publish_before(self, version: int) -> Iterator[Any]:
        """Yield what `publish` yielded before."""
        yield from pack(self._worker.named_weights(), version, self._config.sync.chunk_mib << 20)


class VllmWorker(RolloutRole):
    """A rollout worker that can also do as before."""

    def load_before(self, manifest: tuple[int, list, list[int]], *chunks: np.ndarray) -> None:
        """Load what `publish_before` yielded."""
        version, entries, checksums = manifest
        self._worker.load_weights(unpack(entries, checksums, chunks), version)

    def memcpy(self, num_bytes: int) -> float:
        """Return the seconds of one copy between warm memory."""
        if not hasattr(self, "_from"):
            self._from, self._to = self._buffers(num_bytes)
        started = time.perf_counter()
        for source, target in zip(self._from, self._to, strict=True):
            np.copyto(target, source)
        return time.perf_counter() - started

    def _buffers(self, num_bytes: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        return [np.ones(num_bytes, np.uint8)], [np.ones(num_bytes, np.uint8)]


class PlainWorker(VllmWorker):
    """A rollout worker whose engine is plain tensors."""

    def start(self) -> None:
        """Make the tensors that are copied into."""
        from pgrpo_ray.rollout.worker import RolloutWorker
        from pgrpo_ray.sync.weights import BucketReceiver

        self._own = {name: torch.zeros_like(tensor) for name, tensor in random_weights(self._model).items()}
        parameters = {name: ("bfloat16", tuple(tensor.shape)) for name, tensor in self._own.items()}
        self._worker = RolloutWorker(SimpleNamespace(load_weights=self._copy, parameters=parameters), None)
        self._receiver = BucketReceiver(parameters)

    def _copy(self, weights: Iterable[tuple[str, torch.Tensor]], _: int) -> None:
        for name, tensor in weights:
            self._own[name].copy_(tensor)

    def _buffers(self, _: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        own = [tensor.view(torch.uint8).numpy() for tensor in self._own.values()]  # saves half of the memory
        return own, [np.ones_like(data) for data in own]


# measuring


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(SHAPES), help="parameters")
    parser.add_argument("--no-vllm", action="store_true", help="plain tensors only")
    parser.add_argument("--wanted", type=float, default=0.5, help="share of memcpy that counts")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for figures and plot")
    arguments = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=5 << 29,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    cases = []
    for size in arguments.sizes:
        cases.append(measure(size, "plain tensors"))
        if size in IN_VLLM and not arguments.no_vllm:
            with tempfile.TemporaryDirectory() as folder:
                cases.append(measure(size, "vLLM", write_model(size, Path(folder))))
    ray.shutdown()
    result = {
        "question": __doc__.splitlines()[0],
        "command": " ".join(["python", "benchmarks/weight_sync.py", *sys.argv[1:]]),
        **origin(),
        "cases": cases,
    }
    arguments.results.mkdir(exist_ok=True)
    (arguments.results / "weight-sync.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(cases, arguments.results / "weight-sync.png")
    plain = [case for case in cases if case["engine"] == "plain tensors"]
    return 0 if plain[-1][NEW]["share_of_memcpy"] >= arguments.wanted else 1


def write_model(size: str, folder: Path) -> str:
    """Write a random model that vLLM starts from; return its folder."""
    from transformers import AutoModelForCausalLM

    from pgrpo_ray.starter.tokenizer import save_tokenizer, train_tokenizer

    AutoModelForCausalLM.from_config(model_config(size), dtype=torch.bfloat16).save_pretrained(folder)
    save_tokenizer(train_tokenizer(["any text"]), folder)
    return str(folder)


def run_config() -> RunConfig:
    """Return the settings of the roles."""
    rollout = {"max_response_tokens": 64, "kv_cache_mib": 64, "enforce_eager": True}
    return parse({"policy": {"dtype": "bfloat16"}, "data": {"max_prompt_tokens": 64}, "rollout": rollout})


def measure(size: str, engine: str, model: str = "") -> dict[str, Any]:
    """Return the figures of one size and engine."""
    config = run_config()
    learner = actor_class(RandomLearner, cpus=1, threads=1).remote(config, size)
    if engine == "vLLM":
        worker = actor_class(VllmWorker, cpus=1, threads=1, env=vllm_env(0)).remote(config, model, 0)
    else:
        worker = actor_class(PlainWorker, cpus=1, threads=1).remote(config, size, 0)
    num_bytes, _ = ray.get([learner.join.remote(size), worker.start.remote()], timeout=600)
    version = iter(range(1, 1000))
    ways: dict[str, Callable[[], float]] = {
        COPY: lambda: ray.get(worker.memcpy.remote(num_bytes)),
        OLD: lambda: timed(lambda: publish_before(learner, worker, next(version))),
        NEW: lambda: timed(lambda: weight_sync.publish([learner], [worker], next(version), DEADLINE_S)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(1 + REPEATS[size]):
        for name, way in ways.items():
            took = way()
            if turn:  # the first warms up memory and object store
                seconds[name].append(took)
    for actor in (learner, worker):
        ray.kill(actor)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    case: dict[str, Any] = {"size": size, "engine": engine, "num_bytes": num_bytes, "repeats": REPEATS[size]}
    for name, median in medians.items():
        case[name] = {
            "seconds": median,
            "fastest_seconds": min(seconds[name]),
            "slowest_seconds": max(seconds[name]),
            "gb_per_s": num_bytes / median / 1e9,
            "share_of_memcpy": medians[COPY] / median,
        }
    print(describe(case), flush=True)
    return case


def timed(call: Callable[[], None]) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def describe(case: dict[str, Any]) -> str:
    """Return one line."""
    ways = (
        f"{name} {case[name]['gb_per_s']:.2f} GB/s ({100 * case[name]['share_of_memcpy']:.0f} %)" for name in (OLD, NEW)
    )
    copy = f"memcpy {case[COPY]['gb_per_s']:.2f} GB/s"
    return f"{case['size']:>5}  {case['engine']:<13}  {case['num_bytes'] / 1e6:7.1f} MB  {copy}, {', '.join(ways)}"


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Draw the share of memcpy by size and engine, before and now."""
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    for place, name in enumerate((OLD, NEW)):
        at = [number + 0.4 * place for number in range(len(cases))]
        bars = axes.bar(at, [case[name]["share_of_memcpy"] for case in cases], 0.4, label=name, align="edge")
        axes.bar_label(bars, [f"{case[name]['gb_per_s']:.2f} GB/s" for case in cases], fontsize=7)
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(ylabel="share of memcpy of the same bytes")
    names = [f"{case['size']}\n{case['engine']}" for case in cases]
    axes.set_xticks([number + 0.4 for number in range(len(cases))], names)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
