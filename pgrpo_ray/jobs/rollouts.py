"""The rollouts of a run, chosen and sorted: what `pgrpo rollouts` lists, shows and compares.

Owns which rows and which columns; `jobs.rollouts_shown` owns how they look. Only whole files are read, so the run may
go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

from pgrpo_ray.data.arrow import list_lengths
from pgrpo_ray.data.recorded_run import RecordedRun, rollout_name
from pgrpo_ray.data.records import did_you_mean
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.types import Verdict

NOT_RUN = "not_run"
"""What `--verdict` calls a rollout without a program."""
SORTS = {
    "reward": "reward",
    "advantage": "advantage",
    "thinking": "thinking_reward",
    "length": "response_length",
    "tests": "tests_passed",
    "duration": "duration_ms",
}
"""Keys of `--sort` and the column that each reads."""
_TOKENS = ("prompt_ids", "response_ids", "rollout_logprobs")
_TEXTS = ("prompt", "response", "thinking", "program")
_ONLY_SHOWN = (*_TEXTS, "versions", "version_starts")
"""Columns of one rollout that a list has no room for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rollouts to list; a rollout must meet all that is not None or False."""

    problem: str | None = None
    """An id, or a pattern with `*`."""
    verdicts: tuple[str, ...] = ()
    """Any of these; `NOT_RUN` among them."""
    min_reward: float | None = None
    max_reward: float | None = None
    passed: bool | None = None
    """False: the program or the format is wrong; what failed machinery lost is neither."""
    dropped: bool = False
    search: str | None = None
    """In response or detail, in any case of letters."""
    sort: str | None = None
    """A key of `SORTS`, largest first; None: as recorded, group after group."""
    smallest_first: bool = False
    limit: int = 50
    """0: all."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a word that is none."""
        known = [*map(str, Verdict), NOT_RUN]
        for verdict in self.verdicts:
            if verdict not in known:
                raise ConfigError(f"--verdict {verdict}: is no verdict. {did_you_mean(verdict, known)}")
        if self.sort is not None and self.sort not in SORTS:
            raise ConfigError(f"--sort {self.sort}: is no key to sort by. {did_you_mean(self.sort, SORTS)}")

    @property
    def needs_reward(self) -> bool:
        """Whether it asks for what an evaluation has not."""
        of_rewards = self.sort in ("reward", "advantage", "thinking")
        return self.dropped or of_rewards or self.min_reward is not None or self.max_reward is not None


@dataclass(frozen=True, slots=True)
class Listing:
    """Rollouts of one step or evaluation."""

    source: int | str
    """The step, or the evaluation's name."""
    rows: list[dict[str, Any]]
    """Those to show: their scalar columns, with `name`, `prompt_length` and `response_length` in tokens."""
    matching: int
    total: int
    passed: int
    """Of all."""
    problems: int
    rewarded: bool
    """Whether it has rewards; an evaluation has none."""


def choose(run: RecordedRun, step: int | None, evaluation: str | None, choice: Choice) -> Listing:
    """Return the rollouts of a step (the last one by default) or an evaluation that meet `choice`.

    Raises `ConfigError` for what does not go together, `DataError` for what is not there.
    """
    if step is not None and evaluation is not None:
        raise ConfigError("give --step or --evaluation, not both.", path="--step")
    if evaluation is not None and choice.needs_reward:
        raise ConfigError(
            "held-out rollouts have no reward, so none to filter or sort by. Leave --evaluation out, or --min-reward, "
            "--max-reward, --dropped and --sort by reward, advantage or thinking.",
            path="--evaluation",
        )
    source = evaluation if evaluation is not None else _last_step(run) if step is None else step
    table = run.evaluation(source) if isinstance(source, str) else run.rollouts(source)
    rows = describe(table, source)
    matching = [row for row in rows if _meets(row, choice)]
    if choice.sort is not None:
        matching = _sorted(matching, SORTS[choice.sort], choice.smallest_first)
    shown = matching[: choice.limit or None]
    return Listing(
        source,
        [{key: value for key, value in row.items() if key not in _ONLY_SHOWN} for row in shown],
        len(matching),
        len(rows),
        sum(row["verdict"] == Verdict.PASSED for row in rows),
        len({row["problem_id"] for row in rows}),
        "reward" in table.column_names,
    )


def _last_step(run: RecordedRun) -> int:
    if not run.steps:
        there = ", ".join(run.evaluations)
        hint = f"See an evaluation with --evaluation NAME: {there}." if there else "Wait for the first step."
        raise DataError(f"has no rollouts of a step. {hint}", str(run.folder))
    return run.steps[-1]


def find(run: RecordedRun, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a rollout and its group, it included. Raises `DataError`."""
    table, row = run.named(name)
    group = describe(table, name.partition("/")[0])
    return group[row], group


def describe(table: pa.Table, source: int | str) -> list[dict[str, Any]]:
    """Return rows as dicts of their columns, without token ids and logprobs, with their names and lengths in tokens."""
    rows = table.drop_columns([name for name in _TOKENS if name in table.column_names]).to_pylist()
    prompts, responses = (list_lengths(table[name]).tolist() for name in ("prompt_ids", "response_ids"))
    return [
        {"name": rollout_name(source, row["problem_id"], row["sample_index"]), **row}
        | {"prompt_length": prompt, "response_length": response}
        for row, prompt, response in zip(rows, prompts, responses, strict=True)
    ]


def _meets(row: dict[str, Any], choice: Choice) -> bool:
    reward, problem_id = row.get("reward"), row["problem_id"]
    failed = row["execution_error"] is None and row["verdict"] != Verdict.PASSED
    wanted = [
        choice.problem is None or problem_id == choice.problem or fnmatchcase(problem_id, choice.problem),
        not choice.verdicts or _verdict_word(row) in choice.verdicts,
        choice.min_reward is None or (reward is not None and reward >= choice.min_reward),
        choice.max_reward is None or (reward is not None and reward <= choice.max_reward),
        choice.passed is not True or row["verdict"] == Verdict.PASSED,
        choice.passed is not False or failed,
        not choice.dropped or row["dropped"] is not None,
        choice.search is None or choice.search.casefold() in f"{row['response']}\n{row['detail']}".casefold(),
    ]
    return all(wanted)


def _verdict_word(row: dict[str, Any]) -> str:
    """The verdict; `NOT_RUN` without a program; empty where the machinery failed."""
    return row["verdict"] or ("" if row["execution_error"] is not None else NOT_RUN)


def _sorted(rows: Sequence[dict[str, Any]], column: str, smallest_first: bool) -> list[dict[str, Any]]:
    """Sort by a column; what has no value comes last either way, and equals stay in their order."""
    known = [row for row in rows if row[column] is not None]
    return sorted(known, key=lambda row: row[column] if smallest_first else -row[column]) + [
        row for row in rows if row[column] is None
    ]
