"""What do the logits of one learner pass cost in memory and time, whole and in chunks?

    .venv/bin/python benchmarks/learner_memory.py

One forward and backward pass of a small language model with a large vocabulary, of which three quarters of the tokens
were sampled, three times: `plain` makes all logits and lets autograd keep what log-softmax and entropy need; `logits`
makes all logits and turns them to float32 in chunks (`losses.sampled_logprobs`); `head` makes logits of sampled tokens
alone and in chunks (`learner.policy`, what training runs). Each case runs in a process of its own. Peak memory is what
the process grew by: the high-water mark of resident memory on CPU, torch's own count on a GPU (`--device cuda`).
Writes figures, machine and command to `benchmarks/results/learner-memory.json` and a plot to `.png`. Exits with 1
where the three do not agree in the loss and the gradient's norm, or `head` saves less than `--wanted` times.
"""

import argparse
import json
import math
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from provenance import RESULTS, origin

matplotlib.use("Agg")
from matplotlib import pyplot

ARMS = ("plain", "logits", "head")
TEMPERATURE = 0.7
ROW = 1024
"""Tokens of a row, a quarter of them prompt."""
CASES = (("float32", 32_768, 4), ("bfloat16", 32_768, 4), ("float32", 151_936, 1), ("bfloat16", 151_936, 1))
"""Type, words, rows. One row of the large vocabulary: its logits are 0.6 GB in float32, and `plain` holds several."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Relative, of loss and gradient norm between the arms; bfloat16 rounds gradients of logits at other places."""
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on CPU")
    parser.add_argument("--rows", type=int, help="instead of each case's own")
    parser.add_argument("--words", type=int, help="instead of each case's own, to try it out; writes nothing")
    parser.add_argument("--wanted", type=float, default=1.5, help="times less memory than `logits` that counts")
    arguments = parser.parse_args()
    cases = []
    for dtype, words, rows in CASES:
        rows, words = arguments.rows or rows, arguments.words or words
        arms = {arm: measured(arm, dtype, words, rows, arguments.device, arguments.threads) for arm in ARMS}
        cases.append({"dtype": dtype, "words": words, "tokens": rows * ROW, "arms": arms})
        peaks = ", ".join(f"{arm} {figures['peak_mib']:,.0f} MiB {figures['s']:.2f} s" for arm, figures in arms.items())
        print(f"{dtype}, {words:,} words, {rows * ROW:,} tokens: {peaks}", flush=True)
    result = {
        "question": __doc__.splitlines()[0],
        "command": "python benchmarks/learner_memory.py",
        **origin(),
        "device": arguments.device,
        "threads": arguments.threads,
        "cases": cases,
    }
    if arguments.words:
        print(json.dumps(result))
        return 0
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "learner-memory.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(cases, RESULTS / "learner-memory.png")
    return 0 if all(agrees(case) and saved(case) >= arguments.wanted for case in cases) else 1


def measured(*case: Any) -> dict[str, float]:
    """Run one case in a fresh process; return its figures."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.models.qwen3.modeling_qwen3"])  # once, not for each case
    with context.Pool(1) as pool:
        return pool.apply(run, case)


def run(arm: str, dtype: str, words: int, rows: int, device: str, threads: int) -> dict[str, float]:
    """Return peak MiB of the first pass beyond model and batch, the faster pass's seconds, loss and gradient norm."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=words, num_key_value_heads=2, head_dim=64, use_cache=False, **shape)
    model = Qwen3ForCausalLM(config).to(device, getattr(torch, dtype))
    ids = torch.randint(words, (rows, ROW), device=device)
    sampled = torch.ones((rows, ROW - 1), dtype=torch.bool, device=device)
    sampled[:, : ROW // 4 - 1] = False
    call = passes(arm, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # there in training, whatever the arm
    before = reset_peak(device)
    seconds = []
    for number in range(2):
        started = time.perf_counter()
        loss = -call(ids, sampled)[0].mean()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if number == 0:
            peak = peak_bytes(device) - before
            norm = math.sqrt(sum(parameter.grad.float().square().sum().item() for parameter in model.parameters()))
    return {"peak_mib": peak / MIB, "s": min(seconds), "loss": loss.item(), "grad_norm": norm}


def passes(arm: str, model: Any) -> Callable[..., tuple[Any, Any]]:
    """Return what turns ids and a mask into logprobs and entropy of the sampled tokens."""
    import torch

    from pgrpo_ray.algo.losses import sampled_logprobs
    from pgrpo_ray.learner.policy import SampledPolicy

    policy = SampledPolicy(model)

    def plain(ids: Any, sampled: Any) -> tuple[Any, Any]:
        table = (model(ids, torch.ones_like(ids)).logits[:, :-1].float() / TEMPERATURE).log_softmax(-1)
        with torch.no_grad():
            entropy = -(table.exp() * table).sum(-1)
        return table.gather(-1, ids[:, 1:, None])[..., 0][sampled], entropy[sampled]

    def logits(ids: Any, sampled: Any) -> tuple[Any, Any]:
        whole = model(ids, torch.ones_like(ids)).logits[:, :-1]
        logprobs, entropy = sampled_logprobs(whole, ids[:, 1:], TEMPERATURE)
        return logprobs[sampled], entropy[sampled]

    def head(ids: Any, sampled: Any) -> tuple[Any, Any]:
        logprobs, entropy = policy(ids, torch.ones_like(ids), sampled, TEMPERATURE)
        return logprobs, entropy

    return {"plain": plain, "logits": logits, "head": head}[arm]


def reset_peak(device: str) -> int:
    """Begin to look for the peak; return bytes in use now."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # A process's high-water mark cannot fall: nothing before a case may take more than the case does.
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: str) -> int:
    """Return the most bytes that were in use."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def agrees(case: dict[str, Any]) -> bool:
    """True where all arms have the loss and the gradient norm of `plain`."""
    first, close = case["arms"]["plain"], TOLERANCE[case["dtype"]]
    return all(
        math.isclose(figures[key], first[key], rel_tol=close)
        for figures in case["arms"].values()
        for key in ("loss", "grad_norm")
    )


def saved(case: dict[str, Any]) -> float:
    """Times less memory than with all logits."""
    return case["arms"]["logits"]["peak_mib"] / case["arms"]["head"]["peak_mib"]


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Draw peak memory and seconds, one bar an arm."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 3.8))
    names = [f"{case['dtype']}\n{case['words']:,} words\n{case['tokens']:,} tokens" for case in cases]
    for axes, key, label in zip(panels, ("peak_mib", "s"), ("peak, MiB", "forward and backward, s"), strict=True):
        for place, arm in enumerate(ARMS):
            width = 0.8 / len(ARMS)
            at = [number + width * place for number in range(len(cases))]
            bars = axes.bar(at, [case["arms"][arm][key] for case in cases], width, label=arm, align="edge")
            axes.bar_label(bars, fmt="{:,.0f}" if key == "peak_mib" else "{:.1f}", fontsize=7)
        axes.set(ylabel=label)
        axes.set_xticks([number + 0.4 for number in range(len(cases))], names, fontsize=8)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main())
