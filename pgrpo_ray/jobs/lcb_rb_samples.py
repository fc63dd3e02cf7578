"""Executed samples for LCB-RB: read from a run's Arrow files, or sampled and judged here on Ray.

Sampling is resumable: every `rollout.prompts_per_step` problems are one file in the build's folder `samples/`, written
whole or not at all, and a file that is there is not sampled again. `samples/settings.json` says what the files were
sampled with, the version of the policy's weights included; other settings in the same folder are refused.
"""

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pgrpo_ray.config import STARTER, RunConfig, RunSection
from pgrpo_ray.config.lcb_rb import LcbRbConfig
from pgrpo_ray.data import arrow
from pgrpo_ray.errors import DataError, StageError
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs.sampled_folder import check_settings
from pgrpo_ray.jobs.sampling_run import sampling_run
from pgrpo_ray.obs.disk import explain_full_disk
from pgrpo_ray.preflight.devices import check_devices
from pgrpo_ray.preflight.models import STARTER_POLICY, check_lengths, model_facts
from pgrpo_ray.preflight.sandbox import Sandbox, check_judging, check_memory_limits, choose_sandbox
from pgrpo_ray.reward_model.lcb_rb.schema import problems_hash
from pgrpo_ray.reward_model.lcb_rb.selection import Sample
from pgrpo_ray.reward_model.version import folder_version
from pgrpo_ray.types import Problem, PromptRequest

_COLUMNS = ("problem_id", "sample_index", "policy_version", "format_ok", "thinking", "program", "verdict")
_SAMPLING = 2
"""First word of every seed; training has 0 and evaluation 1."""


