"""`pgrpo lcb-rb score`: how well a reward model, an LLM judge and trivial baselines order pairs.

Everything is scored on the same pairs. What could not be scored (a judge's answer that cannot be read) is a tie, as
somebody who cannot tell would toss a coin; it is counted beside the accuracy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray.config import STARTER, StarterSection
from pgrpo_ray.config.base import parse_tree
from pgrpo_ray.config.lcb_rb import JudgeSection, ScoreConfig, ScoringSection
from pgrpo_ray.errors import ConfigError, DataError, EnvironmentFault
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs.judges import AnswerBook, rejection_note
from pgrpo_ray.jobs.raw_scores import raw_scores, within_model
from pgrpo_ray.jobs.starter import make_starter
from pgrpo_ray.obs.disk import check_out, write_json
from pgrpo_ray.obs.display import interval_cell, working
from pgrpo_ray.reward_model import judging, statistics
from pgrpo_ray.reward_model.judging import Question
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.reward_model.lcb_rb.schema import ScoredPair
from pgrpo_ray.reward_model.statistics import LENGTH_BUCKETS, Estimate
from pgrpo_ray.starter.artifacts import content_key

REWARD_MODEL = "reward model"
"""What the report calls it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Outcomes of one way of ordering, one per pair."""

    outcomes: tuple[float, ...]
    facts: dict[str, Any]
    """More about it, for the report."""


def score(
    file: Path,
    reward_model: str | None,
    judge: JudgeSection | None,
    config: ScoreConfig,
    baselines: bool,
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Score the pairs of `file`, write the report to `out`, print it, and return it. Raises the project's errors."""
    scoring = config.scoring
    pairs = schema.read_scored_pairs(file)
    starter = starter_of(file, config.starter)
    if judge is not None and judge.needs_starter and content_key(starter) != content_key(config.starter):
        raise ConfigError(
            f"the judge's config and the build of {file} (report.json beside it) mean different starters. Give the "
            "judge's config the same section `starter`.",
            path="starter",
        )
    prompt = judging.load_prompt(judging.PREFERENCE, judge.preference_prompt) if judge else None
    check_out(out, inputs=[file])
    scored: dict[str, Scored] = {}
    with interruptible():
        if reward_model == STARTER:
            with working(console, "making the starter") as tell:
                reward_model = str(make_starter(starter, tell).reward_model)
        if reward_model is not None:
            scored[REWARD_MODEL] = by_reward_model(pairs, reward_model, within_model(scoring, reward_model), console)
        if judge is not None and prompt is not None:
            if judge.needs_starter:
                with working(console, "making the starter") as tell:
                    judge = judge.with_starter(make_starter(starter, tell).policy, content_key(starter))
            book = AnswerBook(out.with_name(f"{out.name}.answers.jsonl"))
            scored["judge"] = _by_judge(pairs, judge, prompt, book, scoring.seed, console)
    if baselines or not scored:
        scored |= {
            name: Scored(tuple(order(pair.chosen, pair.rejected) for pair in pairs), {})
            for name, order in statistics.BASELINES.items()
        }
    report = {"file": str(file), "num_pairs": len(pairs)} | summarise(pairs, scored, scoring.seed)
    write_json(out, report)
    print_report(report, console)
    console.print(escape(f"report: {out}"), highlight=False, soft_wrap=True)
    return report


def starter_of(file: Path, default: StarterSection) -> StarterSection:
    """Return the starter that the build of `file` was made with; `default` where no build's report lies beside it.

    `starter` then means the models that the benchmark knows, not those of the default seed. Raises `DataError` for a
    report that is none, `ConfigError` for a section of it that this version does not understand.
    """
    report = file.with_name("report.json")
    if not report.is_file():
        return default
    try:
        section = json.loads(report.read_text(encoding="utf-8"))["config"]["starter"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"lies beside the pairs and is no report of a build ({error!r}), so what `starter` means is unknown. Move "
            "it away, or build again.",
            str(report),
        ) from error
    return parse_tree(ScoreConfig, {"starter": section}, where=str(report)).starter


def by_reward_model(pairs: Sequence[ScoredPair], model: str, scoring: ScoringSection, console: Console) -> Scored:
    """Order pairs by a reward model's raw score. Raises `ModelError` for a model that cannot score."""
    items = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    raw = raw_scores(items, model, scoring, console)
    outcomes = tuple(statistics.outcome(raw[at], raw[at + 1]) for at in range(0, len(raw), 2))
    margins = [raw[at] - raw[at + 1] for at in range(0, len(raw), 2)]
    facts = {
        "model": model,
        "ties": sum(one == 0.5 for one in outcomes),
        "mean_margin": sum(margins) / len(margins),
        "dtype": scoring.dtype,
        "max_length_tokens": scoring.max_length_tokens,
    }
    return Scored(outcomes, facts)


