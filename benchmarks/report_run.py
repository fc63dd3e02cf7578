"""A made-up run in the form of a real one, with texts of a wanted size. For `report.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pgrpo_ray.algo.advantages import term_advantages, variance_shares
from pgrpo_ray.config import parse
from pgrpo_ray.data import arrow
from pgrpo_ray.obs.metrics import batch_metrics
from pgrpo_ray.obs.run_log import RunLog
from pgrpo_ray.types import Verdict

_WORDS = """
we need the sum of all even numbers first read input then sort list and keep what is larger than limit so that each pair
counts once but careful index may run out of range when empty therefore check length before loop use dictionary to
remember seen values complexity stays linear which fits within two seconds edge case zero negative duplicates
""".split()  # noqa: SIM905, prose reads better than a list of words
_LINES = (
    "import sys",
    "def solve(values, limit):",
    "    # every value counts once",
    "    seen = {}",
    "    for index, value in enumerate(values):",
    "        if value % 2 == 0 and value > limit:",
    "            seen[value] = seen.get(value, 0) + 1",
    '    total = sum(count * value for value, count in seen.items()) + 17  # "even" ones',
    "    return total if total else -1",
    "data = list(map(int, sys.stdin.read().split()))",
    "print(solve(data[1:], data[0]))",
)
_FAILURES = {
    Verdict.PASSED: "",
    Verdict.WRONG_ANSWER: "case 3: expected 42, received 41",
    Verdict.RUNTIME_ERROR: "IndexError: list index out of range (line 7)",
    Verdict.TIME_LIMIT: "case 5: more than 4.0 s of CPU time",
    Verdict.COMPILE_ERROR: "SyntaxError: '(' was never closed (line 3)",
}
_PARAGRAPHS = 20_000


class MadeUpRun:
    """Writes a run's folder; the policy gets better step by step."""

    def __init__(
        self, folder: Path, *, steps: int, groups: int, group_size: int = 8, text_scale: float = 1, seed: int = 0
    ):
        """`text_scale`: 1 is 2.2 kB of reasoning and 0.8 kB of program on average."""
        self.config = parse(
            {
                "run": {"name": folder.name, "dir": str(folder.parent), "steps": steps, "seed": seed},
                "rollout": {"prompts_per_step": groups, "group_size": group_size},
                "algo": {"advantage_std_floor": 0.1 if seed == 0 else 1e-6},
            }
        )
        self._rng = np.random.default_rng(seed)
        self._scale = text_scale
        picked = self._rng.choice(_WORDS, size=(_PARAGRAPHS, 40))
        self._paragraphs = [" ".join(words).capitalize() + "." for words in picked]

    def write(self) -> Path:
        """Write the whole run; return its folder."""
        log, config = RunLog(self.config), self.config
        groups, size, steps = config.rollout.prompts_per_step, config.rollout.group_size, config.run.steps
        arrow.write_ipc(log.evaluation_path("before"), self._judged(0, 128, 4, 0.25), {})
        for step in range(1, steps + 1):
            share = 0.25 + 0.45 * (1 - np.exp(-3 * step / steps))
            table = self._judged(step, groups, size, share)
            rewarded, metrics = self._rewarded(table, np.repeat(np.arange(groups), size), step)
            arrow.write_ipc(log.rollouts_path(step), rewarded, {"step": str(step)})
            log.step(step, metrics)
            if step % max(1, steps // 4) == 0 and step < steps:
                arrow.write_ipc(log.evaluation_path(f"step-{step:06d}"), self._judged(step, 128, 4, share), {})
        arrow.write_ipc(log.evaluation_path("after"), self._judged(steps, 128, 4, 0.7), {})
        versions = {"pgrpo_ray": "0.1.0", "python": "3.11.2", "torch": "2.13.0"}
        heldout = {"heldout_problems": 128, "heldout_samples_per_problem": 4}
        log.summary({"steps": steps, "seconds": 9000.0, "sandbox": "docker", "versions": versions, **heldout})
        log.close()
        return log.folder

    def _judged(self, step: int, groups: int, size: int, share: float) -> pa.Table:
        """Groups with verdicts; `share` of the rollouts pass."""
        rng, rows = self._rng, groups * size
        ease = np.repeat(rng.beta(2 * share, 2 * (1 - share), groups), size)
        passed, well_formed = rng.random(rows) < ease, rng.random(rows) < 0.97
        failures = list(_FAILURES)[1:]
        verdicts = [
            None if not fine else Verdict.PASSED if good else failures[kind]
            for good, fine, kind in zip(passed, well_formed, rng.choice(4, rows, p=(0.6, 0.25, 0.1, 0.05)), strict=True)
        ]
        thinking = [self._reasoning() for _ in range(rows)]
        programs = [self._program() for _ in range(rows)]
        responses = [f"<think>{one}</think><answer>{two}</answer>" for one, two in zip(thinking, programs, strict=True)]
        tokens = [np.zeros(max(1, len(response) // 4), np.int32) for response in responses]
        failed = [verdict is not None and verdict != Verdict.PASSED for verdict in verdicts]
        names = [f"lists/{(step * groups + at) % 4096:04d}" for at in range(groups)]
        prompts = [f"Problem {name}. {self._paragraphs[at % _PARAGRAPHS]}" for at, name in enumerate(names)]
        rollouts = {
            "problem_id": np.repeat(names, size).tolist(),
            "sample_index": np.tile(np.arange(size), groups),
            "policy_version": np.full(rows, step),
            "prompt": np.repeat(prompts, size).tolist(),
            "prompt_ids": [np.zeros(40, np.int32)] * rows,
            "response_ids": tokens,
            "rollout_logprobs": [np.zeros(len(ids), np.float32) for ids in tokens],
            "versions": [np.full(1, step)] * rows,
            "version_starts": [np.zeros(1, np.int32)] * rows,
            "response": responses,
            "finish_reason": ["stop"] * rows,
            "format_ok": well_formed,
            "thinking": [text if fine else None for text, fine in zip(thinking, well_formed, strict=True)],
            "program": [text if fine else None for text, fine in zip(programs, well_formed, strict=True)],
        }
        ran = np.array([verdict is not None for verdict in verdicts])
        judged = {
            "verdict": [None if verdict is None else verdict.value for verdict in verdicts],
            "tests_passed": np.where(ran, np.where(failed, rng.integers(0, 9, rows), 10), 0).astype(np.int32),
            "tests_total": np.where(ran, 10, 0).astype(np.int32),
            "first_failed": [
                int(at) if bad else None for at, bad in zip(rng.integers(0, 9, rows), failed, strict=True)
            ],
            "duration_ms": np.where(ran, rng.gamma(2, 40, rows), 0).astype(np.float32),
            "cpu_ms": np.where(ran, rng.gamma(2, 30, rows), 0).astype(np.float32),
            "peak_mib": np.where(ran, 12, 0).astype(np.float32),
            "sandbox": ["docker" if one else None for one in ran],
            "detail": [_FAILURES.get(verdict, "") for verdict in verdicts],
            "execution_error": [None] * rows,
        }
        tables = (arrow.build_table(arrow.ROLLOUT_SCHEMA, rollouts), arrow.build_table(arrow.VERDICT_SCHEMA, judged))
        return arrow.append_columns(*tables)

    def _rewarded(self, table: pa.Table, groups: np.ndarray, step: int) -> tuple[pa.Table, dict[str, Any]]:
        rng, rows = self._rng, len(groups)
        verdicts = np.array([verdict or "" for verdict in table["verdict"].to_pylist()], dtype=object)
        passed, well_formed = verdicts == Verdict.PASSED, table["format_ok"].to_numpy().astype(float)
        scores = np.where(passed, rng.beta(2 + 4 * step / self.config.run.steps, 3, rows), np.nan)
        terms = {"format": well_formed, "outcome": passed.astype(float), "thinking": np.nan_to_num(scores)}
        parts = term_advantages(terms, groups, 0.1)
        columns = {f"reward_{name}": values for name, values in terms.items()}
        columns |= {"reward_other": np.zeros(rows), "reward": sum(terms.values()), "advantage": sum(parts.values())}
        rewards = arrow.reward_table(columns, [None] * rows, [None] * rows)
        thinking = {
            "thinking_reward": pa.array(scores, pa.float32(), from_pandas=True),
            "thinking_error": [None] * rows,
        }
        lengths = arrow.list_lengths(table["response_ids"])
        columns |= {"dropped": np.full(rows, ""), "masked": np.full(rows, ""), "verdict": verdicts}
        columns |= {"thinking_reward": scores, "format_ok": well_formed, "response_length": lengths}
        columns |= {"prompt_length": np.full(rows, 40), "finish_reason": np.full(rows, "stop")}
        columns |= {"policy_version": np.full(rows, step - 1)}
        busy = {"sampling": 40, "judging": 12, "scoring": 5, "learning": 35, "sync": 3}
        metrics = batch_metrics(columns, groups, step - 1)
        metrics |= {f"advantage_share_{term}": share for term, share in variance_shares(parts).items()}
        metrics |= {f"busy_{stage}_s": seconds * rng.normal(1, 0.05) for stage, seconds in busy.items()}
        metrics |= {"policy_version": step, "step_s": 92 * rng.normal(1, 0.04), "grad_norm": rng.gamma(9, 0.03)}
        metrics |= {
            "entropy": 0.5 * np.exp(-step / 40) + 0.05,
            "mismatch_mean": 1e-3,
            "mismatch_max": rng.gamma(4, 0.01),
        }
        stages = (table, arrow.build_table(arrow.THINKING_SCHEMA, thinking), rewards)
        return arrow.append_columns(*stages), {name: float(value) for name, value in metrics.items()}

    def _reasoning(self) -> str:
        count = max(1, int(self._rng.gamma(4, 2.5 * self._scale)))
        return "\n\n".join(self._paragraphs[at] for at in self._rng.integers(_PARAGRAPHS, size=count))

    def _program(self) -> str:
        repeats = max(1, int(self._rng.gamma(3, 0.8 * self._scale)))
        number = self._rng.integers(1000, size=repeats)
        return "\n".join("\n".join(_LINES).replace("17", str(one)).replace("solve", f"solve_{one}") for one in number)
