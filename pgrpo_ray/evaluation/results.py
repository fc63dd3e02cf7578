"""The folder that an evaluation leaves, and what its samples say.

    settings.json      what the samples were made with; a resumed evaluation must have the same
    parts/             samples judged so far; gone once `samples.parquet` is there
    samples.parquet    a row per sample (`SCHEMA`), problems in the benchmark's order, settings in its metadata
    summary.json       what follows from them

Owns the schema, whole-or-not writing and the summary's numbers. A sample whose machinery failed has neither passed nor
failed: it is left out of every share and counted.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pgrpo_ray.errors import DataError
from pgrpo_ray.evaluation.passk import pass_at_k_interval
from pgrpo_ray.evaluation.statistics import CONFIDENCE, PairedDifference, paired_difference, wilson_interval
from pgrpo_ray.obs.disk import whole_file

SAMPLES, SUMMARY, SETTINGS, PARTS = "samples.parquet", "summary.json", "settings.json", "parts"
COLUMNS: tuple[tuple[str, pa.DataType, bool, str], ...] = (
    ("problem_id", pa.string(), False, "the benchmark's own id"),
    ("sample_index", pa.int32(), False, "place among the problem's samples, from 0"),
    ("difficulty", pa.string(), False, "in the benchmark's words; empty where it has none"),
    ("prompt", pa.string(), False, "what the model was given, chat template included; empty for solutions"),
    ("response", pa.string(), False, "what it wrote, or the solution"),
    ("program", pa.string(), True, "what was judged of it (an answer, in maths); null: nothing to judge"),
    ("format_ok", pa.bool_(), False, "the tag structure is right"),
    ("passed", pa.bool_(), True, "the verdict is `passed`; null: the machinery failed, see `error`"),
    ("verdict", pa.string(), True, "a value of `types.Verdict`; null: no program, or `error`"),
    ("tests_passed", pa.int32(), False, "cases passed; 0 when not run"),
    ("tests_total", pa.int32(), False, "cases of the problem; 0 when not run"),
    ("first_failed", pa.int32(), True, "index of the first case that did not pass; null: all passed, or not known"),
    ("finish_reason", pa.string(), False, "`stop`: ended by itself; `length`: cut; `solution`: not sampled"),
    ("prompt_tokens", pa.int32(), False, "0 for solutions"),
    ("response_tokens", pa.int32(), False, "end of sequence included if sampled; 0 for solutions"),
    ("duration_ms", pa.float32(), False, "wall time of judging inside the sandbox, milliseconds"),
    ("cpu_ms", pa.float32(), False, "CPU time of the program, milliseconds"),
    ("peak_mib", pa.float32(), False, "largest resident memory, MiB"),
    ("sandbox", pa.string(), True, "what judged: `docker`, `process` or `maths`; null: not run"),
    ("detail", pa.string(), False, "short excerpt for people; may be empty"),
    ("error", pa.string(), True, "the machinery's failure after all retries; null: it worked"),
)
"""Name, type, whether null is allowed, meaning; docs/evaluation.md holds the same."""
SCHEMA = pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable, _ in COLUMNS])
COMPARABLE = (
    *("benchmark", "problems", "num_problems", "samples_per_problem", "temperature", "max_response_tokens"),
    *("variant", "template", "answers", "solutions"),
)
"""Settings that two results must share to be compared. Models differ, of course, and so may dtype and seed."""


def describe_columns() -> str:
    """Return the schema as a Markdown table; docs/evaluation.md contains exactly this text."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | `{kind}` | {meaning} |" for name, kind, _, meaning in COLUMNS)]) + "\n"


def write_table(path: Path, table: pa.Table, settings: Mapping[str, Any]) -> None:
    """Write samples as Parquet, whole or not at all, with the settings as JSON under the metadata key `settings`."""
    metadata = {"settings": json.dumps(settings)}
    with whole_file(path, "wb") as file:
        parquet.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")


