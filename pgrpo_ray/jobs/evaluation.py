"""`pgrpo eval`: from a model and a benchmark to judged samples, a summary and a table.

Order: everything that can be wrong with the input, then what the sandbox must be asked (libraries, outputs of
references), then samples. Rollout workers and execution pools are those of training (`actors.sampling`). Groups are
written as they come, `rollout.prompts_per_step` at a time; the same command again samples only what is not there, or
what the machinery failed on. One evaluation at a time may use a folder.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgrpo_ray import __version__
from pgrpo_ray.config import SANDBOX_OVERHEAD_MIB, STARTER, RunConfig, RunSection, SandboxSection
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.errors import ConfigError, DataError, EnvironmentFault, StageError
from pgrpo_ray.evaluation import results
from pgrpo_ray.evaluation.benchmarks import Window, content_of, named, read_items
from pgrpo_ray.evaluation.items import Choice, Item
from pgrpo_ray.evaluation.prompting import PromptFile, load_prompt_file
from pgrpo_ray.evaluation.sources import read_source
from pgrpo_ray.evaluation.summary import summarise
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs import evaluation_samples as samples
from pgrpo_ray.jobs.evaluation_sandbox import missing_libraries, with_outputs
from pgrpo_ray.jobs.sampled_folder import check_settings, make_folder
from pgrpo_ray.jobs.sampling_run import sampling_run
from pgrpo_ray.jobs.starter import FAMILIES, make_starter
from pgrpo_ray.obs.disk import explain_full_disk, hold_name, write_whole
from pgrpo_ray.obs.display import Display, warn_weak_sandbox
from pgrpo_ray.preflight.devices import check_devices
from pgrpo_ray.preflight.disk import cache_folder
from pgrpo_ray.preflight.models import model_facts
from pgrpo_ray.preflight.sandbox import Sandbox, check_judging, choose_sandbox
from pgrpo_ray.types import TestStyle

MAX_RESPONSE_TOKENS = 4096
"""Where neither config nor model says less: the paper's limit."""
_SHOWN = 8
"""Names of problems in a message."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An evaluation that has been checked."""

    config: EvaluationConfig
    run: RunConfig
    items: list[Item]
    prompt: PromptFile
    model: str | None
    """Folder or hub name; None where solutions are judged."""
    prompt_ids: dict[str, tuple[int, ...]]
    """By problem; empty where solutions are judged."""
    settings: dict[str, Any]


def evaluate(config: EvaluationConfig, console: Console) -> Path:
    """Evaluate as `config` says; return the folder. Raises the project's errors; what was judged is kept."""
    started = time.monotonic()
    benchmark = named(config.benchmark_name)
    if config.prompt.template is not None:
        load_prompt_file(benchmark.template, config.prompt.template)  # refused now, not after minutes
    read = None if config.uses_starter_data else _read(config, [*config.benchmark.data])
    facts = None
    if config.samples and config.policy.model != STARTER:
        facts = model_facts(config.policy.model, "policy.model", role="causal")
    folder = config.folder
    make_folder(folder, "--out", "--out FOLDER", "evaluation.min_free_mib", config.evaluation.min_free_mib)
    with interruptible(), _hold(folder), Display(console) as display:
        starter = _starter(config, display)
        items, records = read or _read(config, [str(starter.heldout)])
        model = (
            (str(starter.policy) if config.policy.model == STARTER else config.policy.model) if config.samples else None
        )
        if facts is None and model is not None:
            facts = model_facts(model, "policy.model", role="causal")
        prompt = _prompt_file(config, benchmark.template, items)
        section = _roomy(config, items)
        kind = _choose_sandbox(config, items, console)
        items, records, skipped = _with_libraries(config, items, records, kind, section, display)
        plan = _planned(config, section, kind, items, records, prompt, model, facts)
        with explain_full_disk(folder):
            _check_settings(folder, plan.settings)
        items, left_out = _with_expected(items, kind, section, display)
        check_judging(plan.run, Sandbox(kind), [item.problem for item in items])
        plan = replace(plan, items=items)
        with explain_full_disk(folder):
            _solve(plan, folder, kind, display)
            told = {"problems_skipped": skipped, "inputs_left_out": left_out}
            summary = _finish(plan, folder, told, time.monotonic() - started)
        _tell(display, folder, summary)
    if summary["num_unjudged"]:
        raise EnvironmentFault(
            f"{summary['num_unjudged']} of {summary['num_samples']} samples could not be judged (see `error` in "
            f"{folder / results.SAMPLES}) and are in no share. Run the same command again to try those anew."
        )
    return folder


