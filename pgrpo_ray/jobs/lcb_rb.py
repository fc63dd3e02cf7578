"""`pgrpo lcb-rb build`: from problems and executed samples to LCB-RB, its candidates and a report.

Order: everything that can be wrong with the input, then samples (`lcb_rb_samples`), candidates, the judge, the choice
of pairs, the contamination report. In the build's folder:

    pairs.jsonl        the benchmark
    candidates.jsonl   every judged candidate with the judge's decision, for agreement with others and for review
    unparsed.jsonl     answers of a judge that could not be read
    report.json        counts of every stage, agreement, position bias, contamination
    judge-answers.jsonl, samples/   work that a repeated build does not do again

All but the last are written whole or not at all; the same config and samples give the same bytes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pgrpo_ray.config import STARTER
from pgrpo_ray.config.lcb_rb import ContaminationSection, LcbRbConfig
from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.errors import DataError
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs import lcb_rb_samples
from pgrpo_ray.jobs.judges import rejection_note
from pgrpo_ray.jobs.lcb_rb_judging import Judged, exercises_of, judge
from pgrpo_ray.jobs.sampled_folder import make_folder
from pgrpo_ray.jobs.starter import make_starter
from pgrpo_ray.obs.disk import explain_full_disk, write_json
from pgrpo_ray.obs.display import Display, warn_weak_sandbox
from pgrpo_ray.reward_model import judging, leaks
from pgrpo_ray.reward_model.judging import JudgePrompt
from pgrpo_ray.reward_model.lcb_rb import schema, selection
from pgrpo_ray.reward_model.lcb_rb.schema import ACCEPT, REJECT, UNPARSED, ReasoningPair
from pgrpo_ray.reward_model.lcb_rb.selection import Candidate, Sample, Selection
from pgrpo_ray.starter.artifacts import StarterPaths, content_key
from pgrpo_ray.types import Problem

MAX_EXAMPLES = 20
"""Overlapping problems that the report names; it counts all."""


def build(config: LcbRbConfig, console: Console) -> Path:
    """Build LCB-RB as `config` says; return its folder. Raises the project's errors; what was done is kept."""
    prompt = judging.load_prompt(judging.SOUNDNESS, config.judge.prompt) if config.judge.kind == "llm" else None
    files = lcb_rb_samples.sample_files(config.samples.files)
    others = _load_others(config.contamination)
    problems = None if config.problems.file == STARTER else _load(config, None)
    sandbox = None if files else lcb_rb_samples.check_sampling(config, problems)
    folder, limit = config.folder, config.lcb_rb.min_free_mib
    make_folder(folder, "lcb_rb.dir", "--set lcb_rb.dir=FOLDER", "lcb_rb.min_free_mib", limit)
    with interruptible(), Display(console) as display:
        if sandbox and sandbox.kind == "process":
            warn_weak_sandbox(console, sandbox.reason)
        starter = make_starter(config.starter, display.stage) if config.uses_starter else None
        if starter:
            display.note(f"starter: {starter.policy.parent}")
            config = config.model_copy(
                update={"judge": config.judge.with_starter(starter.policy, content_key(config.starter))}
            )
        if config.problems.file == STARTER:
            assert starter, "uses_starter says otherwise"
            others |= _trained_by_starter(starter)
        problems = problems or _load(config, starter)
        if config.judge.kind == "starter":
            exercises_of(problems)  # refused now, not after an hour of sampling
        if not files:
            assert sandbox, "chosen above where there are no files"
            model = str(starter.policy) if starter and config.policy.model == STARTER else config.policy.model
            display.phase("samples", len(problems))
            files = lcb_rb_samples.sample_all(config, model, problems, sandbox.kind, display.advance)
        policy = config.samples.policy if config.samples.files else None
        samples = lcb_rb_samples.read_samples(files, problems, policy)
        return _build(config, folder, problems, samples, prompt, others, display)


