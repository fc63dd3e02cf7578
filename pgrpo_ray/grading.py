"""Judge a file of programs through the execution pool, without Ray: what `pgrpo grade` does.

Everything that can be wrong with input and output is found before a container starts. Verdicts are written as they
come, in the order of the input, to a draft beside the output, which takes its name at the end: an output is always
whole, and after an interruption the draft holds what was judged.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pgrpo_ray import preflight
from pgrpo_ray.config import SANDBOX_OVERHEAD_MIB, RunConfig
from pgrpo_ray.data.loaders import Submission, load_problems, load_programs
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.obs.display import warn_weak_sandbox
from pgrpo_ray.sandbox.languages import compiled
from pgrpo_ray.sandbox.pool import make_pool
from pgrpo_ray.types import Judgement

CHUNK = 256
"""Programs judged between two writes."""


def grade_file(problems: Path, format: str, programs: Path, out: Path, config: RunConfig, console: Console) -> int:
    """Write `out`: the lines of `programs` in their order, each with its verdict. Return how many got none."""
    by_id = {problem.id: problem for problem in load_problems(problems, format)}
    submissions = load_programs(programs, by_id)
    draft = _open_draft(out)
    sandbox = preflight.choose_sandbox(config)
    if sandbox.kind == "process":
        warn_weak_sandbox(console, sandbox.reason)
    largest = max(problem.limits.memory_mib for problem in by_id.values()) + SANDBOX_OVERHEAD_MIB
    section = config.sandbox.model_copy(update={"memory_mib": max(config.sandbox.memory_mib, largest)})
    preflight.check_judging(config, sandbox, list(by_id.values()))
    passed = errors = 0
    try:
        with interruptible(), draft.open("w", encoding="utf-8") as file, console.status("starting") as status:
            pool = make_pool(sandbox.kind, section, compiled(by_id.values()))
            try:
                for start in range(0, len(submissions), CHUNK):
                    status.update(f"judging program {start + 1} of {len(submissions)} ({sandbox.kind} sandbox)")
                    part = submissions[start : start + CHUNK]
                    judgements = pool.judge_many([(by_id[entry.problem_id], entry.program) for entry in part])
                    file.writelines(_lines(part, judgements))
                    file.flush()
                    passed += sum(judgement.passed for judgement in judgements)
                    errors += sum(judgement.verdict is None for judgement in judgements)
            finally:
                pool.close()
        draft.replace(out)
    except OSError as error:
        raise EnvironmentFault(f"--out {out}: cannot be written: {error.strerror}. {draft} holds the rest.") from error
    console.print(f"{passed} of {len(submissions)} passed ({sandbox.kind} sandbox): {out}", highlight=False)
    return errors


def _open_draft(out: Path) -> Path:
    """Return the draft's path after proving that it can be written. Raises `EnvironmentFault`."""
    if out.exists() and not out.is_file():
        raise EnvironmentFault(f"--out {out}: exists and is no regular file. Name a file to write.")
    draft = out.with_name(f"{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        if out.exists() and not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise EnvironmentFault(f"--out {out}: cannot be written: {error.strerror}. Name another file.") from error
    return draft


def _lines(part: Sequence[Submission], judgements: Sequence[Judgement]) -> list[str]:
    """The input's records with their verdicts, as JSON lines."""
    lines = []
    for entry, judgement in zip(part, judgements, strict=True):
        record = entry.record | {
            "verdict": judgement.verdict,
            "tests_passed": judgement.tests_passed,
            "tests_total": judgement.tests_total,
            "first_failed": judgement.first_failed,
            "duration_ms": judgement.duration_ms,
            "cpu_ms": judgement.cpu_ms,
            "peak_mib": judgement.peak_mib,
            "detail": judgement.detail,
            "sandbox": judgement.sandbox,
        }
        lines.append(json.dumps(record | ({"error": judgement.error} if judgement.error else {})) + "\n")
    return lines
