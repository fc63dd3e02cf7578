"""`pgrpo rm train`: from checked input to a folder with a reward model, its calibration and a report.

    config.yaml         the resolved config
    metrics.jsonl       one JSON object an optimizer step
    model/              the best weights and the tokenizer in Hugging Face format, the calibration in config.json
    report.json         what came out: losses, held-out accuracy, overlap, calibration
    reliability.png     confidence against accuracy (where matplotlib is installed)

All of it grows in `<name>.part`, which takes its name at the end, so a folder of that name is whole. An earlier result
of the same name is moved to `<name>.1`, never overwritten. What an interrupted run leaves stays in `<name>.part` and is
moved aside by the next one. Everything that can be known to be wrong is found before Ray starts.
"""

import contextlib
import importlib.metadata
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pgrpo_ray.algo.preferences import Objective, TokenTable, TrainingRows
from pgrpo_ray.config import STARTER, dump_tree
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs.starter import CODE, FAMILIES, make_starter
from pgrpo_ray.obs.disk import check_free, explain_full_disk, hold_name, move_aside
from pgrpo_ray.obs.display import Display
from pgrpo_ray.preflight.models import model_facts
from pgrpo_ray.reward_model import calibration, corpus, leaks
from pgrpo_ray.reward_model.calibration import Calibration
from pgrpo_ray.reward_model.fitting import Fitted, Heldout, Schedule, Trainer, fit
from pgrpo_ray.reward_model.model import check_base, encode
from pgrpo_ray.reward_model.pairs import read_pairs
from pgrpo_ray.reward_model.statistics import by_bucket, estimate, outcome
from pgrpo_ray.reward_model.train import batches, pair_rows, sides_of
from pgrpo_ray.types import PreferencePair

OpenTrainer = Callable[
    [RewardTrainingConfig, str, Objective, TrainingRows, TokenTable], contextlib.AbstractContextManager[Trainer]
]
"""What `actors.rm_training.reward_trainer` is; a test may give one of its own."""
_PACKAGES = ("torch", "transformers", "deepspeed", "ray", "scipy")
_PROGRESS_EVERY = 10
"""Optimizer steps between two lines on the terminal."""


@dataclass(frozen=True)
class Prepared:
    """Checked input."""

    base: str
    """Folder or hub name, `starter` resolved."""
    tokenizer: Any
    train: list[Any]
    """`PreferencePair`s or `corpus.ScoredReasoning`s."""
    validation: list[PreferencePair]
    test: list[PreferencePair]
    dimensions: dict[PreferencePair, str]
    """Of the pairs of a file that says so."""
    groups: corpus.Groups
    """What statements are held out and resampled by, where that is not their own words."""
    facts: dict[str, Any]
    """For the report: counts, overlap."""


