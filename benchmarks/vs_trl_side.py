"""TRL's side of `vs_trl.py`: GRPOTrainer on what is in a folder. Runs in a virtual environment of TRL's.

    python vs_trl_side.py FOLDER

Reads `side.json` (see `vs_trl.write_task`), `problems.jsonl` and `prompts.jsonl` from the folder, trains, and writes
`batches.jsonl` (a line a batch of rollouts) and `model/`. The reward is pgrpo_ray's: the same parser, the same
execution pool of as many containers, format + outcome. Settings are those that its documentation offers for the same
algorithm; nothing of TRL is changed, its methods are only timed.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.data.response import parse
from pgrpo_ray.sandbox.pool import ExecutionPool, make_pool
from pgrpo_ray.types import Verdict


class Judge:
    """The reward function, and the record of every batch that it sees."""

    def __init__(self, folder: Path, pool: ExecutionPool, clock: dict[str, float]):
        self._problems = {problem.id: problem for problem in load_problems(folder / "problems.jsonl", "jsonl")}
        self._pool = pool
        self._clock = clock
        self._file = (folder / "batches.jsonl").open("w")
        self._started = time.monotonic()

    def __call__(
        self, completions: list[str], completion_ids: list[list[int]], problem_id: list[str], **_: Any
    ) -> list[float]:
        """Return R^f + R^o of each completion."""
        began = time.monotonic()
        parsed = [parse(text) for text in completions]
        asked = [(place, one.program) for place, one in enumerate(parsed) if one.program is not None]
        judged = self._pool.judge_many([(self._problems[problem_id[place]], program) for place, program in asked])
        passed = {place for (place, _), one in zip(asked, judged, strict=True) if one.verdict is Verdict.PASSED}
        self._clock["judging"] += time.monotonic() - began
        line = {
            "at_s": time.monotonic() - self._started,
            "rollouts": len(completions),
            "tokens": sum(map(len, completion_ids)),
            "pass_rate": len(passed) / len(completions),
            "seconds": dict(self._clock),
        }
        self._clock.clear()
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        return [float(one.format_ok) + float(place in passed) for place, one in enumerate(parsed)]

    def close(self) -> None:
        """Say when training was over."""
        self._file.write(json.dumps({"at_s": time.monotonic() - self._started, "seconds": dict(self._clock)}) + "\n")
        self._file.close()
        self._pool.close()


def timed(clock: dict[str, float], name: str, method: Any) -> Any:
    """Return `method`, whose seconds are added to the clock."""

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return method(*args, **kwargs)
        finally:
            clock[name] += time.monotonic() - began

    return call


def main() -> int:
    folder = Path(sys.argv[1])
    task = json.loads((folder / "side.json").read_text())
    torch.set_num_threads(task["threads"])
    tokenizer = AutoTokenizer.from_pretrained(task["policy"])
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    for row in prompts:
        if tokenizer(row["prompt"])["input_ids"] != row["ids"]:
            raise SystemExit(f"{row['problem_id']}: its prompt is other tokens here: {row['prompt']!r}")
    clock: dict[str, float] = defaultdict(float)
    pool = make_pool("docker", SandboxSection.model_validate(task["sandbox"]))
    judge = Judge(folder, pool, clock)
    settings = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        seed=task["seed"],
        max_steps=task["batches"] * task["mini_batches"],
        # One batch of rollouts, then an optimizer step for each of its mini-batches.
        per_device_train_batch_size=task["micro_batch_rows"],
        gradient_accumulation_steps=task["mini_batch_rows"] // task["micro_batch_rows"],
        generation_batch_size=task["mini_batch_rows"] * task["mini_batches"],
        num_generations=task["group_size"],
        num_iterations=1,
        shuffle_dataset=False,
        max_completion_length=task["max_response_tokens"],
        temperature=task["temperature"],
        top_p=1.0,
        top_k=0,
        learning_rate=task["learning_rate"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=task["warmup_steps"],
        adam_beta1=task["adam_betas"][0],
        adam_beta2=task["adam_betas"][1],
        weight_decay=task["weight_decay"],
        max_grad_norm=task["max_grad_norm"],
        beta=0.0,
        epsilon=task["clip_low"],
        epsilon_high=task["clip_high"],
        loss_type="dapo",
        scale_rewards="group",
        gradient_checkpointing=False,
        use_vllm=task["vllm"],
        vllm_mode="colocate",
        vllm_max_model_length=task["max_sequence_tokens"],
        model_init_kwargs={"dtype": "float32"},
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=task["policy"],
        processing_class=tokenizer,
        reward_funcs=judge,
        args=settings,
        train_dataset=Dataset.from_list([{key: row[key] for key in ("prompt", "problem_id")} for row in prompts]),
    )
    trainer._generate = timed(clock, "sampling", trainer._generate)
    trainer.training_step = timed(clock, "training steps, sampling and judging inside", trainer.training_step)
    trainer.train()
    judge.close()
    trainer.save_model(str(folder / "model"))
    tokenizer.save_pretrained(folder / "model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
