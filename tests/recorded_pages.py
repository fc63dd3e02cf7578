"""A run's folder with rollouts of a test's own, as a real run would have left it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from pgrpo_ray.config import parse
from pgrpo_ray.data import arrow
from pgrpo_ray.obs.run_log import RunLog

_TEXTS = {"prompt": "Add both.", "thinking": "Because.", "program": "print(1)", "detail": "", "finish_reason": "stop"}
_COUNTS = {"policy_version": 0, "tests_passed": 0, "tests_total": 2, "duration_ms": 1, "cpu_ms": 1, "peak_mib": 1}
_TERMS = ("reward_format", "reward_outcome", "reward_thinking", "reward_other", "reward", "advantage")


def table_of(groups: dict[str, list[dict]], rewarded: bool = True) -> pa.Table:
    """Problem -> its rollouts; what a rollout does not say is that of one that passed and was not scored."""
    rows = []
    for problem, members in groups.items():
        for index, member in enumerate(members):
            one = {**_TEXTS, **_COUNTS, "verdict": "passed", "problem_id": problem, "sample_index": index, **member}
            one["format_ok"] = one["program"] is not None
            one.setdefault("response", f"<think>{one['thinking']}</think><answer>{one['program']}</answer>")
            tokens = one.get("tokens", 5)
            one |= {"prompt_ids": np.zeros(2, np.int32), "response_ids": np.zeros(tokens, np.int32)}
            one |= {"rollout_logprobs": np.zeros(tokens, np.float32), "versions": np.zeros(1, np.int64)}
            one["version_starts"] = np.zeros(1, np.int32)
            one.setdefault("sandbox", "process")
            known = ("reward_format",) if one.get("dropped") else _TERMS
            one = {**dict.fromkeys(known, 0.0), **one}
            rows.append(one)
    schema = arrow.BATCH_SCHEMA if rewarded else pa.schema([*arrow.ROLLOUT_SCHEMA, *arrow.VERDICT_SCHEMA])
    return arrow.build_table(schema, {name: [row.get(name) for row in rows] for name in schema.names})


def write_run(
    folder: Path,
    steps: dict[int, pa.Table] | None = None,
    evaluations: dict[str, pa.Table] | None = None,
    metrics: dict[int, dict] | None = None,
    summary: dict | None = None,
    **sections: dict,
) -> Path:
    """Write a run's folder; `metrics` of the steps that have rollouts are empty unless given."""
    config = parse({"run": {"name": folder.name, "dir": str(folder.parent), "seed": 3}, **sections})
    log = RunLog(config)
    for step, table in (steps or {}).items():
        arrow.write_ipc(log.rollouts_path(step), table, {"step": str(step)})
    for step in sorted({*(steps or {}), *(metrics or {})}):
        log.step(step, (metrics or {}).get(step, {}))
    for name, table in (evaluations or {}).items():
        arrow.write_ipc(log.evaluation_path(name), table, {})
    if summary is not None:
        log.summary(summary)
    log.close()
    return log.folder


def lines_of(folder: Path) -> list[dict]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
