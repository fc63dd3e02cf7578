"""The samples of an evaluation: requests and solutions, rows, and the parts on disk that make it resumable.

A part is a Parquet file of whole groups, written whole or not at all. A group counts as judged unless the machinery
failed on one of its samples; of a group that stands in two parts, the later one counts.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pgrpo_ray.data import arrow
from pgrpo_ray.errors import StageError
from pgrpo_ray.evaluation import results
from pgrpo_ray.evaluation.corruption import corrupted, corrupted_answer
from pgrpo_ray.evaluation.items import Item
from pgrpo_ray.evaluation.prompting import PromptFile, judged_part
from pgrpo_ray.reward_model.version import folder_version
from pgrpo_ray.types import PromptRequest, TestStyle, Verdict

if TYPE_CHECKING:
    from pgrpo_ray.jobs.evaluation import Plan

_SAMPLING = 3
"""First word of every seed; training has 0, its evaluations 1, LCB-RB 2."""
_ANY_LENGTH = 1 << 30


def encode(model: str, items: Sequence[Item], prompt: PromptFile) -> dict[str, tuple[int, ...]]:
    """Return each problem's prompt token ids, by problem id."""
    from transformers import AutoTokenizer

    from pgrpo_ray.data.prompts import encode_prompts

    shown = [replace(item.problem, prompt=prompt.render(item.problem)) for item in items]
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return encode_prompts(tokenizer, shown, prompt.system, _ANY_LENGTH)


def model_version(model: str) -> str:
    """Return what tells a model's weights from others of the same name: a content hash, or a hub name's commit.

    Empty where a hub name's commit cannot be known.
    """
    if Path(model).is_dir():
        return folder_version(Path(model))
    from huggingface_hub import snapshot_download

    try:
        return f"commit:{Path(snapshot_download(model, allow_patterns=['config.json'])).name}"
    except Exception:  # offline and not in the cache; then the engine's start will say what is wrong
        return ""


def judged(fleet: Any, plan: "Plan", items: Sequence[Item]) -> Iterator[pa.Table]:
    """Yield the judged group of each entry, as they come: sampled, or its solution."""
    from pgrpo_ray.actors.sampling import judged_groups, judged_tables

    if plan.model is None:
        corrupt = plan.config.evaluation.solutions == "corrupted"
        return judged_tables(fleet, plan.run, (_solution_table(item, corrupt) for item in items))
    places = {item.problem.id: place for place, item in enumerate(plan.items)}
    root = [plan.config.evaluation.seed, _SAMPLING]
    requests = [
        PromptRequest(
            item.problem.id,
            plan.prompt_ids[item.problem.id],
            int(np.random.SeedSequence([*root, places[item.problem.id]]).generate_state(1)[0]),
        )
        for item in items
    ]
    answers = plan.config.prompt.answers
    plain = answers == "tags" and not any(item.harness for item in items)
    by_id = {item.problem.id: item for item in items}
    revise = None if plain else partial(_revised, by_id=by_id, answers=answers)
    return judged_groups(fleet, plan.run, requests, revise)


def _revised(table: pa.Table, by_id: dict[str, Item], answers: str) -> pa.Table:
    """Put what is judged in the place of what the worker took from the tags."""
    item = by_id[table["problem_id"][0].as_py()]
    parts = [judged_part(text, item.problem.style, answers) for text in table["response"].to_pylist()]
    return _with_programs(table, [None if part is None else part + item.harness for part in parts])


def _with_programs(table: pa.Table, programs: Sequence[str | None]) -> pa.Table:
    place = table.schema.get_field_index("program")
    return table.set_column(place, table.schema.field(place), pa.array(programs, pa.string()))


def _solution_table(item: Item, corrupt: bool) -> pa.Table:
    """The ROLLOUT table of a solution, as if somebody had sampled it."""
    program = _solution(item, corrupt)
    row = {
        "problem_id": item.problem.id,
        "sample_index": 0,
        "policy_version": 0,
        "prompt": "",
        "prompt_ids": [],
        "response_ids": [],
        "rollout_logprobs": [],
        "versions": [],
        "version_starts": [],
        "response": program,
        "finish_reason": "solution",
        "format_ok": True,
        "thinking": "",
        "program": program + item.harness,
    }
    return arrow.build_table(arrow.ROLLOUT_SCHEMA, {name: [value] for name, value in row.items()})


