"""What `pgrpo rm pairs` does: problems in, one Parquet file of preference pairs and its reports out.

    OUT.parquet           the pairs, schema in `reward_model.pairs`
    OUT.failures.jsonl    answers that hold no reasoning, whole, with stage and reason
    OUT.dropped.jsonl     pairs that a filter left out, with the reason
    OUT.report.json       counts, cost, what shortcuts tell of the sides; written last
    OUT.parquet.work/     every answer so far

Everything that can be wrong with config, prompts, problems and model is found before the generator starts. Two passes
ask it: originals first, then their versions; each answer goes to the work folder at once. The output is then made from
that folder alone, in the order of the problems, so a job that was stopped twenty times writes the same file as one that
was not, and other filters need no new answers. A rejected request is no answer: it may be the fault of a setting that
decides no answer, so it is counted and asked again by the next run. Each file is written whole or not at all.
"""

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape

from pgrpo_ray.actors.chat import open_chat_model
from pgrpo_ray.config import STARTER
from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.config.pairs import PairsConfig
from pgrpo_ray.errors import ConfigError, EnvironmentFault, PgrpoError
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs import pairs_report
from pgrpo_ray.jobs.pairs_sources import problems_of, starter_rows
from pgrpo_ray.jobs.starter import make_starter
from pgrpo_ray.obs.disk import check_free, check_out, explain_full_disk, whole_file, write_whole
from pgrpo_ray.obs.display import Display
from pgrpo_ray.preflight.models import STARTER_POLICY, model_facts
from pgrpo_ray.protocols import ChatModel
from pgrpo_ray.reward_model.od.answers import REJECTED, parse_answer
from pgrpo_ray.reward_model.od.chain import Call, Recipe, pairs_of, rewrites
from pgrpo_ray.reward_model.od.filters import Filters
from pgrpo_ray.reward_model.od.ledger import Ledger
from pgrpo_ray.reward_model.od.prompts import ORIGINAL, STAGES, load_prompts
from pgrpo_ray.reward_model.pairs import problem_hash, write_rows
from pgrpo_ray.starter.artifacts import content_key
from pgrpo_ray.types import Problem

_MIN_REJECTED = 5
"""Rejections before any answer, from which on the settings are to blame, however few the lanes (ours)."""


