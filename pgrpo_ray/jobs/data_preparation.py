"""`pgrpo data prepare`: published rows to our own format, with an account of every row that was left out.

    OUT                  the problems, in the files' order
    OUT.rejects.jsonl    a line for each row that was left out: file, row, reason, detail
    OUT.report.json      counts by file and reason, settings, SHA-256 of OUT

Invariants: each row of the files is in OUT or in the rejects, once. Files are read once and as a stream; memory holds
the statements, never the tests of more than a few rows. All three files appear when everything is done, OUT last; what
stood there before stays until then. A file that cannot be read ends the job and changes nothing.
"""

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray.config.data_preparation import PreparationSection
from pgrpo_ray.data.capping import capped
from pgrpo_ray.data.deepcoder import NoTestsError
from pgrpo_ray.data.loaders import FORMATS
from pgrpo_ray.data.own_format import problem_to_json
from pgrpo_ray.data.prompts import encode_prompt
from pgrpo_ray.data.records import did_you_mean, located, read_records
from pgrpo_ray.errors import ConfigError, DataError, ModelError
from pgrpo_ray.obs import disk
from pgrpo_ray.reward_model.leaks import Text, content_key, find_overlaps
from pgrpo_ray.sandbox import checkers
from pgrpo_ray.types import Problem

REASONS = {
    "malformed": "the row does not say what it means (see `detail` in the rejects)",
    "no_tests": "no test, or none that a program which does nothing would fail",
    "tests_too_large": "no test within prepare.max_tests_kib",
    "no_date": "of LiveCodeBench, without a date, while a window is asked for",
    "outside_window": "of LiveCodeBench, outside --from and --to",
    "prompt_too_long": "more than prepare.max_prompt_tokens tokens",
    "duplicate": "the same words as an earlier problem, or its id",
    "overlap": "shares runs of words with a problem of an excluded set",
}
"""Why a row is left out; the first that applies, in this order."""


@dataclass(slots=True)
class _Kept:
    """A problem that is in the draft, and may still turn out to overlap."""

    row: int
    """Index in the order of all rows kept."""
    file: str
    line: int
    id: str
    prompt: str


class _Account:
    """What became of every row."""

    def __init__(self, files: Sequence[Path], rejects: IO[str]):
        self.counts = {str(file): Counter({"rows": 0, "kept": 0}) for file in files}
        self.first: dict[str, str] = {}
        """The first row left out for each reason, with the detail."""
        self._rejects = rejects

    @property
    def total(self) -> Counter:
        """Counts of all files together."""
        total: Counter = Counter()
        for count in self.counts.values():
            total.update(count)
        return total

    def reject(self, file: str, line: int, reason: str, detail: str, problem: "Problem | _Kept | None") -> None:
        """Count a row that is left out, and write down where it is."""
        self.counts[file][reason] += 1
        self.first.setdefault(reason, f"{file}:{line}: {detail}")
        entry = {"file": file, "row": line, "reason": reason, "detail": detail}
        if problem is not None:
            entry |= {"id": problem.id, "statement": problem.prompt[:200]}
        self._rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")


