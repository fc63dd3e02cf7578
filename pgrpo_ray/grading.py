"""Judge programs, or answers, through the same judges as a run, without Ray: what `pgrpo grade` does with a file.

Everything that can be wrong with input and output is found before a container starts. Verdicts are written as they
come, in the order of the input, to a draft beside the output, which takes its name at the end: an output is always
whole, and after an interruption the draft holds what was judged.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from pgrpo_ray.actors.judges import start_judges
from pgrpo_ray.config import SANDBOX_OVERHEAD_MIB, RunConfig
from pgrpo_ray.data.loaders import Submission, load_problems, load_programs
from pgrpo_ray.errors import DataError, EnvironmentFault
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.obs.disk import check_out
from pgrpo_ray.obs.display import warn_weak_sandbox, working
from pgrpo_ray.preflight.sandbox import Sandbox, check_judging, choose_sandbox
from pgrpo_ray.protocols import Judge
from pgrpo_ray.types import Judgement, Problem

CHUNK = 256
"""Programs judged between two writes."""


def grade_file(problems: Path, format: str, programs: Path, out: Path, config: RunConfig, console: Console) -> int:
    """Write `out`: the lines of `programs` in their order, each with its verdict. Return how many got none."""
    by_id = {problem.id: problem for problem in load_problems(problems, format)}
    submissions = load_programs(programs, by_id)
    draft = _open_draft(out, [problems, programs])
    passed = errors = 0
    try:
        with (
            interruptible(),
            working(console, "starting") as tell,
            judges(by_id.values(), config, console) as (pool, sandbox),
            draft.open("w", encoding="utf-8") as file,
        ):
            for start in range(0, len(submissions), CHUNK):
                tell(f"judging program {start + 1} of {len(submissions)} ({sandbox.name})")
                part = submissions[start : start + CHUNK]
                judgements = pool.judge_many([(by_id[entry.problem_id], entry.program) for entry in part])
                file.writelines(_lines(part, judgements))
                file.flush()
                passed += sum(judgement.passed for judgement in judgements)
                errors += sum(judgement.verdict is None for judgement in judgements)
        draft.replace(out)
    except OSError as error:
        raise EnvironmentFault(f"--out {out}: cannot be written: {error.strerror}. {draft} holds the rest.") from error
    console.print(f"{passed} of {len(submissions)} passed ({sandbox.name}): {out}", highlight=False)
    return errors


@contextlib.contextmanager
def judges(problems: Collection[Problem], config: RunConfig, console: Console) -> Iterator[tuple[Judge, Sandbox]]:
    """Judge programs of these problems while the block runs, with memory for the hungriest; say in which sandbox.

    Raises `ConfigError`, `DataError`, `EnvironmentFault` and `SandboxError`.
    """
    everything = list(problems)
    if not everything:
        raise DataError("there are no problems to judge programs of. Give one at least.")
    sandbox = choose_sandbox(config, everything)
    if sandbox.kind == "process":
        warn_weak_sandbox(console, sandbox.reason)
    largest = max(problem.limits.memory_mib for problem in everything) + SANDBOX_OVERHEAD_MIB
    section = config.sandbox.model_copy(update={"memory_mib": max(config.sandbox.memory_mib, largest)})
    check_judging(config, sandbox, everything)
    with contextlib.closing(start_judges(sandbox.kind, section, everything)) as pool:
        yield pool, sandbox


def _open_draft(out: Path, inputs: Sequence[Path]) -> Path:
    """Return the draft's path after proving that it can be written. Raises `EnvironmentFault`, `ConfigError`."""
    check_out(out, inputs=inputs)
    if out.exists() and not os.access(out, os.W_OK):
        raise EnvironmentFault(f"--out {out}: cannot be written: Permission denied. Name another file.")
    return out.with_name(f"{out.name}.part")


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
