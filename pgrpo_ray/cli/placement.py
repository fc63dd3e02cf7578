"""Where the processes of a run would go, as `pgrpo check` shows it."""

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from pgrpo_ray.config import RunConfig, placement


def show(config: RunConfig, nodes: Mapping[str, Mapping[str, float]] | None, console: Console) -> None:
    """Print what each process takes; with `nodes` (what each offers, by name) also on which of them it may land."""
    wanted = placement.bundles(config)
    homes = placement.place(wanted, nodes) if nodes is not None else [""] * len(wanted)
    table = Table("role", "each takes of a node", *(["may land on"] if nodes is not None else []), title="placement")
    for bundle in dict.fromkeys((bundle.role, str(bundle)) for bundle in wanted):
        mine = [home for one, home in zip(wanted, homes, strict=True) if (one.role, str(one)) == bundle]
        where = ", ".join(f"{home or 'no node'} x {count}" for home, count in Counter(mine).items())
        table.add_row(f"{bundle[0]} (x {len(mine)})", bundle[1], *([where] if nodes is not None else []))
    side = {"anywhere": "", "with_gpus": " beside GPUs", "without_gpus": " without GPUs"}[config.sandbox.placement]
    judges = [name for name, offers in (nodes or {}).items() if offers.get("sandbox")]
    table.add_row(
        "execution pool",
        f"1 `sandbox`: one on each node that offers it{side}",
        *([", ".join(judges)] if nodes is not None else []),
    )
    console.print(table)