def read_table(path: Path) -> pa.Table:
    """Read samples. Raises `DataError` for what is no such file."""
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"cannot be read ({first}). Run the evaluation again.", str(path)) from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(f"lacks the column {missing[0]!r}: it is no result of `pgrpo eval`.", str(path))
    return table.select(SCHEMA.names).cast(SCHEMA)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished evaluation of one benchmark."""

    folder: Path
    settings: dict[str, Any]
    table: pa.Table

    @property
    def benchmark(self) -> str:
        """Its benchmark's name."""
        return str(self.settings.get("benchmark", ""))


def load_result(folder: Path) -> Result:
    """Read a finished evaluation. Raises `DataError` where there is none."""
    path = folder / SAMPLES
    if not path.is_file():
        going = " An evaluation was begun there; run it to its end." if (folder / SETTINGS).is_file() else ""
        raise DataError(f"has no {SAMPLES}. Give the folder of a finished `pgrpo eval`.{going}", str(folder))
    table = read_table(path)
    raw = parquet.read_schema(path).metadata or {}
    try:
        settings = json.loads(raw[b"settings"])
    except (KeyError, ValueError) as error:
        raise DataError("does not say what it was made with. Run the evaluation again.", str(path)) from error
    return Result(folder, settings, table)


@dataclass(frozen=True, slots=True)
class Shares:
    """Per problem, in the table's order: how many samples have a verdict on them, and how many passed."""

    problem_ids: tuple[str, ...]
    difficulties: tuple[str, ...]
    correct: np.ndarray
    """int [P]"""
    judged: np.ndarray
    """int [P]"""

    def among(self, chosen: Sequence[int]) -> "Shares":
        """Return the problems at the given places."""
        return Shares(
            tuple(self.problem_ids[at] for at in chosen),
            tuple(self.difficulties[at] for at in chosen),
            self.correct[list(chosen)],
            self.judged[list(chosen)],
        )


def shares_of(table: pa.Table) -> Shares:
    """Count passed and judged samples per problem."""
    order: dict[str, int] = {}
    difficulty: list[str] = []
    correct: list[int] = []
    judged: list[int] = []
    rows = (table[name].to_pylist() for name in ("problem_id", "difficulty", "passed"))
    for problem_id, bucket, passed in zip(*rows, strict=True):
        if problem_id not in order:
            order[problem_id] = len(order)
            difficulty.append(bucket)
            correct.append(0)
            judged.append(0)
        at = order[problem_id]
        judged[at] += passed is not None
        correct[at] += bool(passed)
    return Shares(tuple(order), tuple(difficulty), np.array(correct), np.array(judged))


def summarise(table: pa.Table, ks: Sequence[int], seed: int) -> dict[str, Any]:
    """Return what the samples say: pass@k with intervals, in all and by difficulty, verdicts and lengths."""
    shares = shares_of(table)
    tokens = np.asarray(table["response_tokens"], dtype=np.float64)
    verdict_of = table["passed"].to_pylist()
    passed, failed = (np.array([one is wanted for one in verdict_of], dtype=bool) for wanted in (True, False))
    verdicts = Counter(
        "error" if error else verdict or "no_program"
        for verdict, error in zip(table["verdict"].to_pylist(), table["error"].to_pylist(), strict=True)
    )
    buckets = [bucket for bucket in dict.fromkeys(shares.difficulties) if bucket]
    places = {bucket: [at for at, one in enumerate(shares.difficulties) if one == bucket] for bucket in buckets}
    return {
        "num_problems": len(shares.problem_ids),
        "num_samples": table.num_rows,
        "num_unjudged": table["passed"].null_count,
        "pass_at_k": {str(k): _pass_at(shares, k, seed) for k in ks},
        "by_difficulty": {
            bucket: {"num_problems": len(at), "pass_at_1": _pass_at(shares.among(at), 1, seed)}
            for bucket, at in places.items()
        },
        "verdicts": dict(verdicts.most_common()),
        "format_ok_frac": _mean(np.asarray(table["format_ok"].to_pylist(), dtype=float)),
        "truncated_frac": _mean(np.array([reason == "length" for reason in table["finish_reason"].to_pylist()])),
        "mean_response_tokens": _mean(tokens),
        "mean_response_tokens_passed": _mean(tokens[passed]),
        "mean_response_tokens_failed": _mean(tokens[failed]),
    }