def _solution(item: Item, corrupt: bool) -> str:
    solution = item.solution or ""
    if not corrupt:
        return solution
    if item.problem.style is TestStyle.ANSWER:
        return corrupted_answer(solution)
    return corrupted(solution, item.function)


def to_samples(group: pa.Table, item: Item) -> pa.Table:
    """Return the rows of one judged group."""
    errors, verdicts = group["execution_error"].to_pylist(), group["verdict"].to_pylist()
    programs = group["program"].to_pylist()
    size = group.num_rows
    columns = {name: group[name] for name in group.column_names if name in results.SCHEMA.names}
    columns |= {
        "difficulty": [item.difficulty] * size,
        "program": [None if one is None else one.removesuffix(item.harness) for one in programs],
        "passed": [
            None if error else verdict == Verdict.PASSED for verdict, error in zip(verdicts, errors, strict=True)
        ],
        "prompt_tokens": arrow.list_lengths(group["prompt_ids"]),
        "response_tokens": arrow.list_lengths(group["response_ids"]),
        "error": errors,
    }
    arrays = [_array(columns[field.name], field.type) for field in results.SCHEMA]
    return pa.Table.from_arrays(arrays, schema=results.SCHEMA)


def _array(values: Any, kind: pa.DataType) -> Any:
    return values.cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)


class Parts:
    """Writes groups in parts of `size`; on leaving, whatever happened, also the rest. A context manager.

    Only a full part can say that the machinery is broken. The rest may be one problem that nobody can judge, of which
    the summary tells; and what is raised on leaving would hide what went wrong before.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], size: int):
        self._folder = folder / results.PARTS
        self._settings = settings
        self._size = size
        self._groups: list[pa.Table] = []

    def __enter__(self) -> "Parts":
        self._folder.mkdir(parents=True, exist_ok=True)
        numbers = (int(path.stem.removeprefix("part-")) for path in _parts(self._folder))
        self._numbers = itertools.count(max(numbers, default=-1) + 1)
        return self

    def add(self, group: pa.Table) -> None:
        """Take a group. Raises `StageError` when the machinery failed on every program of a full part of several."""
        self._groups.append(group)
        if len(self._groups) < self._size:
            return
        table = self._write()
        errors = table["error"].drop_null()
        if self._size > 1 and len(errors) and len(errors) == len(table["program"].drop_null()):
            raise StageError(
                f"execution pool: all {len(errors)} programs were lost to failing machinery: {errors[0]}",
                stage="execution pool",
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._groups:
            return
        # A full disk must not hide what ended the evaluation: then these groups are lost, and judged again.
        with contextlib.suppress(OSError) if kind is not None else contextlib.nullcontext():
            self._write()

    def _write(self) -> pa.Table:
        table, self._groups = pa.concat_tables(self._groups), []
        results.write_table(self._folder / f"part-{next(self._numbers):05d}.parquet", table, self._settings)
        return table


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _groups(folder: Path) -> dict[str, pa.Table]:
    """Every group that is there, the latest of each problem."""
    finished = folder / results.SAMPLES
    files = [*([finished] if finished.is_file() else []), *_parts(folder / results.PARTS)]
    groups = {}
    for file in files:
        table = results.read_table(file)
        ids = table["problem_id"].to_pylist()
        start = 0
        for problem_id, rows in itertools.groupby(ids):
            size = len(list(rows))
            groups[problem_id] = table.slice(start, size)
            start += size
    return groups


def judged_before(folder: Path) -> set[str]:
    """Return the problems of which every sample has been judged."""
    return {name for name, group in _groups(folder).items() if group["error"].null_count == group.num_rows}


def attempted(folder: Path) -> set[str]:
    """Return the problems that are there, judged or failed."""
    return set(_groups(folder))


def in_order(folder: Path, problem_ids: Sequence[str]) -> pa.Table:
    """Return all samples, in the given order of problems."""
    groups = _groups(folder)
    return pa.concat_tables([groups[problem_id] for problem_id in problem_ids]).combine_chunks()