def _build(
    config: LcbRbConfig,
    folder: Path,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    prompt: JudgePrompt | None,
    others: dict[str, list[leaks.Text]],
    display: Display,
) -> Path:
    """From samples to files."""
    section = config.selection
    settings = Selection(
        config.lcb_rb.seed, **section.model_dump(include=set(Selection.__dataclass_fields__) - {"seed"})
    )
    material = _gather(problems, samples, settings, section.difficulty_from)
    candidates = material.candidates
    judged = judge(config, folder, problems, candidates, prompt, display)
    accepted = [candidate for at, candidate in enumerate(candidates) if judged.decisions.get(at) == ACCEPT]
    chosen = {id(candidate) for candidate in selection.balanced(accepted, settings)}
    statements = {problem.id: problem.prompt for problem in problems}
    provenance = {
        "judge": judged.name,
        "prompt_hash": judged.prompt_hash,
        "sampling_seed": config.lcb_rb.seed if config.samples_itself else -1,
        "selection_seed": config.lcb_rb.seed,
        "problems_hash": schema.problems_hash(problems),
    }
    rows = {
        at: _row(candidates[at], statements, decision, judged.answers.get(at, ()), provenance)
        for at, decision in judged.decisions.items()
    }
    pairs = [rows[at] for at in sorted(rows) if id(candidates[at]) in chosen]
    report = {
        **_counts(material, judged, accepted, pairs),
        "length": _lengths(pairs),
        "judge": {"name": judged.name, "prompt_hash": judged.prompt_hash} | judged.facts,
        "contamination": _contamination(config.contamination, pairs, statements, others),
        "provenance": provenance | {"policies": sorted({pair.policy for pair in pairs})},
        "config": config.model_dump(mode="json"),
    }
    with explain_full_disk(folder):
        schema.write_lines(folder / "unparsed.jsonl", judged.unparsed)
        schema.write_pairs(folder / "candidates.jsonl", [rows[at] for at in sorted(rows)])
        schema.write_pairs(folder / "pairs.jsonl", pairs)
        write_json(folder / "report.json", report)
    _tell(display, folder, report)
    if not pairs:
        raise DataError(
            f"the judge accepted none of {len(candidates)} candidates, or no choice of the accepted ones is balanced: "
            f"there is no benchmark. {folder / 'candidates.jsonl'} and unparsed.jsonl there say what it decided."
        )
    return folder


@dataclass(frozen=True, slots=True)
class Material:
    """What is judged, and what was left out on the way there."""

    num_problems: int
    num_samples: int
    samples_left_out: Mapping[str, int]
    difficulty: Mapping[str, str]
    """Bucket of each problem."""
    difficulty_from: str
    candidates: Sequence[Candidate]
    candidates_left_out: Mapping[str, int]


def _gather(
    problems: Sequence[Problem], samples: Sequence[Sample], settings: Selection, difficulty_from: str
) -> Material:
    """Pair passing with failing samples. Raises `DataError` when there is not one candidate."""
    usable, left_out = selection.usable(samples)
    difficulty, source = selection.difficulties(problems, samples, difficulty_from)
    candidates, candidates_left_out = selection.candidates(usable, difficulty, settings)
    if not candidates:
        raise DataError(
            f"{len(samples)} samples of {len(problems)} problems give no candidate (samples left out: "
            f"{dict(left_out)}; candidates left out: {dict(candidates_left_out)}). A pair needs a passing and a "
            "failing sample of one problem: sample more, or problems that the policy solves now and then."
        )
    return Material(len(problems), len(samples), left_out, difficulty, source, candidates, candidates_left_out)


def _counts(
    material: Material, judged: Judged, accepted: Sequence[Candidate], pairs: Sequence[ReasoningPair]
) -> dict[str, Any]:
    """The report's counts of every stage."""
    decided = Counter(judged.decisions.values())
    return {
        "pairs": len(pairs),
        "problems": len({pair.problem_id for pair in pairs}),
        "stages": {
            "problems": material.num_problems,
            "samples": material.num_samples,
            "samples_left_out": dict(material.samples_left_out),
            "candidates": len(material.candidates),
            "candidates_left_out": dict(material.candidates_left_out),
            **{name: decided[name] for name in schema.DECISIONS},
            "unanswered": len(material.candidates) - len(judged.decisions),
            "pairs": len(pairs),
        },
        "difficulty_from": material.difficulty_from,
        "by_difficulty": _by_difficulty(material.difficulty, material.candidates, accepted, pairs),
    }


def _row(
    candidate: Candidate,
    statements: dict[str, str],
    decision: str,
    answers: tuple[str, ...],
    provenance: dict[str, Any],
) -> ReasoningPair:
    chosen, rejected = candidate.chosen, candidate.rejected
    return ReasoningPair(
        id=schema.pair_id(candidate.problem_id, chosen.reasoning, rejected.reasoning),
        problem_id=candidate.problem_id,
        prompt=statements[candidate.problem_id],
        difficulty=candidate.difficulty,
        chosen=chosen.reasoning,
        rejected=rejected.reasoning,
        chosen_program=chosen.program,
        rejected_program=rejected.program,
        chosen_verdict=chosen.verdict,
        rejected_verdict=rejected.verdict,
        chosen_sample=chosen.name,
        rejected_sample=rejected.name,
        policy=chosen.policy if chosen.policy == rejected.policy else f"{chosen.policy}, {rejected.policy}",
        decision=decision,
        judge_answers=answers,
        **provenance,
    )