def _pass_at(shares: Shares, k: int, seed: int) -> dict[str, float | int | str | None]:
    """Mean pass@k over the problems of which k samples were judged, with its 95 % interval."""
    usable = [at for at, judged in enumerate(shares.judged) if judged >= k]
    if not usable:
        return {"value": None, "low": None, "high": None, "interval": None, "num_problems": 0}
    part = shares.among(usable)
    if k == 1 and (part.judged == 1).all():  # independent trials: no resampling is needed, and none can collapse
        kind, (value, low, high) = "wilson", wilson_interval(int(part.correct.sum()), len(usable))
    else:
        kind, (value, low, high) = "bootstrap", pass_at_k_interval(part.correct, part.judged, k, CONFIDENCE, seed)
    return {"value": value, "low": low, "high": high, "interval": kind, "num_problems": len(usable)}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results of one benchmark on the same problems: the second against the first."""

    benchmark: str
    bucket: str
    """A difficulty; empty: all problems."""
    first: float
    """pass@1."""
    second: float
    difference: PairedDifference
    first_tokens: float
    """Mean length of a response, of those that were judged."""
    second_tokens: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def compare_results(first: Result, second: Result, allowed: Sequence[str], seed: int) -> list[Comparison]:
    """Compare in all and, where known, by difficulty.

    `allowed` are names of settings that may differ. Raises `DataError` that names the first difference otherwise, and
    problems that only one of them solved or judged.
    """
    for key in COMPARABLE:
        one, two = first.settings.get(key), second.settings.get(key)
        if one != two and key not in allowed:
            raise DataError(
                f"{key} differs: {one!r} in {first.folder}, {two!r} in {second.folder}. Evaluate both alike"
                + (f", or say that it may with --allow {key}." if key not in ("benchmark", "problems") else ".")
            )
    pair = (shares_of(first.table), shares_of(second.table))
    lacking = set(pair[0].problem_ids) ^ set(pair[1].problem_ids)
    if lacking:
        raise DataError(
            f"{len(lacking)} problems are in one result alone, such as {min(lacking)!r}.", str(first.folder)
        )
    for result, shares in zip((first, second), pair, strict=True):
        if (shares.judged == 0).any():
            lost = shares.problem_ids[int(np.flatnonzero(shares.judged == 0)[0])]
            raise DataError(f"no sample of {lost!r} has a verdict. Run that evaluation again.", str(result.folder))
    places = {problem_id: at for at, problem_id in enumerate(pair[1].problem_ids)}
    one, two = pair[0], pair[1].among([places[problem_id] for problem_id in pair[0].problem_ids])
    buckets = ["", *(bucket for bucket in dict.fromkeys(one.difficulties) if bucket)]
    return [_compared(first, second, one, two, bucket, seed) for bucket in buckets]


def _compared(first: Result, second: Result, one: Shares, two: Shares, bucket: str, seed: int) -> Comparison:
    chosen = [at for at, difficulty in enumerate(one.difficulties) if bucket in ("", difficulty)]
    a, b = one.among(chosen), two.among(chosen)
    shares = [part.correct / part.judged for part in (a, b)]
    return Comparison(
        benchmark=first.benchmark,
        bucket=bucket,
        first=float(shares[0].mean()),
        second=float(shares[1].mean()),
        difference=paired_difference(shares[0], shares[1], seed=seed),
        first_tokens=_tokens(first.table, bucket),
        second_tokens=_tokens(second.table, bucket),
    )


def _tokens(table: pa.Table, bucket: str) -> float:
    rows = zip(table["difficulty"].to_pylist(), table["passed"].to_pylist(), strict=True)
    chosen = [passed is not None and bucket in ("", difficulty) for difficulty, passed in rows]
    return float(table["response_tokens"].to_numpy()[np.array(chosen)].mean())