@dataclass
class Tally:
    """What is counted while pairs are made."""

    parsed: Counter[str] = field(default_factory=Counter)
    """Answers that held a reasoning, by stage."""
    failed: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Answers that held none: by stage, then reason."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Requests that the machinery failed, by stage; the same command asks them again."""
    rejected: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Records of the requests that this run was told will never be answered, by key."""
    num_not_asked: int = 0
    """Versions that nobody asked for, because there is no original."""
    problem: str = ""
    """What the machinery said last."""
    made: int = 0
    """Pairs before filters."""
    kinds: Counter[str] = field(default_factory=Counter)
    dimensions: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


def make(config: PairsConfig, console: Console) -> dict[str, Any]:
    """Make pairs as `config` says; return the report.

    Raises the project's errors; `EnvironmentFault` also after everything was written, when requests went unanswered,
    and `PgrpoError` when no pair came out.
    """
    started, out = time.monotonic(), Path(config.pairs.out)
    _check_out(config)
    with interruptible(), Display(console) as display:
        if config.pairs.source == "starter":
            tally = Tally()
            numbers = _write(out, config, tally, starter_rows(config), None)
        else:
            numbers, tally = _from_model(config, out, display)
    report = numbers | {"seconds": round(time.monotonic() - started, 1)}
    with explain_full_disk(out.parent):
        write_whole(_beside(out, "report.json"), json.dumps(report, indent=2) + "\n")
    pairs_report.show(report, console)
    if num := sum(tally.unanswered.values()):
        raise EnvironmentFault(
            f"{num} requests got no answer, the last because: {tally.problem}. The pairs of the others are in {out}; "
            "run the same command again, and only what is missing is asked for."
        )
    if not report["pairs"]["kept"]:
        raise PgrpoError(
            f"no pair came out. {_beside(out, 'failures.jsonl')} and {_beside(out, 'dropped.jsonl')} say why: look at "
            "what the generator answers, and whether pairs.max_tokens lets it finish."
        )
    return report


def _from_model(config: PairsConfig, out: Path, display: Display) -> tuple[dict[str, Any], Tally]:
    """Ask for what is missing, then write everything."""
    prompts = load_prompts(config.pairs.prompts)
    everything = problems_of(config)
    distinct: dict[str, Problem] = {}
    for problem in everything:  # of those with the same statement the first stays: one answer is enough
        distinct.setdefault(problem_hash(problem.prompt), problem)
    problems = list(distinct.values())[: config.pairs.max_problems]
    chat = _check_model(config)
    section = config.pairs
    recipe = Recipe(prompts, chat.label, section.dimensions, section.temperature, section.max_tokens, section.seed)
    digest = hashlib.blake2b("".join(distinct).encode(), digest_size=16).hexdigest()
    decides = {
        "problems": digest,
        "generator": recipe.generator,
        "prompts_hash": prompts.hash,
        "dimensions": recipe.dimensions,
        "temperature": recipe.temperature,
        "max_tokens": recipe.max_tokens,
        "seed": recipe.seed,
    }
    if chat.backend == "vllm":  # these change what the engine says, or where it is cut
        decides |= {"dtype": chat.dtype, "max_model_tokens": chat.max_model_tokens}
    work = Path(section.work or f"{out}.work")
    with Ledger(work, decides) as ledger:
        if len(ledger):
            display.note(f"{work} holds {len(ledger):,} answers; going on from there")
        tally = _ask_all(config, chat, ledger, problems, recipe, display)
        display.phase("write pairs", len(problems))
        extra = {
            "problems": len(problems),
            "duplicate_problems": len(everything) - len(distinct),
            "calls_planned": len(problems) * recipe.calls_per_problem,
            "generator": recipe.generator,
            "prompts_version": prompts.version,
            "prompts_hash": prompts.hash,
        }
        with whole_file(_beside(out, "failures.jsonl")) as failures:
            rows = _rows(ledger, problems, recipe, tally, failures, display)
            return _write(out, config, tally, rows, chat) | extra, tally


def _ask_all(
    config: PairsConfig, chat: ChatSection, ledger: Ledger, problems: list[Problem], recipe: Recipe, display: Display
) -> Tally:
    """Two passes over what is missing; a job that lacks nothing opens no model."""
    tally = Tally()
    originals = [Call(problem, ORIGINAL, "") for problem in problems]

    def versions() -> Iterator[Call]:
        for call in originals:
            text = _reasoning(ledger, call.key(recipe))
            if text is not None:
                yield from rewrites(call.problem, text, recipe)

    passes = (("originals", lambda: originals), ("versions", versions))
    if all(call.key(recipe) in ledger for _, calls in passes for call in calls()):
        return tally
    chat = _with_starter(config, chat, display)
    display.phase("start", 1)
    display.stage(f"opening {escape(chat.label)}")
    with open_chat_model(chat) as model, interruptible():  # Ray replaces the signal handlers when it starts
        for name, calls in passes:
            missing = sum(call.key(recipe) not in ledger for call in calls())
            display.phase(name, missing)
            _ask(model, ledger, calls(), recipe, tally, chat, display)
    if tally.rejected and not len(ledger) and not tally.unanswered:
        raise _all_rejected(tally, chat)
    return tally


def _ask(
    model: ChatModel,
    ledger: Ledger,
    calls: Iterable[Call],
    recipe: Recipe,
    tally: Tally,
    chat: ChatSection,
    display: Display,
) -> None:
    """Put every call that the ledger lacks to the model and keep the answers as they come.

    Raises `ConfigError` when the first outcomes of a work folder are all rejections: no later one would be another.
    """
    most_rejected = max(_MIN_REJECTED, chat.concurrency)
    asked: dict[str, Call] = {}

    def requests() -> Iterator[Any]:
        for call in calls:
            request = call.request(recipe)
            if request.id not in ledger and request.id not in asked:
                asked[request.id] = call
                yield request

    for answer in model.answer(requests()):
        call = asked.pop(answer.id)
        display.advance()
        if answer.text is None and answer.finish_reason != REJECTED:
            tally.unanswered[call.stage] += 1
            tally.problem = answer.error
            continue
        record = {
            "problem_id": call.problem.id,
            "stage": call.stage,
            "dimension": call.dimension,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "error": answer.error,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
        }
        if answer.text is not None:
            ledger.append(answer.id, record)
            continue
        tally.rejected[answer.id] = record
        if not len(ledger) and len(tally.rejected) >= most_rejected:
            raise _all_rejected(tally, chat)


def _all_rejected(tally: Tally, chat: ChatSection) -> ConfigError:
    """Return the error of a job that got rejections and nothing else, in the words of who rejected."""
    words = list(tally.rejected.values())[-1]["error"]
    if chat.backend == "endpoint":
        path = "chat"
        fix = (
            "Try chat.max_tokens_key=max_completion_tokens, chat.send_seed=false, or another pairs.max_tokens or "
            "pairs.temperature"
        )
    else:
        path = "chat.max_model_tokens"
        fix = "Raise chat.max_model_tokens, or shorten the prompts (pairs.prompts) or the problems"
    return ConfigError(
        f"{chat.label} rejected all of the first {len(tally.rejected)} requests, the last with: {words}. {fix}; then "
        "run the command again.",
        path=path,
    )


def _reasoning(ledger: Ledger, key: str) -> str | None:
    """Return the reasoning kept under `key`; None where there is no answer, or none in it."""
    if key not in ledger:
        return None
    record = ledger.get(key)
    return parse_answer(record["text"], record["finish_reason"])[0]


def _rows(
    ledger: Ledger, problems: list[Problem], recipe: Recipe, tally: Tally, failures: IO[str], display: Display
) -> Iterator[dict[str, Any]]:
    """Yield every pair before filters, problem by problem; count answers and write those that failed."""

    def taken(call: Call) -> str | None:
        key = call.key(recipe)
        if key not in ledger and key not in tally.rejected:
            return None  # counted as unanswered when it was asked
        record = ledger.get(key) if key in ledger else tally.rejected[key]
        tally.prompt_tokens += record["prompt_tokens"]
        tally.completion_tokens += record["completion_tokens"]
        text, reason = parse_answer(record["text"], record["finish_reason"])
        if text is not None:
            tally.parsed[call.stage] += 1
            return text
        tally.failed[call.stage][reason] += 1
        about = {"problem_id": call.problem.id, "problem_hash": problem_hash(call.problem.prompt), "reason": reason}
        failures.write(json.dumps(about | {"key": key} | record) + "\n")
        return None

    for problem in problems:
        display.advance()
        original = taken(Call(problem, ORIGINAL, ""))
        if original is None:
            tally.num_not_asked += recipe.calls_per_problem - 1
            continue
        texts = {(call.stage, call.dimension): taken(call) for call in rewrites(problem, original, recipe)}
        yield from pairs_of(problem, original, {key: text for key, text in texts.items() if text is not None}, recipe)


def _write(
    out: Path, config: PairsConfig, tally: Tally, rows: Iterable[dict[str, Any]], chat: ChatSection | None
) -> dict[str, Any]:
    """Filter and write the pairs; return the report so far."""
    filters = Filters(config.filters)

    def kept(dropped: IO[str]) -> Iterator[dict[str, Any]]:
        for candidate in rows:
            tally.made += 1
            row, reason = filters.admit(candidate)
            if reason:
                dropped.write(json.dumps({"reason": reason} | row) + "\n")
                continue
            tally.kinds[row["kind"]] += 1
            tally.dimensions[row["dimension"]] += 1
            yield row

    with explain_full_disk(out.parent), whole_file(_beside(out, "dropped.jsonl")) as dropped:
        num_kept = write_rows(out, kept(dropped))
    failed = {stage: dict(tally.failed[stage]) for stage in STAGES if tally.failed[stage]}
    return {
        "out": str(out),
        "source": config.pairs.source,
        "config": config.model_dump(mode="json"),
        "calls": {
            "parsed": dict(tally.parsed),
            "failed": failed,
            "unanswered": dict(tally.unanswered),
            "not_asked": tally.num_not_asked,
            "rejected_because": next((one["error"] for one in reversed(tally.rejected.values())), ""),
        },
        "tokens": {"prompt": tally.prompt_tokens, "completion": tally.completion_tokens},
        "cost": round(chat.cost(tally.prompt_tokens, tally.completion_tokens), 6) if chat else 0.0,
        "pairs": {
            "made": tally.made,
            "kept": num_kept,
            "dropped": dict(filters.dropped),
            "by_kind": dict(tally.kinds),
            "by_dimension": dict(tally.dimensions),
        },
        "shortcuts": pairs_report.examine_file(out).to_json() if num_kept else None,
    }


def _check_model(config: PairsConfig) -> ChatSection:
    """Check the model of the vLLM backend; return the section with the name that goes into provenance."""
    chat = config.chat
    if chat.backend == "endpoint":
        return chat
    facts = STARTER_POLICY if chat.model == STARTER else model_facts(chat.model, "chat.model", role="causal")
    if facts.max_positions is not None and chat.max_model_tokens > facts.max_positions:
        raise ConfigError(
            f"chat.max_model_tokens is {chat.max_model_tokens}, but {chat.model} was made for sequences of "
            f"{facts.max_positions} tokens. Lower it, and pairs.max_tokens below it.",
            path="chat.max_model_tokens",
        )
    if chat.model != STARTER:
        return chat
    # Not the word alone: another starter is another generator, whose answers must not be mixed with these.
    return chat.model_copy(update={"name": chat.name or f"starter-{content_key(config.starter)}"})


def _with_starter(config: PairsConfig, chat: ChatSection, display: Display) -> ChatSection:
    """Put the starter's policy where the section says `starter`, making it where it is not in the cache."""
    if chat.backend == "endpoint" or chat.model != STARTER:
        return chat

    display.phase("starter", 1)
    return chat.model_copy(update={"model": str(make_starter(config.starter, display.stage).policy)})


def _check_out(config: PairsConfig) -> None:
    """Prove that the output can be written, before anything is made. Raises `EnvironmentFault`."""
    out = Path(config.pairs.out)
    check_out(out, "pairs.out")
    check_free(out.parent, "pairs.out", "pairs.min_free_mib", config.pairs.min_free_mib, "--set pairs.out=FILE")


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(f"{out.stem}.{suffix}")
