"""Fewer tests of a problem: published ones have hundreds, and megabytes of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from pgrpo_ray.data.deepcoder import NoTestsError
from pgrpo_ray.errors import DataError
from pgrpo_ray.types import Case, Problem, StdinCase


def capped(problem: Problem, max_tests: int, max_bytes: int) -> Problem:
    """Return `problem` with at most so many cases, and bytes of cases in all: those with the longest inputs that fit.

    The longest find slow programs and the corners of a statement soonest. Order is kept; `metadata` says how many cases
    there were and are (`num_tests_given`, `num_tests_kept`). Raises `DataError` when not one fits, and `NoTestsError`
    when a script that prints nothing would pass all that can be kept.
    """
    sizes = [_size(case) for case in problem.cases]
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index][0], index))
    chosen = _fitting(order, sizes, max_tests, max_bytes)
    if not chosen:
        raise DataError(f"the smallest of {len(sizes)} tests has {min(map(sum, sizes))} bytes, more than {max_bytes}.")
    if all(_passes_by_silence(problem.cases[index]) for index in chosen):
        telling = next(
            (i for i in order if not _passes_by_silence(problem.cases[i]) and sum(sizes[i]) <= max_bytes), None
        )
        if telling is None:
            raise NoTestsError(
                f"every test within {max_bytes} bytes expects blank output: a program that does nothing would pass."
            )
        others = [index for index in order if index != telling]
        chosen = _fitting([telling, *others], sizes, max_tests, max_bytes)
    counted = {"num_tests_given": len(sizes), "num_tests_kept": len(chosen)}
    cases = tuple(problem.cases[index] for index in sorted(chosen))
    return replace(problem, cases=cases, metadata={**problem.metadata, **counted})


def _fitting(order: Sequence[int], sizes: Sequence[tuple[int, int]], max_tests: int, max_bytes: int) -> list[int]:
    """Return the first of `order` that fit together."""
    chosen: list[int] = []
    for index in order:
        if len(chosen) < max_tests and sum(sizes[index]) <= max_bytes:
            chosen.append(index)
            max_bytes -= sum(sizes[index])
    return chosen


def _passes_by_silence(case: Case) -> bool:
    """Whether a script that prints nothing is right in this case."""
    return isinstance(case, StdinCase) and not all(output.strip() for output in (case.output, *case.also))


def _size(case: Case) -> tuple[int, int]:
    """Return the bytes of a case's input and of everything else in it."""
    if isinstance(case, StdinCase):
        given, right = case.input, "".join((case.output, *case.also))
    else:
        parts = asdict(case)
        given = json.dumps(parts.pop("args", parts.get("source")), ensure_ascii=False, default=str)
        right = json.dumps(parts, ensure_ascii=False, default=str)
    return len(given.encode()), len(right.encode())