class _Rejected(Exception):
    """A row is left out."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def prepare(
    files: Sequence[Path], format: str, out: Path, exclude: Sequence[str], section: PreparationSection, console: Console
) -> dict[str, Any]:
    """Write what the module says; return the report.

    Raises `ConfigError`, `DataError` and `EnvironmentFault` before rows are read where that can be known, and
    `DataError` when nothing would be left.
    """
    if format not in FORMATS:
        raise DataError(f"format {format!r} is not known. {did_you_mean(format, FORMATS)}")
    disk.check_out(out, inputs=[*files, *(Path(one.rpartition(":")[0]) for one in exclude)])
    disk.check_free(out.absolute().parent, "--out", "prepare.min_free_mib", section.min_free_mib, "--out")
    for file in files:
        if not file.is_file():
            raise DataError("is not there. Give the path of a .jsonl, .json or .parquet file.", str(file))
    excluded = _excluded(exclude)
    num_tokens = _token_counter(section)
    with (
        disk.explain_full_disk(out.absolute().parent),
        disk.whole_file(out) as problems,  # entered first, so in place last
        disk.whole_file(out.with_name(f"{out.name}.rejects.jsonl")) as rejects,
        disk.whole_file(out.with_name(f"{out.name}.report.json")) as report_file,
    ):
        account = _Account(files, rejects)
        kept = _first_pass(files, format, section, num_tokens, account, problems)
        dropped = _overlapping(kept, excluded, section)
        sha256 = _second_pass(problems, kept, dropped, account)
        total = account.total
        if not total["kept"]:
            why = "; ".join(f"{reason} {total[reason]}, such as {row}" for reason, row in account.first.items())
            raise DataError(f"no problem is left of {total['rows']} rows: {why}")
        report = {
            "out": str(out),
            "sha256": sha256,
            "format": format,
            "excluded": list(exclude),
            "settings": section.model_dump(),
            "files": {file: dict(count) for file, count in account.counts.items()},
            "total": dict(total),
        }
        report_file.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    _print(report, console)
    return report


def _first_pass(
    files: Sequence[Path],
    format: str,
    section: PreparationSection,
    num_tokens: Callable[[str], int] | None,
    account: _Account,
    problems: IO[str],
) -> list[_Kept]:
    """Write every problem that a look at its own row and the earlier ones lets through; return them."""
    kept: list[_Kept] = []
    seen: dict[str, str] = {}
    for file in files:
        for line, record in read_records(file):
            account.counts[str(file)]["rows"] += 1
            problem = None
            try:
                problem = _problem(record, format, section, num_tokens)
                for key in (content_key(problem.prompt), problem.id):
                    if key in seen:
                        raise _Rejected("duplicate", f"of {seen[key]}")
                text = json.dumps(problem_to_json(problem), ensure_ascii=False, allow_nan=False)
            except _Rejected as why:
                account.reject(str(file), line, why.reason, why.detail, problem)
                continue
            except (TypeError, ValueError) as error:  # DataError is a ValueError
                account.reject(str(file), line, "malformed", str(error), problem)
                continue
            seen[content_key(problem.prompt)] = seen[problem.id] = f"{file}:{line}"
            problems.write(f"{text}\n")
            kept.append(_Kept(len(kept), str(file), line, problem.id, problem.prompt))
    return kept


def _problem(
    record: dict[str, Any], format: str, section: PreparationSection, num_tokens: Callable[[str], int] | None
) -> Problem:
    """Return the problem of one row within the bounds. Raises `_Rejected`."""
    try:
        problem = FORMATS[format](record)
    except NoTestsError as error:
        raise _Rejected("no_tests", str(error)) from error
    except DataError as error:
        raise _Rejected("malformed", str(error)) from error
    _check_window(problem, section)
    try:
        problem = capped(problem, section.max_tests, section.max_tests_kib << 10)
    except NoTestsError as error:
        raise _Rejected("no_tests", str(error)) from error
    except DataError as error:
        raise _Rejected("tests_too_large", str(error)) from error
    try:
        checkers.prove(problem)  # else the run would refuse the whole file
    except DataError as error:
        raise _Rejected("malformed", str(error)) from error
    if num_tokens is not None and (tokens := num_tokens(problem.prompt)) > (section.max_prompt_tokens or 0):
        raise _Rejected("prompt_too_long", f"{tokens} tokens")
    return problem


def _check_window(problem: Problem, section: PreparationSection) -> None:
    """Raise `_Rejected` for a problem of LiveCodeBench outside the window, where one is asked for."""
    metadata = problem.metadata
    of_lcb = metadata.get("benchmark") == "livecodebench" or metadata.get("tests_shape") == "lcbv5"
    if not of_lcb or not (section.from_date or section.to_date):
        return
    day = str(metadata.get("contest_date", ""))[:10]
    try:
        datetime.date.fromisoformat(day)
    except ValueError as error:
        raise _Rejected("no_date", f"'contest_date' is {metadata.get('contest_date')!r}") from error
    if not (section.from_date or "") <= day <= (section.to_date or "9999"):
        raise _Rejected("outside_window", day)


def _overlapping(kept: Sequence[_Kept], excluded: Sequence[Text], section: PreparationSection) -> dict[int, str]:
    """Return the problems to leave out, by row, so that `find_overlaps` finds nothing in the others; and why.

    An excluded problem's runs may be spread over several of ours. Of each one that still overlaps, the one of ours that
    shares most goes, until none does: the bound is that of `pgrpo rm train`, which looks at all training problems.
    """
    dropped: dict[int, str] = {}
    rows = {str(one.row): one for one in kept}
    measured = list(excluded)
    while measured:
        ours = (Text(name, one.prompt) for name, one in rows.items())
        found = find_overlaps(ours, measured, section.overlap_words, section.overlap_min_frac)
        for overlap in found:
            if rows.pop(overlap.trained, None) is not None:
                share = "all words" if overlap.exact else f"{100 * overlap.shared_frac:.0f} % of its runs"
                dropped[int(overlap.trained)] = f"with {overlap.measured} ({share} are in the training problems)"
        names = {overlap.measured for overlap in found}
        measured = [one for one in measured if one.name in names]  # leaving out more can only lower the others
    return dropped


def _second_pass(problems: IO[str], kept: Sequence[_Kept], dropped: dict[int, str], account: _Account) -> str:
    """Take the dropped problems out of the draft, in place; return the SHA-256 of what is left."""
    for one in kept:
        if one.row in dropped:
            account.reject(one.file, one.line, "overlap", dropped[one.row], one)
        else:
            account.counts[one.file]["kept"] += 1
    problems.flush()
    digest = hashlib.sha256()
    # Read and written through one file: what is written never overtakes what is read.
    with open(problems.name, "r+b") as draft, open(problems.name, "rb") as source:
        for row, line in enumerate(source):
            if row not in dropped:
                draft.write(line)
                digest.update(line)
        draft.truncate()
    return digest.hexdigest()


def _excluded(exclude: Sequence[str]) -> list[Text]:
    """Read the sets that will be measured on."""
    texts = []
    for given in exclude:
        path, colon, format = given.rpartition(":")
        if not colon or format not in FORMATS:
            raise ConfigError(
                f"--exclude {given!r}: write it as FILE:FORMAT, such as lcb.jsonl:livecodebench. "
                f"{did_you_mean(format, FORMATS)}"
            )
        for line, record in read_records(path):  # one at a time: published tests take gigabytes
            with located(path, line):
                problem = FORMATS[format](record)
            texts.append(Text(f"{path}:{problem.id}", problem.prompt))
    return texts


def _token_counter(section: PreparationSection) -> Callable[[str], int] | None:
    """Return what counts a prompt's tokens; None where lengths are not looked at. Raises `ModelError`."""
    if section.tokenizer is None:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(section.tokenizer, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"prepare.tokenizer: {section.tokenizer} cannot be loaded: {str(error).strip().splitlines()[0]} Give a "
            "folder in Hugging Face format or a hub name."
        ) from error
    return lambda prompt: len(encode_prompt(tokenizer, prompt, section.system_prompt))


def _print(report: dict[str, Any], console: Console) -> None:
    """Show what was kept and what was left out."""
    table = Table("left out because", "rows", title=escape(report["out"]))
    for reason, meaning in REASONS.items():
        if number := report["total"].get(reason):
            table.add_row(f"{reason}: {meaning}", f"{number:,}")
    if table.row_count:
        console.print(table)
    total = report["total"]
    console.print(f"kept {total['kept']:,} of {total['rows']:,} rows in {escape(report['out'])}", soft_wrap=True)