def train_reward_model(config: RewardTrainingConfig, console: Console, open_trainer: OpenTrainer | None = None) -> Path:
    """Train as `config` says; return the result's folder. Raises the project's errors."""
    if open_trainer is None:
        from pgrpo_ray.actors.rm_training import reward_trainer

        open_trainer = reward_trainer
    started = time.monotonic()
    _check_disk(config)
    with interruptible(), Display(console) as display:
        prepared = prepare(config, display)
        rows, heldout, table = _tokens(config, prepared)
        steps = math.ceil(config.schedule.epochs * len(rows) / config.schedule.batch_rows)
        schedule = Schedule(steps, config.learner.warmup_steps, config.schedule.eval_every, config.schedule.patience)
        kinds = [getattr(row, "kind", "") for row in prepared.train]
        drawn = batches(
            rows.lengths.tolist(), steps, config.schedule.batch_rows, config.output.seed, kinds, config.data.mixture
        )
        objective = Objective(**config.objective.model_dump())
        with _draft(config) as folder:
            display.note(f"{len(rows):,} rows to train on, {steps} optimizer steps; writing to {folder}")
            display.phase("train", steps)
            display.stage("starting Ray and DeepSpeed")
            with (
                open_trainer(config, prepared.base, objective, rows, table) as trainer,
                interruptible(),  # Ray replaces the signal handlers of its process when it starts
                (folder / "metrics.jsonl").open("w", encoding="utf-8") as metrics,
            ):
                fitted = fit(trainer, drawn, schedule, heldout, folder / "model", _shower(display, metrics))
            with explain_full_disk(folder):
                report = _report(config, prepared, fitted, steps, folder) | {
                    "seconds": time.monotonic() - started,
                    "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
                }
                (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
                final = _publish(config, folder, display)
        _show(display, final, report)
        return final


def prepare(config: RewardTrainingConfig, display: Display) -> Prepared:
    """Read and check everything that the config names, cheapest first; make the starter where it is named."""
    data = config.data
    own_file = data.pairs if data.pairs != STARTER else None
    pairs = read_pairs(own_file) if own_file is not None else []
    groups = corpus.read_groups(own_file, pairs) if own_file is not None else {}
    scores = corpus.read_scores(data.scores) if data.scores else []
    measured = {file: _measured(file, format) for file, format in data.eval_sets.items()}
    base = config.model.base
    if base != STARTER:
        _check_base(config, base)
    if config.uses_starter:
        starter = make_starter(config.starter, display.stage, families=CODE if data.pairs == STARTER else FAMILIES)
        if data.pairs == STARTER:
            of_starter, groups = _starter_sides(config, starter)
        if base == STARTER:
            base = str(starter.proofreader)
            _check_base(config, base)
    named = corpus.read_dimensions(own_file, len(pairs)) if own_file is not None else []
    dimensions = {pair: name for pair, name in zip(pairs, named, strict=False) if name}
    sides = of_starter if data.pairs == STARTER else corpus.split(pairs, data.heldout_frac, groups)
    if scores:
        sides = _with_scores(config, sides, scores, groups)
    train = sides.train
    corpus.check_sides(sides, str(data.scores or data.pairs), groups)
    corpus.check_mixture(data.mixture, {row.kind for row in train} if not scores else set())
    facts = {
        "train_rows": len(train),
        "train_problems": corpus.num_problems(train, groups),
        "kinds": dict(Counter(getattr(row, "kind", "score") for row in train)),
        "mixture": dict(data.mixture),
        "overlap": check_leaks(config, [*train, *sides.validation], measured),
    }
    seed = f"heldout/{config.output.seed}"
    validation, test = (corpus.thin(side, data.max_heldout_pairs, seed) for side in (sides.validation, sides.test))
    facts["heldout_overlap"] = _near_copies(config, train, [*validation, *test])
    for name, kept in (("validation", validation), ("test", test)):
        facts |= {f"{name}_pairs": len(kept), f"{name}_problems": corpus.num_problems(kept, groups)}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    return Prepared(base, tokenizer, train, validation, test, dimensions, groups, facts)


def check_leaks(
    config: RewardTrainingConfig, used: Sequence[Any], measured: dict[str, list[leaks.Text]]
) -> dict[str, Any]:
    """Return the overlap of the problems that train, or choose the weights, with each eval set.

    Raises `DataError` above the bound.
    """
    data, found = config.data, {}
    trained = corpus.problems_of(used)
    for file, texts in measured.items():
        overlaps = leaks.find_overlaps(trained, texts, data.overlap_words, data.overlap_min_frac)
        fix = (
            "Take these problems out of the training pairs (or raise data.max_overlap_frac, and say so with every "
            "result on this set)."
        )
        leaks.refuse_overlap(overlaps, len(texts), data.max_overlap_frac, file, fix)
        found[file] = {
            "problems": len(texts),
            "overlapping": len(overlaps),
            "exact": sum(one.exact for one in overlaps),
            "worst": [asdict(one) for one in overlaps[:10]],
        }
    return found


def _near_copies(config: RewardTrainingConfig, train: Sequence[Any], heldout: Sequence[Any]) -> dict[str, Any]:
    """Return which held-out problems resemble trained ones: the split parts equal statements, not retouched ones."""
    texts = corpus.problems_of(heldout)
    overlaps = leaks.find_overlaps(
        corpus.problems_of(train), texts, config.data.overlap_words, config.data.overlap_min_frac
    )
    return {
        "problems": len(texts),
        "overlapping": len(overlaps),
        "worst": [asdict(one) for one in overlaps[:10]],
    }


def _check_base(config: RewardTrainingConfig, base: str) -> None:
    model_facts(base, "model.base", role="base")
    check_base(base, config.model.max_length_tokens)


def _measured(file: str, format: str) -> list[leaks.Text]:
    """Return the problems of an eval set, each once."""
    path = Path(file).expanduser()
    if format == "pairs":
        return corpus.problems_of(read_pairs(path))
    return [leaks.Text(problem.id, problem.prompt) for problem in load_problems(path, format)]


def _starter_sides(config: RewardTrainingConfig, starter: Any) -> tuple[corpus.Sides, dict[str, str]]:
    """Return the starter's pairs, and for each statement the pipeline behind it: one is asked for in many words.

    Held out are pairs of the starter's own held-out problems: no model of the starter was trained on their pipelines.
    """
    from pgrpo_ray.jobs.pairs_sources import pipeline_of
    from pgrpo_ray.starter.pairs import make_pairs
    from pgrpo_ray.starter.problems import read_jsonl

    data, seed = config.data, config.output.seed
    trained, heldout = read_jsonl(starter.train), read_jsonl(starter.heldout)
    groups = {exercise.prompt: pipeline_of(exercise) for exercise in [*trained, *heldout]}
    num_heldout = round(data.starter_pairs * data.heldout_frac)
    kept = corpus.split(make_pairs(heldout, num_heldout, seed + 1), 1.0, groups)
    return corpus.Sides(make_pairs(trained, data.starter_pairs - num_heldout, seed), kept.validation, kept.test), groups


def _with_scores(
    config: RewardTrainingConfig, pairs: corpus.Sides, scores: list[Any], groups: corpus.Groups
) -> corpus.Sides:
    """Return scored reasonings to train on, and the pairs to measure on; without pairs these are made of scores."""
    scored = corpus.split(scores, config.data.heldout_frac, groups)
    if config.data.pairs is None:
        made = [corpus.pairs_of_scores(side, config.output.seed) for side in (scored.validation, scored.test)]
        return corpus.Sides(scored.train, *made)
    # The starter's pairs are held out by file, which the hash that splits the scores knows nothing of.
    measured = {corpus.group_key(pair.prompt, groups) for pair in [*pairs.validation, *pairs.test]}
    train = [row for row in scored.train if corpus.group_key(row.prompt, groups) not in measured]
    return corpus.Sides(train, pairs.validation, pairs.test)


def _tokens(config: RewardTrainingConfig, prepared: Prepared) -> tuple[TrainingRows, Heldout, TokenTable]:
    """Encode everything; note in the facts how many sequences fill the limit, and were perhaps cut."""
    limit, tokenizer = config.model.max_length_tokens, prepared.tokenizer
    if config.objective.kind == "score":
        sequences = encode(tokenizer, [(row.prompt, row.reasoning) for row in prepared.train], limit)
        targets = np.array([row.score for row in prepared.train], np.float32)
        rows = TrainingRows(TokenTable.of(sequences), 1, targets)
    else:
        rows = pair_rows(encode(tokenizer, sides_of(prepared.train), limit))
    table = TokenTable.of(encode(tokenizer, sides_of([*prepared.validation, *prepared.test]), limit))
    prepared.facts["train_tokens"] = len(rows.tokens.ids)
    prepared.facts["sequences_at_limit"] = int((rows.tokens.lengths >= limit).sum() + (table.lengths >= limit).sum())
    return rows, Heldout(len(prepared.validation), len(prepared.test)), table


def _report(
    config: RewardTrainingConfig, prepared: Prepared, fitted: Fitted, steps: int, folder: Path
) -> dict[str, Any]:
    """Fit and store the calibration; return the content of `report.json`, but for times and versions."""
    better, worse = fitted.test
    found = calibration.fit(*fitted.validation)
    lowest, highest = calibration.TEMPERATURE_BOUNDS
    before = calibration.reliability(better, worse, 1.0)
    after = calibration.reliability(better, worse, found.temperature)
    # The sigmoid of a model that was trained on scores is such a score already; its level must not be moved.
    stored = Calibration() if config.objective.kind == "score" else found
    stored.store(folder / "model")
    drawn = calibration.plot(before, after, folder / "reliability.png")
    return {
        "objective": config.objective.model_dump(),
        "base": config.model.base,
        "data": prepared.facts,
        "steps": len(fitted.losses),
        "skipped_steps": fitted.skipped_steps,
        "planned_steps": steps,
        "best_step": fitted.best_step,
        "stopped_early": fitted.stopped_early,
        "losses": fitted.losses,
        "evaluations": [asdict(one) for one in fitted.evaluations],
        "test_accuracy": _accuracy(config, prepared, better, worse),
        "calibration": {
            "stored": asdict(stored),
            "fitted": asdict(found),
            "at_bound": not 2 * lowest < found.temperature < highest / 2,
            "before": asdict(before),
            "after": asdict(after),
            "plot": "reliability.png" if drawn else None,
            "plot_note": "" if drawn else "matplotlib is not installed (extra `dev`), so there is no plot",
        },
    }


def _accuracy(
    config: RewardTrainingConfig, prepared: Prepared, better: Sequence[float], worse: Sequence[float]
) -> dict[str, Any]:
    """Accuracy on the test pairs with 95 % bootstrap intervals over problems: all, by kind, by dimension."""
    seed, pairs = config.output.seed, prepared.test
    hits = [outcome(b, w) for b, w in zip(better, worse, strict=True)]
    problems = [corpus.group_key(pair.prompt, prepared.groups) for pair in pairs]
    found: dict[str, Any] = {"all": estimate(hits, problems, seed).to_json()}
    dimensions = [prepared.dimensions.get(pair, "") for pair in pairs]
    for name, buckets in (("by_kind", [pair.kind for pair in pairs]), ("by_dimension", dimensions)):
        if any(buckets):
            found[name] = {key: one.to_json() for key, one in by_bucket(hits, problems, buckets, seed).items()}
    return found


def _check_disk(config: RewardTrainingConfig) -> None:
    parent = Path(config.output.dir).absolute()
    with explain_full_disk(parent):
        parent.mkdir(parents=True, exist_ok=True)
    limit = config.output.min_free_mib
    check_free(parent, "output.dir", "output.min_free_mib", limit, "--set output.dir=FOLDER")


@contextlib.contextmanager
def _draft(config: RewardTrainingConfig) -> Iterator[Path]:
    """Make the draft's folder and hold the name. Raises `ConfigError` when another run holds it."""
    parent, name = Path(config.output.dir).absolute(), config.output.name
    folder = parent / f"{name}.part"
    busy = (
        f"output.name: a training named {name!r} is going on in {parent}. Wait for it, or give this one another name "
        "with --set output.name=NAME."
    )
    with hold_name(parent / f".{name}.lock", busy, "output.name"):
        with explain_full_disk(parent):
            move_aside(folder)
            folder.mkdir()
            (folder / "config.yaml").write_text(dump_tree(config), encoding="utf-8")
        yield folder


def _publish(config: RewardTrainingConfig, draft: Path, display: Display) -> Path:
    """Give the finished draft its name."""
    final = draft.with_name(config.output.name)
    moved = move_aside(final)
    if moved:
        display.note(f"an earlier result of this name is now {moved}")
    return draft.rename(final)


def _shower(display: Display, metrics: Any) -> Callable[[dict[str, float]], None]:
    """Return what writes and shows one step."""

    def show(figures: dict[str, float]) -> None:
        with explain_full_disk(Path(metrics.name).parent):
            # JSON knows no NaN, which the norm of a skipped step may be.
            numbers = {name: value if math.isfinite(value) else None for name, value in figures.items()}
            metrics.write(json.dumps(numbers) + "\n")
            metrics.flush()
        display.stage(f"loss {figures['loss']:.3f}")
        display.advance()
        if "skipped" in figures:
            display.note(
                f"[yellow]step {figures['step']:5d}  skipped: its gradient norm is {figures['grad_norm']:.3g}[/yellow]"
            )
        if "heldout_accuracy" in figures:
            display.note(
                f"step {figures['step']:5d}  loss {figures['loss']:.4f}  validation accuracy "
                f"{100 * figures['heldout_accuracy']:.1f} %  nll {figures['heldout_nll']:.4f}"
            )

    return show


def _show(display: Display, folder: Path, report: dict[str, Any]) -> None:
    """Print what came out."""
    accuracy, fitted = report["test_accuracy"], report["calibration"]
    table = Table("test pairs", "pairs", "problems", "accuracy", "95 % interval")
    for part in ({"all": accuracy["all"]}, accuracy.get("by_kind", {}), accuracy.get("by_dimension", {})):
        for name, one in sorted(part.items()):
            interval = "" if one["low"] is None else f"{100 * one['low']:.1f} .. {100 * one['high']:.1f}"
            counts = f"{one['num_pairs']:,}", f"{one['num_groups']:,}"
            table.add_row(name or "(none)", *counts, f"{100 * one['value']:.1f} %", interval)
        table.add_section()
    display.console.print(table)
    display.note(
        f"best weights of step {report['best_step']} of {report['planned_steps']}"
        f"{', ended early' if report['stopped_early'] else ''}; temperature {fitted['fitted']['temperature']:.3g}, "
        f"calibration error {fitted['before']['ece']:.3f} -> {fitted['after']['ece']:.3f} on test pairs"
    )
    if fitted["at_bound"]:
        display.note(
            "[bold yellow]The temperature ran to its bound: the scores order held-out pairs no better than chance, or "
            "hardly differ. Do not use this model.[/bold yellow]"
        )
    near = report["data"]["heldout_overlap"]
    if near["overlapping"]:
        display.note(
            f"[yellow]{near['overlapping']} of {near['problems']} held-out problems share most of their words with "
            "trained ones (report.json names the worst): accuracy on new problems may be lower.[/yellow]"
        )
    if fitted["plot"] is None:
        display.note(fitted["plot_note"])
    display.note(f"model: {folder / 'model'}\nreport: {folder / 'report.json'}")
