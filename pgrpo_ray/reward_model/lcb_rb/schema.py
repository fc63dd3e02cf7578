"""LCB-RB on disk: one JSON object a line, each with all its provenance; and the RewardBench format beside it.

Owns both formats and their checks. A file is written to a draft beside it, which takes its name at the end, so a file
of that name is always whole. `FIELDS` is both schema and documentation; `docs/lcb-rb.md` is kept equal to it by a test.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pgrpo_ray.data.records import did_you_mean, json_name, located, read_records, require, require_text
from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.disk import whole_file

ACCEPT, REJECT, UNPARSED = "accept", "reject", "unparsed"
"""What a judge decided about a candidate; `unparsed`: an answer of its could not be read, so nothing was decided."""
DECISIONS = (ACCEPT, REJECT, UNPARSED)


@dataclass(frozen=True, slots=True)
class ReasoningPair:
    """A pair of LCB-RB, or a candidate for one. `FIELDS` says what each field means."""

    id: str
    problem_id: str
    prompt: str
    difficulty: str
    chosen: str
    rejected: str
    chosen_program: str
    rejected_program: str
    chosen_verdict: str
    rejected_verdict: str
    chosen_sample: str
    rejected_sample: str
    policy: str
    judge: str
    decision: str
    judge_answers: tuple[str, ...]
    prompt_hash: str
    sampling_seed: int
    selection_seed: int
    problems_hash: str


FIELDS = {
    "id": "16 hex digits of the problem's id and both reasonings: the same pair has the same id in every build",
    "problem_id": "of the problem set",
    "prompt": "the problem's statement, without any chat template: what a reward model sees",
    "difficulty": "bucket of the problem (see `selection.difficulty_from`); empty where unknown",
    "chosen": "reasoning of a sample whose program passed all tests",
    "rejected": "reasoning of a sample of the same problem whose program failed",
    "chosen_program": "the passing program; never shown to a reward model or a judge",
    "rejected_program": "the failing program",
    "chosen_verdict": "the execution pool's verdict: `passed`",
    "rejected_verdict": "the execution pool's verdict: one of the others",
    "chosen_sample": "`<policy version>/<place in its group>` of the passing sample; before it its file, if several",
    "rejected_sample": "the same of the failing sample",
    "policy": "the model that wrote both",
    "judge": "who decided: `none`, `starter`, or `llm:<model>`",
    "decision": "`accept`, `reject` or `unparsed`; every pair of the benchmark itself is `accept`",
    "judge_answers": "the judge's words: for an LLM its answers in both presentation orders, in the first of which the "
    "chosen side stands first; for the starter's judge what it found on either side; none for `none`",
    "prompt_hash": "12 hex digits of the judge's prompt; empty where it has none",
    "sampling_seed": "of the samples; -1 where they were read from files",
    "selection_seed": "of the choice of pairs",
    "problems_hash": "12 hex digits of the problem set: ids, statements and tests",
}
"""What every field of a line means."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """What scoring needs of a pair, whatever format it came in."""

    id: str
    group: str
    """Pairs of one group share a problem; the bootstrap draws groups."""
    prompt: str
    chosen: str
    rejected: str
    difficulty: str = ""
    """LCB-RB's bucket; empty where unknown."""
    subset: str = ""
    """RewardBench's subset; empty in LCB-RB."""


def pair_id(problem_id: str, chosen: str, rejected: str) -> str:
    """Return the id of a pair: 16 hex digits of its content."""
    return content_hash(problem_id, chosen, rejected)[:16]


