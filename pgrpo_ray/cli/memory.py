"""What each role of a run holds in memory, as `pgrpo check` shows it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pgrpo_ray.config import STARTER, RunConfig
from pgrpo_ray.config.memory import RolePlan, colocated, lacking, learner_plan, reward_plan, rollout_plan
from pgrpo_ray.errors import ConfigError


def plans_of(config: RunConfig, gpu_gib: float) -> list[RolePlan]:
    """Say what each role holds, from the models' configs alone; roles whose model is the starter's are left out.

    Asks this machine for nothing else, so a run can be planned where it could not start. Raises `ModelError`.
    """
    from pgrpo_ray.preflight.models import model_facts
    from pgrpo_ray.preflight.reward import plan_reward

    plans: list[RolePlan] = []
    if config.policy.model != STARTER:
        shape = model_facts(config.policy.model, "policy.model", role="causal").shape
        if shape:
            pair = learner_plan(config, shape), rollout_plan(config, shape, gpu_gib)
            plans += [colocated(*pair)] if config.cluster.colocate else pair
    if plan_reward(config).scored != "none" and config.reward_model.model != STARTER:
        shape = model_facts(config.reward_model.model, "reward_model.model", role="reward").shape
        plans += [reward_plan(config, shape)] if shape else []
    return plans


def rough_mib(config: RunConfig, num_parameters: int) -> dict[str, float]:
    """Say what each role holds where no plan can: weights and optimizer state only, MiB.

    A rank keeps its share of weight, float32 gradient and two Adam moments, plus a float32 master copy for bfloat16
    (4 x 4 or 2 + 4 x 4 bytes a parameter, ZeRO-3, arXiv 1910.02054).
    """
    engine_bytes, rank_bytes = (2, 18) if config.policy.dtype == "bfloat16" else (4, 16)
    return {
        "each rollout worker": num_parameters * engine_bytes / 2**20 + (config.rollout.kv_cache_mib or 0),
        "each learner rank": num_parameters / config.learner.num_ranks * rank_bytes / 2**20,
    }


def show(plans: Sequence[RolePlan], gpu_gib: float, console: Console) -> None:
    """Print the plans with what may not fit. Raises `ConfigError` for what cannot fit on GPUs of `gpu_gib`."""
    table = Table("memory of each", "part", "GiB", title=f"against GPUs of {gpu_gib:g} GiB; ~ is an estimate")
    table.columns[2].justify = "right"
    for plan in plans:
        where = f"{plan.gpus:g} GPU" if plan.gpus else "CPU"
        for number, part in enumerate(plan.parts):
            first = f"{plan.role} (x {plan.processes}, {where})" if number == 0 else ""
            table.add_row(first, part.name, f"{'~' if part.estimate else ''}{part.gib:.1f}")
        table.add_row("", "[bold]together", f"[bold]~{plan.total_gib:.1f}", end_section=True)
    console.print(table)
    for plan in plans:
        for note in plan.notes:
            console.print(f"{plan.role}: {note}", highlight=False, soft_wrap=True)
    cannot, may_not = lacking(plans, gpu_gib)
    for finding in may_not:
        console.print(f"[yellow]may not fit:[/yellow] {finding}", highlight=False, soft_wrap=True)
    if cannot:
        raise ConfigError("does not fit: " + "\n".join(cannot))
