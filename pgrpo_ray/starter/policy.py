"""The starter's policy: a tiny Qwen2 and its supervised warm start, in plain torch.

Owns model size and training recipe. The model is an ordinary `Qwen2ForCausalLM` folder, so vLLM, DeepSpeed and
transformers load it as they load a Qwen2.5-Coder of 7B. Loss is taken on response tokens only; batches are drawn from
windows sorted by length, so that little is spent on padding. Everything follows from the seed (for one number of
threads, and one answer to whether products are fast in bfloat16; see `products`).
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from pgrpo_ray.starter.demonstrations import demonstrate, draw_mode
from pgrpo_ray.starter.problems import Exercise
from pgrpo_ray.starter.products import fast_products
from pgrpo_ray.starter.tokenizer import encode_prompts, encode_responses, save_tokenizer

BATCH_SIZE = 32
"""Demonstrations per optimizer step."""
MATRIX_LEARNING_RATE = 0.02
"""Peak, for the matrices inside the blocks, trained by Muon (ours). In a trial on a Qwen3 of this size 72 % passed
after 600 careful steps; with AdamW 51 % did."""
LEARNING_RATE = 3e-3
"""Peak, for embeddings and norms, trained by AdamW."""
INITIALIZER_RANGE = 0.05
"""Standard deviation of random weights (ours): transformers' 0.02 is meant for widths of thousands."""
DRILL_FRAC = 0.65
"""Share of the steps that imitate careful demonstrations only, before the habits are mixed in (ours). With habits and
their wrong programs from the first step, 500 steps of AdamW never tied the program to the problem: nothing passed."""
MAX_POSITIONS = 512
_WINDOW = 16
"""Batches per window that is sorted by length."""
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One demonstration as token ids."""

    prompt_ids: list[int]
    response_ids: list[int]
    """Closed by the end-of-sequence token."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def tiny_config(tokenizer: Qwen2Tokenizer, num_layers: int = 4) -> Qwen2Config:
    """Return the shape shared by policy and reward model: width 128, four heads of 32 (vLLM serves head size 32)."""
    return Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_examples(exercises: list[Exercise], tokenizer: Qwen2Tokenizer, count: int, seed: int) -> list[Example]:
    """Demonstrate `count` times in the order of training, going over the exercises as often as needed.

    First the drill, then modes drawn by their shares.
    """
    rng = random.Random(f"demonstrations/{seed}")
    chosen = [exercises[number % len(exercises)] for number in range(count)]
    drill = int(count * DRILL_FRAC)
    responses = [
        demonstrate(exercise, "careful" if number < drill else draw_mode(rng), rng)
        for number, exercise in enumerate(chosen)
    ]
    prompts = encode_prompts(tokenizer, [exercise.prompt for exercise in chosen])
    return [Example(p, r) for p, r in zip(prompts, encode_responses(tokenizer, responses), strict=True)]


def train_policy(
    examples: list[Example],
    tokenizer: Qwen2Tokenizer,
    steps: int,
    seed: int,
    on_progress: Callable[[float], None] = lambda done: None,
) -> tuple[Qwen2ForCausalLM, float]:
    """Train from random weights; return the model (float32) and the mean loss of the last tenth, nats per token."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(tiny_config(tokenizer))
    model.train()
    optimizers = optimizers_of(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, steps))
        for optimizer in optimizers
    ]
    losses: list[float] = []
    with fast_products(model):
        for step, batch in enumerate(_batches(examples, steps, random.Random(f"batches/{seed}"))):
            ids, labels = _collate(batch, tokenizer.pad_token_id)
            # No attention mask: padding is on the right, where causal attention cannot see it, and its loss is ignored.
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            targets = labels[:, 1:]
            taken = targets != _IGNORED
            loss = functional.cross_entropy(model.lm_head(hidden[taken]), targets[taken])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
            losses.append(loss.item())
            on_progress((step + 1) / steps)
    tail = losses[-max(1, steps // 10) :]
    return model.eval(), sum(tail) / len(tail)


def optimizers_of(network: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon over the matrices inside the blocks and AdamW over the rest (embeddings, norms, a score's head)."""
    matrices, rest = [], []
    for name, parameter in network.named_parameters():
        (matrices if ".layers." in name and parameter.ndim == 2 else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def warmup_cosine(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear over the first 5 %, then a cosine down to a fiftieth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def save_policy(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write model and tokenizer in Hugging Face format."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def _batches(examples: list[Example], steps: int, rng: random.Random) -> Iterator[list[Example]]:
    """Yield `steps` batches of near-equal length in random order, starting over when the examples run out."""
    per_window = BATCH_SIZE * _WINDOW
    done = 0
    while True:
        for start in range(0, len(examples), per_window):
            window = sorted(examples[start : start + per_window], key=len)
            batches = [window[at : at + BATCH_SIZE] for at in range(0, len(window), BATCH_SIZE)]
            rng.shuffle(batches)
            for batch in batches:
                if done == steps:
                    return
                yield batch
                done += 1


def _collate(batch: list[Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right: ids int64 [B, T]; labels int64 [B, T], -100 on prompt and padding."""
    longest = max(len(example) for example in batch)
    ids = torch.full((len(batch), longest), pad_id)
    labels = torch.full((len(batch), longest), _IGNORED)
    for row, example in enumerate(batch):
        whole = torch.tensor(example.prompt_ids + example.response_ids)
        ids[row, : len(whole)] = whole
        labels[row, len(example.prompt_ids) : len(whole)] = whole[len(example.prompt_ids) :]
    return ids, labels
