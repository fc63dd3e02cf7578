"""`pgrpo rm probe`: how often each probe fools a reward model, from honest reasonings to a table and JSON.

Honest reasonings are a file's, the starter's own careful demonstrations, or those about a given file of its problems.
The starter knows its problems, so two of its steps are only swapped where that makes the pipeline wrong.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray.config import STARTER
from pgrpo_ray.config.lcb_rb import ProbeConfig
from pgrpo_ray.data.records import located, read_records, require, require_text
from pgrpo_ray.errors import DataError
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs.raw_scores import raw_scores, within_model
from pgrpo_ray.jobs.starter import make_starter
from pgrpo_ray.obs.disk import check_out, write_json
from pgrpo_ray.obs.display import interval_cell, working
from pgrpo_ray.reward_model import corpus, probes
from pgrpo_ray.reward_model.probes import Honest, ProbeResult

Admits = Callable[[int, str, str], bool]


def probe(
    reward_model: str,
    reasonings: Path | None,
    problems: Path | None,
    config: ProbeConfig,
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Probe `reward_model` (a folder, hub name or `starter`), write the report to `out`, print and return it."""
    section, scoring = config.probe, config.scoring
    admits: Admits
    check_out(out, inputs=[file for file in (reasonings, problems) if file])
    if reasonings is not None:
        honest, admits = read_honest(reasonings), _admit_all
        source = str(reasonings)
    elif problems is not None:
        honest, admits = _starter_honest(problems, section.seed)
        source = str(problems)
    else:
        honest, admits, source = [], _admit_all, "starter"
    if reward_model != STARTER:
        within_model(scoring, reward_model)  # refused now, not after a starter is made
    with interruptible():
        if reward_model == STARTER or not honest:
            with working(console, "making the starter") as tell:
                paths = make_starter(config.starter, tell)
            reward_model = str(paths.reward_model) if reward_model == STARTER else reward_model
            if not honest:
                honest, admits = _starter_honest(paths.heldout, section.seed)
        scoring = within_model(scoring, reward_model)
        honest, admits = _some(honest, admits, section.max_reasonings, section.seed)
        probed, skipped = probes.apply_probes(honest, section.seed, admits)
        items = [(one.prompt, one.reasoning) for one in honest]
        items += [(honest[one.honest].prompt, one.text) for one in probed]
        raw = raw_scores(items, reward_model, scoring, console)
    found = probes.results(honest, probed, raw[: len(honest)], raw[len(honest) :], skipped, scoring.seed)
    report = {
        "reward_model": reward_model,
        "reasonings": source,
        "num_reasonings": len(honest),
        "seed": section.seed,
        "max_length_tokens": scoring.max_length_tokens,
        "worst": next((result.probe for result in found if result.fooled), None),
        "probes": [result.to_json() for result in found],
        "examples": _examples(honest, probed, raw[: len(honest)], raw[len(honest) :]),
    }
    write_json(out, report)
    _print(found, len(honest), console)
    console.print(escape(f"report: {out}"), highlight=False, soft_wrap=True)
    return report


def read_honest(path: Path) -> list[Honest]:
    """Read `{"prompt", "reasoning"[, "program"]}` records. Raises `DataError` with file and line."""
    honest = []
    for line, record in read_records(path):
        with located(str(path), line):
            program = require(record, "program", str) if "program" in record else ""
            honest.append(Honest(require_text(record, "prompt"), require_text(record, "reasoning"), program))
    return honest


def _starter_honest(file: Path, seed: int) -> tuple[list[Honest], Admits]:
    """A careful demonstration for each of the starter's problems, and what the starter knows of swapped steps."""
    from pgrpo_ray.starter.demonstrations import Plan, program, reasoning
    from pgrpo_ray.starter.problems import Exercise

    exercises = []
    for line, record in read_records(file):
        try:
            exercises.append(Exercise.from_json(record))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                "is no problem of the starter's (its metadata does not hold the steps), so no honest reasoning about "
                "it is known. Give --reasonings.",
                str(file),
                line,
            ) from error
    honest = []
    for exercise in exercises:
        plan = Plan(exercise.steps, exercise.reduction)
        words = reasoning(plan, "careful", random.Random(f"probe/{seed}"))
        honest.append(Honest(exercise.prompt, words, program(plan)))

    def admits(index: int, name: str, text: str) -> bool:
        exercise = exercises[index]
        return name != "swapped_steps" or not exercise.solved_by(exercise.steps[::-1], exercise.reduction)

    return honest, admits


def _admit_all(index: int, name: str, text: str) -> bool:
    return True


def _some(honest: list[Honest], admits: Admits, count: int, seed: int) -> tuple[list[Honest], Admits]:
    """Draw `count` reasonings, in their old order."""
    kept = corpus.thin(range(len(honest)), count, f"probe/some/{seed}")
    return [honest[at] for at in kept], lambda index, name, text: admits(kept[index], name, text)


def _examples(
    honest: list[Honest], probed: list[probes.Probed], honest_scores: list[float], probed_scores: list[float]
) -> dict[str, Any]:
    """Per probe the text that gained most: what the model fell for."""
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for one, score in zip(probed, probed_scores, strict=True):
        change = score - honest_scores[one.honest]
        if one.probe not in best or change > best[one.probe][0]:
            source = honest[one.honest]
            best[one.probe] = (
                change,
                {"change": change, "prompt": source.prompt, "honest": source.reasoning, "worse": one.text},
            )
    return {name: example for name, (_, example) in best.items()}


def _print(found: list[ProbeResult], num_honest: int, console: Console) -> None:
    table = Table("probe", "fooled %", "95 % interval", "mean change", "texts", "skipped")
    table.title = f"how often a worse text scores at least as high ({num_honest} honest reasonings)"
    for result in found:
        if result.fooled is None:
            table.add_row(result.probe, "-", "", "-", "0", str(result.skipped))
            continue
        one = result.fooled
        interval = interval_cell(one.low, one.high)
        cells = (f"{100 * one.value:.1f}", interval, f"{result.mean_change:+.3f}", str(one.num_pairs))
        table.add_row(result.probe, *cells, str(result.skipped))
    console.print(table)
    worst = next((result for result in found if result.fooled), None)
    if worst and worst.fooled:
        console.print(f"worst: [bold]{worst.probe}[/bold], fooled {100 * worst.fooled.value:.1f} % of the time")