def _by_difficulty(
    difficulty: Mapping[str, str],
    candidates: Sequence[Candidate],
    accepted: Sequence[Candidate],
    pairs: Sequence[ReasoningPair],
) -> dict[str, dict[str, int]]:
    counts = {
        "problems": Counter(difficulty.values()),
        "candidates": Counter(one.difficulty for one in candidates),
        "accepted": Counter(one.difficulty for one in accepted),
        "pairs": Counter(one.difficulty for one in pairs),
    }
    buckets = sorted({bucket for counter in counts.values() for bucket in counter})
    return {bucket: {name: counter[bucket] for name, counter in counts.items()} for bucket in buckets}


def _lengths(pairs: Sequence[ReasoningPair]) -> dict[str, float | int]:
    """Characters of both sides, and how often the chosen one is the longer: what a length baseline lives on."""
    if not pairs:
        return {}
    differences = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    return {
        "mean_chosen_chars": sum(len(pair.chosen) for pair in pairs) / len(pairs),
        "mean_rejected_chars": sum(len(pair.rejected) for pair in pairs) / len(pairs),
        "chosen_longer": sum(difference > 0 for difference in differences),
        "rejected_longer": sum(difference < 0 for difference in differences),
        "equal": sum(difference == 0 for difference in differences),
    }


def _load_others(section: ContaminationSection) -> dict[str, list[leaks.Text]]:
    """Read everything that the benchmark is compared with, by file."""
    from pgrpo_ray.reward_model.pairs import read_pairs

    others = {}
    for file in section.training_pairs:
        pairs = read_pairs(Path(file).expanduser())
        prompts = dict.fromkeys(pair.prompt for pair in pairs)
        others[file] = [leaks.Text(f"{file}, problem {at + 1}", prompt) for at, prompt in enumerate(prompts)]
    for file in section.problems:
        problems = load_problems(Path(file).expanduser(), section.problems_format)
        others[file] = [leaks.Text(problem.id, problem.prompt) for problem in problems]
    return others


def _trained_by_starter(starter: StarterPaths) -> dict[str, list[leaks.Text]]:
    """The problems that the starter's own models are trained on."""
    found = {}
    for file in (starter.train.with_name("warmup.jsonl"), starter.train):
        problems = load_problems(file, "jsonl")
        found[f"starter/{file.name}"] = [leaks.Text(problem.id, problem.prompt) for problem in problems]
    return found


def _contamination(
    section: ContaminationSection,
    pairs: Sequence[ReasoningPair],
    statements: dict[str, str],
    others: dict[str, list[leaks.Text]],
) -> list[dict[str, Any]]:
    """Overlap of the benchmark's problems with each file, worst problems first."""
    measured = [leaks.Text(problem_id, statements[problem_id]) for problem_id in {pair.problem_id: 0 for pair in pairs}]
    found = []
    for file, texts in others.items():
        overlaps = leaks.find_overlaps(texts, measured, section.ngram_words, section.min_shared_frac)
        found.append(
            {
                "file": file,
                "problems_there": len(texts),
                "problems_here": len(measured),
                "overlapping": len(overlaps),
                "exact": sum(overlap.exact for overlap in overlaps),
                "too_short_for_ngrams": sum(len(leaks.words_of(one.text)) < section.ngram_words for one in measured),
                "ngram_words": section.ngram_words,
                "min_shared_frac": section.min_shared_frac,
                "worst": [asdict(overlap) for overlap in overlaps[:MAX_EXAMPLES]],
            }
        )
    return found


def _load(config: LcbRbConfig, starter: Any) -> list[Problem]:
    section = config.problems
    if section.file == STARTER:
        problems = load_problems(getattr(starter, section.starter_split), "jsonl")
    else:
        problems = load_problems(section.file, section.format)
    return problems[: section.max_problems]


def _tell(display: Display, folder: Path, report: dict[str, Any]) -> None:
    """Print what came out."""
    stages, judge = report["stages"], report["judge"]
    display.note(
        f"{stages['samples']} samples of {stages['problems']} problems -> {stages['candidates']} candidates -> "
        f"{stages[ACCEPT]} accepted by {escape(judge['name'])} ({stages[REJECT]} rejected, {stages[UNPARSED]} "
        f"unparsed) -> [bold]{report['pairs']} pairs[/bold] of {report['problems']} problems"
    )
    if stages["unanswered"]:
        display.note(
            f"[red]{stages['unanswered']} candidates got no answer from the judge and are left out; the first error: "
            f"{escape(judge.get('first_error', ''))} Run the same command again to ask those again.[/red]"
        )
    if judge.get("requests_rejected"):
        display.note(rejection_note(judge["requests_rejected"], judge["requests"], judge["first_rejection"]))
    for one in report["contamination"]:
        if one["overlapping"]:
            display.note(
                f"[yellow]{one['overlapping']} of {one['problems_here']} problems overlap with {escape(one['file'])} "
                f"({one['exact']} word for word)[/yellow]"
            )
    display.note(escape(f"benchmark: {folder / 'pairs.jsonl'}\nreport: {folder / 'report.json'}"))
