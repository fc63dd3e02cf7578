"""Which version of a reward model a folder holds: a hash over the files that decide scores.

Two servers with equal versions give equal scores up to the arithmetic of backend and device. Standard library only, so
that the driver can know the version without loading torch.
"""

import functools
import hashlib
from pathlib import Path

_DECIDING = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.safetensors")
"""Files of a model folder that can change a score."""


def folder_version(folder: Path) -> str:
    """Return `sha256:` and 16 hex digits over names and bytes of all files that can change a score."""
    files = sorted({path for pattern in _DECIDING for path in folder.glob(pattern) if path.is_file()})
    whole = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest = _digest(path.resolve(), status.st_size, status.st_mtime_ns)
        whole.update(f"{path.name}\0{digest}\n".encode())
    return f"sha256:{whole.hexdigest()[:16]}"


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Hash one file; size and time are there to make the remembered answer stale when the file changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