def _prompt_file(config: EvaluationConfig, name: str, items: Sequence[Item]) -> PromptFile:
    """Return the prompt file; our own format's goes by what its problems want, a program or an answer."""
    if all(item.problem.style is TestStyle.ANSWER for item in items):
        name = "maths"
    fenced = "_fenced" if config.prompt.answers == "fenced" else ""
    return load_prompt_file(f"{name}{fenced}", config.prompt.template)


def _read(config: EvaluationConfig, data: Sequence[str]) -> tuple[list[Item], list[dict[str, Any]]]:
    section, benchmark = config.benchmark, named(config.benchmark_name)
    records = read_source(data, benchmark, section.release, section.subset, section.split)
    window = Window(section.first_day, section.last_day, section.limit)
    items, kept = read_items(benchmark, records, Choice(section.variant), window)
    if config.evaluation.solutions:
        without = [item.problem.id for item in items if item.solution is None]
        if without:
            raise DataError(
                f"{len(without)} problems have no reference solution, such as {without[0]!r}, and --solutions needs "
                "one of each. Leave --solutions out, or give a file that has them.",
                data[0],
            )
    return items, kept


def _roomy(config: EvaluationConfig, items: Sequence[Item]) -> SandboxSection:
    """Return the sandbox section with containers that hold the largest program that a problem allows."""
    largest = max(item.problem.limits.memory_mib for item in items) + SANDBOX_OVERHEAD_MIB
    return config.sandbox.model_copy(update={"memory_mib": max(config.sandbox.memory_mib, largest)})


def _choose_sandbox(config: EvaluationConfig, items: Sequence[Item], console: Console) -> str:
    """Say which sandbox judges; problems whose answers are compared alone need none."""
    if all(item.problem.style is TestStyle.ANSWER for item in items):
        return "process"
    chosen = choose_sandbox(_run_config(config, config.sandbox, 1, 1))
    if chosen.kind == "process":
        warn_weak_sandbox(console, chosen.reason)
    return chosen.kind


def _with_libraries(
    config: EvaluationConfig,
    items: list[Item],
    records: list[Any],
    kind: str,
    section: SandboxSection,
    display: Display,
) -> tuple[list[Item], list[Any], dict[str, list[str]]]:
    """Leave out, or refuse, problems whose libraries the sandbox lacks; return also those left out.

    The nodes of a cluster have images of their own, so there nothing is asked.
    """
    wanted = {name for item in items for name in item.libraries}
    if not wanted or config.cluster.address != "local":
        return items, records, {}
    display.stage("asking the sandbox for its libraries")
    gone = set(missing_libraries(wanted, kind, section))
    lacking = {item.problem.id: sorted(gone & set(item.libraries)) for item in items if gone & set(item.libraries)}
    if not lacking:
        return items, records, {}
    told = ", ".join(f"{name} ({', '.join(libraries)})" for name, libraries in list(lacking.items())[:_SHOWN])
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    message = f"{len(lacking)} of {len(items)} problems need libraries that the sandbox lacks: {told}{more}."
    if not config.benchmark.skip_missing_libs:
        raise EnvironmentFault(
            f"{message} Give an image that has them with --set sandbox.image=IMAGE, or leave these problems out with "
            "--skip-missing-libs."
        )
    kept = [at for at, item in enumerate(items) if item.problem.id not in lacking]
    if not kept:
        raise EnvironmentFault(f"{message} None is left.")
    display.note(f"[yellow]left out: {escape(message)}[/yellow]")
    return [items[at] for at in kept], [records[at] for at in kept], lacking


