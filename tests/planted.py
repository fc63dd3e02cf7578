"""Secrets in the environment of a test, and where they have got to."""

import secrets
import shutil
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

VARIABLES = (
    *("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"),
    *("JUDGE_API_KEY", "PGRPO_REWARD_TOKEN"),
)


def plant(monkeypatch) -> str:
    """Set every variable that holds a secret to a fresh marker; return it."""
    marker = f"planted-{secrets.token_hex(16)}"
    for name in VARIABLES:
        monkeypatch.setenv(name, marker)
    return marker


def holding(folder: Path, marker: str) -> list[Path]:
    """Return the files below `folder` that hold `marker`, in their bytes or in a compressed table."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and marker.encode() in _content(path)]


def _content(path: Path) -> bytes:
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
    elif path.suffix == ".arrow":
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    else:
        return path.read_bytes()
    return repr((table.schema, table.to_pylist())).encode() + repr(table.schema.metadata).encode()


def check_detector(folder: Path, marker: str) -> None:
    """Prove that `holding` would have found it in a file as those of `folder`: in a text, in a table's cell or head."""
    within = folder / "detector"
    within.mkdir()
    (within / "a.json").write_text(f'{{"key": "{marker}"}}')
    parquet.write_table(pa.table({"a": [marker]}), within / "b.parquet", compression="zstd")
    headed = pa.table({"a": [1]}).replace_schema_metadata({"config": marker})
    with pa.ipc.new_file(within / "c.arrow", headed.schema) as file:
        file.write_table(headed)
    assert len(holding(within, marker)) == 3
    shutil.rmtree(within)


def search(marker: str, paths: list[Path]) -> str:
    """A program that prints `found` where it reads `marker` in an environment, a command line or one of `paths`."""
    half = len(marker) // 2
    return _SEARCH.format(first=marker[:half], second=marker[half:], paths=[str(path) for path in paths])


_SEARCH = """
import glob, os
seen = [repr(dict(os.environ))]
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline') + {paths!r}:
    try:
        with open(path, errors='replace') as file:
            seen.append(file.read())
    except OSError:
        pass
print('found' if any({first!r} + {second!r} in text for text in seen) else 'nothing')
"""
