"""What an evaluation asks the sandbox before it samples: outputs of reference solutions, libraries that are there.

Nothing of a benchmark is executed on the host. Each of `sandbox.slots` threads has a runner of its own and takes one
problem after the other; the caller waits for all of them. A runner that fails is replaced, `sandbox.retries` times a
request. Outputs are kept in a cache file, because they are the same each time; failures are not, which load may cause.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgrpo_ray.config import SandboxSection
from pgrpo_ray.errors import DataError, SandboxError
from pgrpo_ray.evaluation.evalplus import expected_of
from pgrpo_ray.evaluation.items import Item
from pgrpo_ray.obs.disk import whole_file
from pgrpo_ray.protocols import Runner
from pgrpo_ray.sandbox import checkers
from pgrpo_ray.sandbox.inside.codec import decode
from pgrpo_ray.sandbox.plan import deadline_s, make_request, plan_of
from pgrpo_ray.sandbox.runners import runner_factory
from pgrpo_ray.types import CallCase, Limits, Problem, TestStyle

_CASES = 64
"""Inputs in one request."""
_REFERENCE_CPU_S = 60.0
"""For a reference on one input; what it takes decides the limit of programs."""
_TIMES = 4.0
"""A program may take so many times the CPU time of the reference, as EvalPlus has it, and never less than its limit."""
_PROBE = """
def missing(names):
    import importlib.util

    gone = []
    for name in names:
        try:
            found = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            gone.append(name)
    return gone