def _with_expected(
    items: list[Item], kind: str, section: SandboxSection, display: Display
) -> tuple[list[Item], dict[str, str]]:
    display.phase("reference outputs", sum(bool(item.oracle) for item in items))
    found = with_outputs(items, kind, section, cache_folder(), display.advance)
    if found.left_out:
        name, why = next(iter(found.left_out.items()))
        display.note(
            f"[yellow]{len(found.left_out)} problems lose inputs whose expected output is unknown, such as "
            f"{escape(name)}: {escape(why)}[/yellow]"
        )
    return found.items, found.left_out


def _planned(
    config: EvaluationConfig,
    section: SandboxSection,
    kind: str,
    items: list[Item],
    records: Sequence[Any],
    prompt: PromptFile,
    model: str | None,
    facts: Any,
) -> Plan:
    """Encode the prompts, fix what was left open, and say what the samples are made with."""
    answers_alone = all(item.problem.style is TestStyle.ANSWER for item in items)
    prompt_ids = samples.encode(model, items, prompt) if model is not None else {}
    longest = max(map(len, prompt_ids.values()), default=1)
    response = _response_tokens(config, longest, facts) if model is not None else 0
    run = _run_config(config, section, longest, max(1, response))
    check_devices(run)
    settings = {
        "benchmark": config.benchmark_name,
        "problems": hashlib.sha256(content_of(records).encode("utf-8", "backslashreplace")).hexdigest()[:16],
        "num_problems": len(items),
        "variant": config.benchmark.variant if config.benchmark_name == "bigcodebench" else "",
        "template": prompt.hash if model is not None else "",
        "answers": config.prompt.answers if model is not None else "",
        "solutions": config.evaluation.solutions,
        "model": config.policy.model if model is not None else "",
        "model_version": samples.model_version(model) if model is not None else "",
        "dtype": config.policy.dtype if model is not None else "",
        "samples_per_problem": run.rollout.group_size,
        "temperature": run.rollout.temperature if model is not None else 0.0,
        "max_response_tokens": response,
        "seed": config.evaluation.seed,
        # What judges: one result must not be half of one and half of another.
        "sandbox": "maths" if answers_alone else kind,
        "sandbox_image": section.image if kind == "docker" and not answers_alone else "",
        "pgrpo_ray": __version__,
    }
    return Plan(config, run, items, prompt, model, prompt_ids, settings)


def _response_tokens(config: EvaluationConfig, longest: int, facts: Any) -> int:
    """Return the longest response, tokens. Raises `ConfigError` where it does not fit behind the longest prompt."""
    wanted, positions = config.rollout.max_response_tokens, facts.max_positions
    room = MAX_RESPONSE_TOKENS if positions is None else positions - longest
    if wanted is None and room >= 1:
        return min(MAX_RESPONSE_TOKENS, room)
    if wanted is None or (positions is not None and wanted > room):
        raise ConfigError(
            f"rollout.max_response_tokens: the longest prompt has {longest} tokens and the model {positions} "
            f"positions, so {wanted or 'no'} tokens of a response do not fit. Lower it, shorten the prompt file, or "
            "leave out long problems.",
            path="rollout.max_response_tokens",
        )
    return wanted


def _run_config(
    config: EvaluationConfig, section: SandboxSection, prompt_tokens: int, response_tokens: int
) -> RunConfig:
    """Return the config of the workers and pools, with one sample a problem where solutions are judged."""
    n = config.rollout.group_size if config.samples else 1
    rollout = config.rollout.model_copy(update={"max_response_tokens": response_tokens, "group_size": n})
    run = RunSection(name="evaluation", seed=config.evaluation.seed)
    return sampling_run(config, run, rollout, section, "-", prompt_tokens)


