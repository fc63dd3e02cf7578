"""What a shell offers after TAB: configs, run folders, names of benchmarks. Imports nothing heavy until asked."""

from collections.abc import Callable, Iterable
from pathlib import Path


def config_files(incomplete: str) -> list[str]:
    """YAML files that begin so, and the folders on the way to others."""
    return _paths(incomplete, lambda path: path.suffix in (".yaml", ".yml"))


def run_folders(incomplete: str) -> list[str]:
    """Folders of runs (they hold metrics.jsonl) that begin so, under `runs/` unless another folder is begun."""
    begun = incomplete or "runs/"
    return _paths(begun, lambda path: (path / "metrics.jsonl").is_file())


def benchmark_names(incomplete: str) -> list[str]:
    """Names of benchmarks that begin so."""
    from pgrpo_ray.evaluation.benchmarks import BENCHMARKS

    return [name for name in BENCHMARKS if name.startswith(incomplete)]


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    folder, _, start = incomplete.rpartition("/")
    found: Iterable[Path] = Path(f"{folder}/" if incomplete.startswith("/") else folder or ".").glob(f"{start}*")
    shown = [path for path in found if start.startswith(".") or not path.name.startswith(".")]
    # A trailing slash tells folders to go into from what was looked for.
    return sorted(str(path) if wanted(path) else f"{path}/" for path in shown if wanted(path) or path.is_dir())
