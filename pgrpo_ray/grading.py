"""Judge a file of programs through the execution pool, without Ray: what `pgrpo grade` does.

Everything that can be wrong with the input is found before a container starts; the output appears whole, by rename.
"""

import json
from pathlib import Path

from rich.console import Console

from pgrpo_ray import preflight
from pgrpo_ray.config import RunConfig
from pgrpo_ray.data.loaders import load_problems, load_programs
from pgrpo_ray.launch import interruptible, warn_process_sandbox
from pgrpo_ray.obs.run_log import explain_full_disk
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.sandbox.runners import runner_factory


def grade_file(problems: Path, format: str, programs: Path, out: Path, config: RunConfig, console: Console) -> int:
    """Write `out`: the lines of `programs` in their order, each with its verdict. Return how many got none."""
    by_id = {problem.id: problem for problem in load_problems(problems, format)}
    submissions = load_programs(programs, by_id)
    kind = preflight.sandbox_kind(config)
    if kind == "process":
        warn_process_sandbox(console)
    section = config.sandbox
    with explain_full_disk(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    with interruptible(), console.status(f"judging {len(submissions)} programs ({kind} sandbox)"):
        pool = ExecutionPool(runner_factory(kind, section), slots=section.slots, retries=section.retries)
        try:
            judgements = pool.judge_many([(by_id[entry.problem_id], entry.program) for entry in submissions])
        finally:
            pool.close()
    lines = []
    for entry, judgement in zip(submissions, judgements, strict=True):
        line = {
            "verdict": judgement.verdict,
            "tests_passed": judgement.tests_passed,
            "tests_total": judgement.tests_total,
            "duration_ms": round(judgement.duration_ms, 3),
            "sandbox": judgement.sandbox,
        }
        lines.append(json.dumps(entry.record | line | ({"error": judgement.error} if judgement.error else {})))
    with explain_full_disk(out.parent):
        draft = out.with_name(f".{out.name}.tmp")
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        draft.replace(out)
    passed = sum(judgement.passed for judgement in judgements)
    console.print(f"{passed} of {len(judgements)} passed ({kind} sandbox): {out}", highlight=False)
    return sum(judgement.verdict is None for judgement in judgements)