def _by_judge(
    pairs: Sequence[ScoredPair],
    section: JudgeSection,
    prompt: judging.JudgePrompt,
    book: AnswerBook,
    seed: int,
    console: Console,
) -> Scored:
    """Ask an LLM in both presentation orders; where the orders differ or cannot be read, it is a tie."""
    from pgrpo_ray.actors.chat import open_chat_model
    from pgrpo_ray.reward_model.lcb_rb.agreement import agreement

    questions = [Question(str(at), pair.prompt, pair.chosen, pair.rejected) for at, pair in enumerate(pairs)]
    with open_chat_model(section.chat) as model, working(console, f"asking {model.name} in both orders"):
        answers = book.ask(model, section, prompt, questions, seed)
        name = model.name
    if answers.unanswered:
        first = next(iter(answers.unanswered.values()))
        raise EnvironmentFault(
            f"the judge {name!r} gave no answer about {len(answers.unanswered)} of {len(pairs)} pairs; the first "
            f"error: {first!r}. Its other answers are kept: run the same command again to ask for these alone."
        )
    read = [
        [judging.parse_preference(text, order) for order, text in enumerate(answers.texts[question.id])]
        for question in questions
    ]
    outcomes = [judging.preference_outcome(two) for two in read]
    both = [two for two, result in zip(read, outcomes, strict=True) if result is not None]
    groups = [pair.group for pair, result in zip(pairs, outcomes, strict=True) if result is not None]
    labels = [[str(two[order]) for two in both] for order in range(judging.NUM_ORDERS)]
    kappa = agreement(labels[0], labels[1], groups, seed=seed)
    if answers.rejected:
        first = next(why for _, why in sorted(answers.rejected.items()))
        console.print(rejection_note(len(answers.rejected), judging.NUM_ORDERS * len(pairs), first))
    facts = {
        "model": name,
        "prompt_hash": prompt.hash,
        "answers_unparsed": sum(answer is None for two in read for answer in two),
        "requests_rejected": len(answers.rejected),
        "ties": sum(result in (None, 0.5) for result in outcomes),
        "position_bias_rate": sum(one != two for one, two in both) / len(both) if both else None,
        # In order 0 the chosen side stands first, in order 1 the rejected one.
        "first_preferred_frac": sum(bool(one) + (not two) for one, two in both) / (2 * len(both)) if both else None,
        "agreement_between_orders": kappa.to_json() if kappa else None,
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
        "cost": section.chat.cost(answers.prompt_tokens, answers.completion_tokens),
    }
    return Scored(tuple(0.5 if result is None else result for result in outcomes), facts)


def summarise(pairs: Sequence[ScoredPair], scored: Mapping[str, Scored], seed: int) -> dict[str, Any]:
    """Return accuracies with intervals, whole and by bucket, and the difference to the best length baseline."""
    groups = [pair.group for pair in pairs]
    buckets = {
        "difficulty": [pair.difficulty for pair in pairs],
        "subset": [pair.subset for pair in pairs],
        "length": [statistics.length_bucket(pair.chosen, pair.rejected) for pair in pairs],
    }
    results = {}
    for name, one in scored.items():
        results[name] = {"accuracy": statistics.estimate(one.outcomes, groups, seed).to_json(), **one.facts}
        for kind, names in buckets.items():
            if any(names):
                found = statistics.by_bucket(one.outcomes, groups, names, seed)
                results[name][f"by_{kind}"] = {bucket: found[bucket].to_json() for bucket in _ordered(kind, found)}
    lengths = [name for name in ("longer wins", "shorter wins") if name in scored]
    compared = {}
    if lengths:
        best = max(lengths, key=lambda name: results[name]["accuracy"]["value"])
        for name in (REWARD_MODEL, "judge"):
            if name in scored:
                gained = statistics.difference(scored[name].outcomes, scored[best].outcomes, groups, seed)
                compared[name] = {"baseline": best, **gained.to_json()}
    return {
        "num_problems": len(set(groups)),
        "seed": seed,
        "results": results,
        "minus_best_length_baseline": compared,
    }


def _ordered(kind: str, found: Mapping[str, Estimate]) -> list[str]:
    order = LENGTH_BUCKETS if kind == "length" else ("easy", "medium", "hard")
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print accuracies as tables."""
    results = report["results"]
    table = Table("", "pair accuracy %", "95 % interval")
    table.title = f"{report['num_pairs']} pairs of {report['num_problems']} problems"
    for name, one in results.items():
        if "model" in one:
            console.print(f"{name}: {escape(str(one['model']))}", highlight=False, soft_wrap=True)
    for name, one in results.items():
        table.add_row(name, *_cells(one["accuracy"]))
    console.print(table)
    for kind in ("difficulty", "subset", "length"):
        shown = {name: one[f"by_{kind}"] for name, one in results.items() if f"by_{kind}" in one}
        if not shown:
            continue
        what = "chosen side is" if kind == "length" else kind
        table = Table(what, "pairs", *shown)
        for bucket, first in next(iter(shown.values())).items():
            cells = [" ".join(_cells(one[bucket])) for one in shown.values()]
            table.add_row(escape(bucket) or "unknown", str(first["num_pairs"]), *cells)
        console.print(table)
    for name, one in report["minus_best_length_baseline"].items():
        value, interval = _cells(one)
        console.print(
            f"{name} minus `{one['baseline']}`: {value} points {interval}, on the same pairs", highlight=False
        )


def _cells(one: Mapping[str, Any]) -> tuple[str, str]:
    return f"{100 * one['value']:.1f}", interval_cell(one["low"], one["high"])