def sample_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that the patterns name, each once. Raises `DataError` for a pattern that names none."""
    found: list[Path] = []
    for pattern in patterns:
        paths = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
        if not paths:
            raise DataError("names no file. Give Arrow files of a run, such as runs/x/evaluations/*.arrow.", pattern)
        found += [Path(path) for path in paths]
    return list(dict.fromkeys(found))


def read_samples(paths: Sequence[Path], problems: Sequence[Problem], policy: str | None) -> list[Sample]:
    """Read executed samples. Raises `DataError` for a file without verdicts, or of problems that are not in the set."""
    known = {problem.id for problem in problems}
    samples: list[Sample] = []
    foreign: set[str] = set()
    for path in paths:
        table = arrow.read_ipc(path)
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing:
            raise DataError(f"lacks the column {missing[0]!r}. Give files with verdicts (docs/rollouts.md).", str(path))
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        prefix = f"{path.name}:" if len(paths) > 1 else ""
        for row in table.select(list(_COLUMNS)).to_pylist():
            if row["problem_id"] not in known:
                foreign.add(row["problem_id"])
                continue
            samples.append(_sample(row, prefix, policy or metadata.get("policy") or metadata.get("run") or path.stem))
    if not samples:
        raise DataError(
            f"no sample is of the problem set; the files know problems such as {min(foreign, default='none')!r}. Set "
            "problems.file (of the starter: problems.starter_split) to the problems that were sampled.",
            str(paths[0]),
        )
    return samples


def _sample(row: dict[str, Any], prefix: str, policy: str) -> Sample:
    return Sample(
        problem_id=row["problem_id"],
        name=f"{prefix}{row['policy_version']}/{row['sample_index']}",
        format_ok=row["format_ok"],
        reasoning=(row["thinking"] or "").strip(),
        program=row["program"] or "",
        verdict=row["verdict"] or "",
        policy=policy,
    )


def run_config(config: LcbRbConfig) -> RunConfig:
    """Return the config of the rollout workers and pools that this build uses."""
    build, problems = config.lcb_rb, config.problems
    run = RunSection(name=build.name, seed=build.seed, min_free_mib=build.min_free_mib)
    return sampling_run(config, run, config.rollout, config.sandbox, problems.file, problems.max_prompt_tokens)


def sample_all(
    config: LcbRbConfig, model: str, problems: Sequence[Problem], kind: str, on_progress: Callable[[int], None]
) -> list[Path]:
    """Sample every problem `rollout.group_size` times, have the programs judged, and return the files.

    `kind` is the sandbox's; `on_progress` receives how many problems are done. Starts Ray only for what is missing.
    """
    folder = config.folder / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder, config, model, problems)
    run, per_file = run_config(config), config.rollout.prompts_per_step
    chunks = [list(problems[at : at + per_file]) for at in range(0, len(problems), per_file)]
    paths = [folder / f"samples-{number:05d}.arrow" for number in range(len(chunks))]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    on_progress(sum(len(chunk) for number, chunk in enumerate(chunks) if number not in missing))
    if not missing:
        return paths
    requests = _requests(config, model, problems)
    from pgrpo_ray.actors.reservation import ray_session
    from pgrpo_ray.actors.sampling import judged_groups, sampling_fleet

    with ray_session(run), interruptible(), sampling_fleet(run, model, kind, problems) as fleet:
        for number in missing:
            wanted = [requests[problem.id] for problem in chunks[number]]
            table = pa.concat_tables(_in_order(judged_groups(fleet, run, wanted), wanted))
            errors = table["execution_error"].drop_null()
            if len(errors) and table["verdict"].null_count == table.num_rows:
                raise StageError(
                    f"execution pool: all {len(errors)} programs were lost to failing machinery: {errors[0]}",
                    stage="execution pool",
                )
            metadata = {"policy": config.policy.model, "run": config.lcb_rb.name, "seed": str(config.lcb_rb.seed)}
            with explain_full_disk(folder):
                arrow.write_ipc(paths[number], table, metadata)
            on_progress(len(wanted))
    return paths


def _in_order(groups: Iterator[pa.Table], requests: Sequence[PromptRequest]) -> list[pa.Table]:
    """Collect one group per request, in their order. Raises `StageError` when one is lost."""
    found = {group["problem_id"][0].as_py(): group for group in groups}
    lost = [request.problem_id for request in requests if request.problem_id not in found]
    if lost:
        raise StageError(
            f"rollout worker: {len(lost)} of {len(requests)} groups never came, such as {lost[0]!r}.",
            stage="rollout worker",
        )
    return [found[request.problem_id] for request in requests]


def _requests(config: LcbRbConfig, model: str, problems: Sequence[Problem]) -> dict[str, PromptRequest]:
    """Encode every prompt; the seed of a problem depends on its place in the set alone."""
    from transformers import AutoTokenizer

    from pgrpo_ray.data.prompts import encode_prompts

    section = config.problems
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    prompts = encode_prompts(tokenizer, problems, section.system_prompt, section.max_prompt_tokens)
    root = [config.lcb_rb.seed, _SAMPLING]
    return {
        problem.id: PromptRequest(
            problem.id, prompts[problem.id], int(np.random.SeedSequence([*root, place]).generate_state(1)[0])
        )
        for place, problem in enumerate(problems)
    }


def policy_version(config: LcbRbConfig, model: str) -> str:
    """Return what tells the policy's weights from others of the same name; empty for a hub name, which has none here.

    `model` is the folder or hub name that `policy.model` stands for.
    """
    if config.policy.model == STARTER:
        from pgrpo_ray.starter.artifacts import content_key

        return f"starter-{content_key(config.starter)}"
    return folder_version(Path(model)) if Path(model).is_dir() else ""


def _check_settings(folder: Path, config: LcbRbConfig, model: str, problems: Sequence[Problem]) -> None:
    """Refuse a folder whose samples are of anything else. Raises `ConfigError`."""
    rollout = config.rollout
    settings = {
        "policy.model": config.policy.model,
        "policy's version": policy_version(config, model),
        "policy.dtype": config.policy.dtype,
        "lcb_rb.seed": config.lcb_rb.seed,
        "rollout.group_size": rollout.group_size,
        "rollout.temperature": rollout.temperature,
        "rollout.max_response_tokens": rollout.max_response_tokens,
        "rollout.prompts_per_step": rollout.prompts_per_step,
        "problems.system_prompt": config.problems.system_prompt,
        "problems": problems_hash(problems),
    }
    check_settings(folder / "settings.json", settings, "lcb_rb.name")


def check_sampling(config: LcbRbConfig, problems: Sequence[Problem] | None) -> Sandbox:
    """Return the sandbox, once all that sampling needs is there: devices, memory and checkers, the policy."""
    run = run_config(config)
    check_devices(run)
    sandbox = choose_sandbox(run)
    if problems is not None:
        check_memory_limits(run, list(problems))
        check_judging(run, sandbox, list(problems))
    policy = STARTER_POLICY
    if config.policy.model != STARTER:
        policy = model_facts(config.policy.model, "policy.model", role="causal")
    check_lengths(run, policy)
    return sandbox
