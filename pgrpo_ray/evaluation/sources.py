"""Where a benchmark's records come from: local files, a folder of LiveCodeBench's files, or a set on the hub.

Owns the choice between them. A hub id is read through the `datasets` library (optional extra `hub`), which is imported
only then; the library's own cache keeps what it downloaded.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pgrpo_ray.data.records import plain_values, read_records
from pgrpo_ray.errors import DataError, EnvironmentFault
from pgrpo_ray.evaluation.benchmarks import Benchmark

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
RELEASES = ("v1", "v2", "v3", "v4", "v5", "v6")
"""Of LiveCodeBench: each adds one file to those before it."""


def read_source(
    data: Sequence[str], benchmark: Benchmark, release: str, subset: str, split: str
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (source, line from 1, record) of local files, of a folder with `release`, or of one hub id.

    Raises `DataError` when something cannot be read, `EnvironmentFault` when the `datasets` library is absent.
    """
    for entry in data:
        path = Path(entry).expanduser()
        if path.is_dir():
            for file in _of_release(path, release):
                yield from _of_file(file)
        elif path.exists() or not _may_be_hub_id(entry):
            yield from _of_file(path)
        else:
            yield from _of_hub(entry, benchmark, release, subset, split)


def _may_be_hub_id(entry: str) -> bool:
    """Tell `owner/name` from a path of which somebody mistyped a part."""
    plain = not entry.startswith((".", "/", "~")) and not entry.lower().endswith(_SUFFIXES)
    return plain and entry.count("/") == 1


def _of_file(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for line, record in read_records(path):
        yield str(path), line, record


def _files_of(release: str) -> list[str]:
    """Names of the files that make up a LiveCodeBench release."""
    count = RELEASES.index(release) + 1
    return [f"test{number if number > 1 else ''}.jsonl" for number in range(1, count + 1)]


def _of_release(folder: Path, release: str) -> list[Path]:
    if not release:
        raise DataError(
            "is a folder. Give a file of records; a folder is for LiveCodeBench's test.jsonl, test2.jsonl, ... "
            f"together with --release ({RELEASES[0]} to {RELEASES[-1]}).",
            str(folder),
        )
    files = [folder / name for name in _files_of(release)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"lacks {', '.join(missing)} of release {release}. Download them there.", str(folder))
    return files


def _of_hub(
    name: str, benchmark: Benchmark, release: str, subset: str, split: str
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    fix = (
        f"Or download the set from https://huggingface.co/datasets/{name} elsewhere and give its file to --data "
        f"({benchmark.expected})."
    )
    try:
        import datasets
    except ImportError as error:
        raise EnvironmentFault(
            f"--data {name} is no file here, so it is read from the hub, which takes the `datasets` library: "
            f"`pip install datasets`. {fix}"
        ) from error
    try:
        if benchmark.name == "livecodebench":  # its own loader is a script, which the library no longer runs
            urls = [f"hf://datasets/{name}/{file}" for file in _files_of(release or RELEASES[0])]
            rows = datasets.load_dataset("json", data_files=urls, split="train", streaming=True)
        else:
            # Another set than the benchmark's own is divided as most are.
            usual = (benchmark.hub_subset, benchmark.hub_split) if name == benchmark.hub else ("", "test")
            rows = datasets.load_dataset(name, subset or usual[0] or None, split=split or usual[1])
        for line, row in enumerate(rows, 1):
            # As of a Parquet file: the same problems then have the same hash, wherever they were read.
            yield name, line, {key: plain_values(value) for key, value in row.items() if value is not None}
    except Exception as error:  # the library raises whatever its own libraries do: network, names, formats
        if isinstance(error, DataError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"--data {name} cannot be read from the hub: {first} Check the name, the network, and --set "
            f"benchmark.split=... --set benchmark.subset=... {fix}"
        ) from error