def _solve(plan: Plan, folder: Path, kind: str, display: Display) -> None:
    """Have everything judged that is not there yet, and keep it in parts."""
    done = samples.judged_before(folder)
    missing = [item for item in plan.items if item.problem.id not in done]
    display.phase("solutions" if plan.model is None else "samples", len(plan.items))
    display.advance(len(plan.items) - len(missing))
    if not missing:
        return
    if len(missing) < len(plan.items):
        display.note(f"{len(plan.items) - len(missing)} of {len(plan.items)} problems are judged already")
    from pgrpo_ray.actors.reservation import ray_session
    from pgrpo_ray.actors.sampling import sampling_fleet

    problems = [item.problem for item in missing]
    display.stage("starting Ray, the model and the sandbox" if plan.model else "starting Ray and the sandbox")
    # Ray replaces the signal handlers of its process when it starts, so they are set again.
    with ray_session(plan.run), interruptible(), sampling_fleet(plan.run, plan.model, kind, problems) as fleet:
        display.stage("")
        by_id = {item.problem.id: item for item in plan.items}
        groups = samples.judged(fleet, plan, missing)
        with samples.Parts(folder, plan.settings, plan.run.rollout.prompts_per_step) as parts:
            for group in groups:
                item = by_id[group["problem_id"][0].as_py()]
                parts.add(samples.to_samples(group, item))
                display.advance(1)
    lost = [item.problem.id for item in missing if item.problem.id not in samples.attempted(folder)]
    if lost:
        raise StageError(
            f"rollout worker: {len(lost)} of {len(missing)} groups never came, such as {lost[0]!r}.",
            stage="rollout worker",
        )


def _finish(plan: Plan, folder: Path, told: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Write samples and summary, remove the parts, return the summary."""
    table = samples.in_order(folder, [item.problem.id for item in plan.items])
    results.write_table(folder / results.SAMPLES, table, plan.settings)
    shutil.rmtree(folder / results.PARTS, ignore_errors=True)
    summary = {
        **plan.settings,
        **summarise(table, plan.config.evaluation.k, plan.config.evaluation.seed),
        **told,
        "prompt_file": plan.prompt.name if plan.model is not None else "",
        "seconds": round(seconds, 1),
    }
    write_whole(folder / results.SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def _hold(folder: Path) -> Any:
    """Keep the folder to this process until what is returned is closed. Raises `ConfigError` when another has it."""
    busy = f"--out {folder}: another evaluation is going on there. Wait for it, or choose another folder."
    return hold_name(folder / ".lock", busy, "evaluation.out")


def _starter(config: EvaluationConfig, display: Display) -> Any:
    """Return the starter's artifacts where they are needed."""
    if not config.uses_starter:
        return None
    paths = make_starter(config.starter, display.stage, families=FAMILIES)
    display.note(f"starter: {paths.policy.parent}")
    return paths


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder whose samples are of anything else. Raises `ConfigError`."""
    file = folder / results.SETTINGS
    if not file.is_file() and ((folder / results.SAMPLES).is_file() or (folder / results.PARTS).is_dir()):
        raise ConfigError(f"{folder} holds samples, but no {file.name} that says of what. Choose another --out.")
    check_settings(file, settings, "--out")


def _tell(display: Display, folder: Path, summary: dict[str, Any]) -> None:
    """Print what came out, as one table."""
    who = summary["model"] or f"{summary['solutions']} solutions"
    table = Table("", "problems", "value", "95 % interval", title=escape(f"{summary['benchmark']}: {who}"))
    for k, share in summary["pass_at_k"].items():
        table.add_row(f"pass@{k}", *_cells(share))
    for bucket, entry in summary["by_difficulty"].items():
        table.add_row(f"pass@1, {escape(bucket)}", *_cells(entry["pass_at_1"]))
    if summary["model"]:
        for key, title in (("format_ok_frac", "format right"), ("truncated_frac", "cut at the limit")):
            table.add_row(title, "", f"{100 * summary[key]:.1f} %", "")
        table.add_row("tokens of a response", "", f"{summary['mean_response_tokens']:.1f}", "")
    display.console.print(table)
    verdicts = ", ".join(f"{name} {count}" for name, count in summary["verdicts"].items())
    display.note(escape(f"{summary['num_samples']} samples: {verdicts}; {summary['seconds']} s\nresult: {folder}"))


def _cells(share: dict[str, Any]) -> tuple[str, str, str]:
    if share["value"] is None:
        return "0", "?", ""
    interval = f"{100 * share['low']:.1f} to {100 * share['high']:.1f} % ({share['interval']})"
    return str(share["num_problems"]), f"{100 * share['value']:.1f} %", interval
