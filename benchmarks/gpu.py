"""What do rollout, learner and weight sync reach on a GPU, sharing it and apart?

    bash benchmarks/gpu.sh                                      # sets up, then runs this
    .venv/bin/python benchmarks/gpu.py --device cpu --size tiny # the same on a CPU, to see that it runs

Trains a random policy of a Qwen2.5's shape (or `--model`) for a few steps by `pgrpo train`, once for each layout that
the cards here allow:

- `shared, object store` and `shared, ipc`: learner rank and rollout worker on one card (`cluster.colocate`)
- `split, object store` and `split, nccl`: a card for each

A random policy solves nothing, so rewards come from this file (`every_rollout`): every group has a gradient, and every
rollout is trained on. Reported are medians over the steps but the first: sampled tokens/s, the learner's share of the
card's peak arithmetic (model FLOPs: 6 for each parameter and token, `--peak-tflops`, dense bfloat16), GB/s of a weight
sync, and the gap of logprobs between engine and learner. Writes `gpu.json` to `benchmarks/results/`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from provenance import REPOSITORY, RESULTS, commit

from pgrpo_ray.algo.rewards import Signals, Term, reward_rule

SIZES = {  # width, inner width, layers, heads, key-value heads, vocabulary
    "tiny": (128, 384, 4, 4, 4, 512),
    "0.5B": (896, 4864, 24, 14, 2, 151936),
    "1.5B": (1536, 8960, 28, 12, 2, 151936),
    "7B": (3584, 18944, 28, 28, 4, 152064),
}
STEPS = 6
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "B200": 2250.0, "L40S": 362.0}
"""Dense bfloat16, from NVIDIA's data sheets (SXM)."""


@reward_rule(terms=(Term("outcome", 0, 1),), scores="none")
def every_rollout(signals: Signals) -> dict[str, np.ndarray]:
    """By place in the batch, so that any group has a gradient."""
    return {"outcome": np.arange(len(signals.passed)) % 2 * 1.0}