def content_hash(*texts: str) -> str:
    """Return the SHA-256 of several texts; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(raw)}\0".encode() + raw)
    return digest.hexdigest()


def write_lines(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with whole_file(Path(path), durable=True) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def write_pairs(path: str | Path, pairs: Iterable[ReasoningPair]) -> None:
    """Write LCB-RB, whole or not at all."""
    write_lines(path, (asdict(pair) for pair in pairs))


def read_pairs(path: str | Path) -> list[ReasoningPair]:
    """Read LCB-RB (or a file of judged candidates, which has the same fields).

    Raises `DataError` with file and line for a missing field, equal or empty sides, verdicts the wrong way round, or an
    id that stands twice.
    """
    pairs: list[ReasoningPair] = []
    lines: dict[str, int] = {}
    for line, record in read_records(path):
        with located(str(path), line):
            pair = _pair(record)
            _refuse_twice(pair.id, lines, line)
        pairs.append(pair)
    return pairs


def read_scored_pairs(path: str | Path) -> list[ScoredPair]:
    """Read pairs to score: LCB-RB, or RewardBench's columns `prompt`, `chosen`, `rejected` and, if there, `subset`.

    JSON lines (plain or gzip), one JSON array, or Parquet. Other columns are left alone. Of LCB-RB, candidates that
    were not accepted are refused. Raises `DataError` with file and line (of Parquet: row).
    """
    pairs: list[ScoredPair] = []
    lines: dict[str, int] = {}
    for line, record in read_records(path):
        with located(str(path), line):
            pair = _scored(record, line)
            _refuse_twice(pair.id, lines, line)
        pairs.append(pair)
    return pairs


def _scored(record: dict[str, Any], line: int) -> ScoredPair:
    if "chosen_verdict" in record:
        whole = _pair(record)
        if whole.decision != ACCEPT:
            raise DataError(f"'decision' is {whole.decision!r}: a candidate, no pair. Score the file of pairs instead.")
        return ScoredPair(
            whole.id, whole.problem_id, whole.prompt, whole.chosen, whole.rejected, difficulty=whole.difficulty
        )
    prompt, chosen, rejected = (_side(record, key) for key in ("prompt", "chosen", "rejected"))
    _refuse_equal(chosen, rejected)
    given = record.get("id")
    name = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else f"line-{line}"
    subset = record.get("subset") or ""
    if not isinstance(subset, str):
        raise DataError(f"'subset' must be a string, received {json_name(subset)}.")
    # RewardBench numbers its subsets each from their own zero in places, so the id alone may stand twice.
    return ScoredPair(
        f"{subset}/{name}" if subset else name, content_hash(prompt)[:16], prompt, chosen, rejected, subset=subset
    )


def _pair(record: dict[str, Any]) -> ReasoningPair:
    values: dict[str, Any] = {}
    for field in fields(ReasoningPair):
        if field.name == "judge_answers":
            answers = require(record, "judge_answers", list)
            if not all(isinstance(answer, str) for answer in answers):
                raise DataError("'judge_answers' must hold strings.")
            values["judge_answers"] = tuple(answers)
        elif field.type is int:
            values[field.name] = require(record, field.name, int)
        elif field.name in ("id", "problem_id", "prompt", "chosen", "rejected"):
            values[field.name] = _side(record, field.name)
        else:
            values[field.name] = require(record, field.name, str)
    pair = ReasoningPair(**values)
    _refuse_equal(pair.chosen, pair.rejected)
    if pair.chosen_verdict != "passed" or pair.rejected_verdict == "passed":
        raise DataError(
            f"the verdicts are {pair.chosen_verdict!r} (chosen) and {pair.rejected_verdict!r} (rejected): the chosen "
            "side passes and the rejected one fails. Turn the sides round or drop the pair."
        )
    if pair.decision not in DECISIONS:
        raise DataError(f"'decision' is {pair.decision!r}. {did_you_mean(pair.decision, DECISIONS)}")
    return pair


def _side(record: dict[str, Any], key: str) -> str:
    """A text that must be there; an unlabeled pair gets a hint."""
    if key not in record and key in ("chosen", "rejected"):
        shown = ", ".join(sorted(record)[:8]) or "none"
        raise DataError(
            f"{key!r} is missing (columns: {shown}). A pair says which side is better: name the better text `chosen` "
            "and the worse one `rejected`."
        )
    return require_text(record, key)


def _refuse_equal(chosen: str, rejected: str) -> None:
    if chosen.strip() == rejected.strip():
        raise DataError("'chosen' and 'rejected' are the same text, which nobody can order. Drop the pair.")


def _refuse_twice(identity: str, lines: dict[str, int], line: int) -> None:
    if identity in lines:
        raise DataError(f"pair {identity!r} stands already on line {lines[identity]}. Keep one.")
    lines[identity] = line


def describe_fields() -> str:
    """Return the fields as a Markdown table; `docs/lcb-rb.md` contains exactly this text."""
    kinds: dict[Any, str] = {int: "number", str: "text"}
    rows = [
        f"| `{field.name}` | {kinds.get(field.type, 'list of text')} | {FIELDS[field.name]} |"
        for field in fields(ReasoningPair)
    ]
    return "\n".join(["| field | type | meaning |", "|---|---|---|", *rows]) + "\n"


def problems_hash(problems: Sequence[Any]) -> str:
    """Return 12 hex digits of a problem set: what is asked and how it is tested."""
    from pgrpo_ray.data.own_format import problem_to_json

    texts = (json.dumps(problem_to_json(problem), sort_keys=True) for problem in problems)
    return content_hash(*texts)[:12]