"""


@dataclass(frozen=True, slots=True)
class Referenced:
    """Entries whose expected outputs are known, and what could not be used."""

    items: list[Item]
    left_out: dict[str, str]
    """Problem id to why some of its inputs have no expected output, for people."""


class _Asker:
    """Sends requests to a runner, and makes another one where it fails. For one thread."""

    def __init__(self, make_runner: Callable[[], Runner], retries: int):
        self._make_runner = make_runner
        self._retries = retries
        self._runner: Runner | None = None

    def ask(self, problem: Problem, program: str, cases: Sequence[int]) -> list[dict[str, Any]]:
        """Run the program on some cases; one result each. Raises `SandboxError` after the retries."""
        request = make_request(problem, program, "reference", cases)
        timeout_s = deadline_s(problem, len(cases))
        for attempt in range(self._retries + 1):
            try:
                self._runner = self._runner or self._make_runner()
                answer = self._runner.run(request, timeout_s)
                if len(answer["cases"]) != len(cases):
                    raise SandboxError(f"{len(answer['cases'])} results for {len(cases)} inputs")
                if answer["dirty"]:
                    self.close()
                return answer["cases"]
            except SandboxError:
                self.close()
                if attempt == self._retries:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Free the runner."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


def with_outputs(
    items: Sequence[Item], kind: str, section: SandboxSection, cache: Path, on_progress: Callable[[int], None]
) -> Referenced:
    """Return the entries with what their references put out as expected values.

    `on_progress` receives how many problems are done. Inputs on which the reference fails, or whose output is no plain
    data, are left out and told. Raises `DataError` for a problem that loses all of them, `SandboxError` when the
    machinery fails.
    """
    wanted = [item for item in items if item.oracle]
    if not wanted:
        return Referenced(list(items), {})
    file = cache / "references" / f"{_key(wanted, kind, section)}.jsonl"
    known = _read(file, wanted)
    on_progress(len(known))
    missing = [item for item in wanted if item.problem.id not in known]
    if missing:
        known |= _run_all(missing, kind, section, on_progress)
        _write(file, known)
    filled: dict[str, Item] = {}
    left_out: dict[str, str] = {}
    for item in wanted:
        filled[item.problem.id], reason = _filled(item, known[item.problem.id])
        if reason:
            left_out[item.problem.id] = reason
    return Referenced([filled.get(item.problem.id, item) for item in items], left_out)


def missing_libraries(names: Collection[str], kind: str, section: SandboxSection) -> list[str]:
    """Return those of the modules that a program in the sandbox cannot import. Raises `SandboxError`."""
    if not names:
        return []
    problem = Problem("libraries", "-", TestStyle.CALL, (CallCase([sorted(names)], []),), entry_point="missing")
    asker = _Asker(runner_factory(kind, section), section.retries)
    try:
        (result,) = asker.ask(problem, _PROBE, [0])
    finally:
        asker.close()
    if result["status"] != "ok":
        raise SandboxError(f"the sandbox cannot say which libraries it has: {result.get('detail', result['status'])}")
    (gone,) = decode(json.loads(result["value"]))
    return list(gone)


def _run_all(
    items: Sequence[Item], kind: str, section: SandboxSection, on_progress: Callable[[int], None]
) -> dict[str, list[dict[str, Any]]]:
    make_runner, local, askers = runner_factory(kind, section), threading.local(), []

    def run(item: Item) -> list[dict[str, Any]]:
        if not hasattr(local, "asker"):
            local.asker = _Asker(make_runner, section.retries)
            askers.append(local.asker)
        return _outputs(item, local.asker)

    known = {}
    with ThreadPoolExecutor(section.slots) as threads:
        try:
            for item, outputs in zip(items, threads.map(run, items), strict=True):
                known[item.problem.id] = outputs
                on_progress(1)
        finally:
            threads.shutdown(cancel_futures=True)
            for asker in askers:
                asker.close()
    return known


def _outputs(item: Item, asker: _Asker) -> list[dict[str, Any]]:
    """Run one reference on all inputs; return the encoded value (or the failure) and CPU time of each."""
    problem = replace(
        item.problem, limits=replace(item.problem.limits, cpu_s=_REFERENCE_CPU_S, wall_s=2 * _REFERENCE_CPU_S)
    )
    outputs = []
    for start in range(0, len(problem.cases), _CASES):
        places = list(range(start, min(start + _CASES, len(problem.cases))))
        for place, result in zip(places, asker.ask(problem, item.oracle, places), strict=True):
            if result["status"] != "ok":  # it may have suffered from the inputs before it
                (result,) = asker.ask(problem, item.oracle, [place])
            cpu_s = result.get("cpu_ms", 0.0) / 1000
            if result["status"] == "ok":
                outputs.append({"value": result["value"], "cpu_s": cpu_s})
            else:
                outputs.append({"failure": f"{result['status']} {result.get('detail', '')}".strip(), "cpu_s": cpu_s})
    return outputs


def _filled(item: Item, outputs: list[dict[str, Any]]) -> tuple[Item, str]:
    """Put outputs where they are expected; return also why some could not be."""
    problem, cases, reasons = item.problem, [], []
    slowest = 0.0  # of inputs that stay: a reference that ran out of time gives nobody four times as much
    for index, (case, output) in enumerate(zip(problem.cases, outputs, strict=True)):
        if "failure" in output:
            reasons.append(f"input {index}: the reference ended with {output['failure']}")
            continue
        (value,) = decode(json.loads(output["value"]))
        known = replace(case, expected=expected_of(problem, value))
        try:
            checkers.prove(replace(problem, cases=(known,)))
        except DataError:
            reasons.append(f"input {index}: the reference's output does not equal itself, or is no plain data")
            continue
        cases.append(known)
        slowest = max(slowest, output["cpu_s"])
    if not cases:
        raise DataError(
            f"problem {problem.id!r}: its reference gives no usable output for any input ({reasons[0]}). Remove the "
            "problem, or correct its reference."
        )
    limits = _scaled(problem.limits, slowest)
    told = f"{len(reasons)} of {len(outputs)} inputs ({reasons[0]})" if reasons else ""
    return replace(item, problem=replace(problem, cases=tuple(cases), limits=limits), oracle=""), told


def _scaled(limits: Limits, slowest_s: float) -> Limits:
    """Give programs `_TIMES` what the reference took, where that is more than the limits."""
    cpu_s = max(limits.cpu_s, round(_TIMES * slowest_s, 1))
    return replace(limits, cpu_s=cpu_s, wall_s=max(limits.wall_s, 3 * cpu_s))


def _key(items: Sequence[Item], kind: str, section: SandboxSection) -> str:
    digest = hashlib.sha256(f"{kind} {section.image}".encode())
    for item in items:
        inputs = plan_of(item.problem).cases  # encoded: only a set of texts may differ between two processes
        digest.update(json.dumps([item.problem.id, item.oracle, inputs]).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:24]


def _read(file: Path, items: Sequence[Item]) -> dict[str, list[dict[str, Any]]]:
    """Return what the cache holds by problem; a line that is damaged or of other inputs counts as not there."""
    wanted = {item.problem.id: len(item.problem.cases) for item in items}
    known = {}
    with contextlib.suppress(OSError), file.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
                record = json.loads(line)
                outputs = record["outputs"]
                if len(outputs) == wanted[record["id"]] and all(_is_output(output) for output in outputs):
                    known[record["id"]] = outputs
    return known


def _is_output(output: dict[str, Any]) -> bool:
    """Whether this is what `_outputs` returns for an input that has one. Raises whatever damaged values cause."""
    (_,) = decode(json.loads(output["value"]))
    return isinstance(output["cpu_s"], float) and 0 <= output["cpu_s"] <= 10 * _REFERENCE_CPU_S


def _write(file: Path, known: dict[str, list[dict[str, Any]]]) -> None:
    """Keep the outputs of problems without failures, whole or not at all; without the file, time is lost alone."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as lines:
            lines.writelines(_lines(known))


def _lines(known: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for problem_id, outputs in known.items():
        if any("failure" in output for output in outputs):
            continue
        yield json.dumps({"id": problem_id, "outputs": outputs}) + "\n"