def write_model(size: str, dtype: str, folder: Path) -> Path:
    """Write a random policy with the starter's tokenizer; return its folder."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from pgrpo_ray.starter.tokenizer import save_tokenizer, train_tokenizer

    tokenizer = train_tokenizer(["Return the sum of 1 and x. <think>nothing</think><answer>pass</answer>"])
    width, inner, layers, heads, kv_heads, vocabulary = SIZES[size]
    shape = Qwen2Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        max_position_embeddings=32768,
        tie_word_embeddings=size != "7B",
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, dtype)).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def layouts(cards: int, on_cpu: bool) -> dict[str, list[str]]:
    """Settings of each layout that so many cards allow."""
    if on_cpu:
        return {"cpu, object store": []}
    one_each = ["rollout.gpus_per_worker=1", "learner.gpus_per_rank=1"]
    shared = [*one_each, "cluster.colocate=true"]
    found = {
        f"shared, {name}": [*shared, f"sync.transport={name.replace(' ', '_')}"] for name in ("object store", "ipc")
    }
    if cards > 1:
        found |= {
            f"split, {name}": [*one_each, f"sync.transport={name.replace(' ', '_')}"]
            for name in ("object store", "nccl")
        }
    return found


def run(
    settings: list[str], model: Path | str, arguments: argparse.Namespace, name: str, folder: Path
) -> dict[str, Any]:
    """Train a few steps; return the medians, or the end of the log where it fails."""
    longest = arguments.response_tokens + 256
    common = [
        f"run.dir={folder}",
        f"run.name={name}",
        f"run.steps={STEPS}",
        f"policy.model={model}",
        f"policy.dtype={arguments.dtype}",
        "data.heldout_problems=0",
        "data.max_prompt_tokens=256",
        f"rollout.max_response_tokens={arguments.response_tokens}",
        f"rollout.prompts_per_step={arguments.prompts}",
        f"rollout.max_concurrent={arguments.prompts * 8}",
        f"rollout.kv_cache_mib={arguments.kv_cache_mib}",
        f"rollout.enforce_eager={'true' if arguments.device == 'cpu' else 'false'}",
        "learner.num_ranks=1",
        "learner.learning_rate=1.0e-6",
        f"learner.micro_batch_tokens={max(longest, arguments.micro_batch_tokens)}",
        "learner.activation_checkpointing=true",
        "algo.reward=gpu:every_rollout",
        "algo.num_mini_batches=1",
        "starter.sft_steps=1",
        "starter.reward_model_steps=1",
    ]
    command = [str(Path(sys.executable).with_name("pgrpo")), "train", "cluster/local.yaml"]
    for one in [*common, *settings]:
        command += ["--set", one]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "benchmarks")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stdout + done.stderr)[-2000:]}
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return figures([json.loads(line) for line in lines][1:], arguments)


def figures(steps: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians over steps."""

    def median(values: list[float]) -> float:
        return statistics.median(values)

    item = 2 if arguments.dtype == "bfloat16" else 4
    tokens = [step["issued"] * step["response_tokens_mean"] for step in steps]
    learned = [step["issued"] * (step["response_tokens_mean"] + step["prompt_tokens_mean"]) for step in steps]
    flops = [6 * arguments.parameters * count / step["update_s"] for count, step in zip(learned, steps, strict=True)]
    return {
        "sampled_tokens_per_s": median([count / step["sample_s"] for count, step in zip(tokens, steps, strict=True)]),
        "learned_tokens_per_s": median([count / step["update_s"] for count, step in zip(learned, steps, strict=True)]),
        "model_flops_share": median(flops) / (arguments.peak_tflops * 1e12) if arguments.peak_tflops else None,
        "sync_gb_per_s": median([arguments.parameters * item / step["sync_s"] / 1e9 for step in steps]),
        "mismatch_mean": median([step["mismatch_mean"] for step in steps]),
        "mismatch_max": max(step["mismatch_max"] for step in steps),
        "seconds": {key: median([step[key] for step in steps]) for key in ("sample_s", "update_s", "sync_s", "step_s")},
    }


def count_parameters(model: Path | str) -> int:
    """Of a policy, tied ones once, from its config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return sum(parameter.numel() for parameter in shell.parameters())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", help="folder or hub name, instead of a random policy")
    parser.add_argument("--size", choices=SIZES, default="1.5B")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--response-tokens", type=int, default=1024)
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--kv-cache-mib", type=int, default=8192)
    parser.add_argument("--peak-tflops", type=float, help="of the card; known for " + ", ".join(PEAK_TFLOPS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures go")
    arguments = parser.parse_args()
    import torch

    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if arguments.device == "cuda" and not cards:
        raise SystemExit(
            "torch sees no GPU here. `make setup ACCELERATOR=cuda` on a machine that has one, or --device cpu."
        )
    if arguments.peak_tflops is None and cards:
        arguments.peak_tflops = next((peak for name, peak in PEAK_TFLOPS.items() if name in cards[0]), None)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_model(arguments.size, arguments.dtype, Path(folder) / "model")
        arguments.parameters = count_parameters(model)
        found = {}
        for number, (layout, settings) in enumerate(layouts(len(cards), arguments.device == "cpu").items()):
            found[layout] = run(settings, model, arguments, f"run-{number}", Path(folder))
            print(layout, json.dumps(found[layout], indent=2), flush=True)
    result = {
        "question": __doc__.splitlines()[0],
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "commit": commit(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(cards) or 'no GPU'}",
        "model": arguments.model or f"random, {arguments.size}",
        "parameters": arguments.parameters,
        "peak_tflops": arguments.peak_tflops,
        "layouts": found,
    }
    arguments.results.mkdir(exist_ok=True)
    (arguments.results / "gpu.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if any("failed" in one for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
