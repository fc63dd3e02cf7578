"""What result files have in common: where they lie, and the commit and machine that each names."""

import os
import platform
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"


def origin() -> dict[str, str]:
    """Return commit and machine, as result files have them."""
    return {"commit": commit(), "machine": machine()}


def commit(tree: Path = REPOSITORY) -> str:
    """Return the commit of a checkout; empty where it is none."""
    return output("git", "-C", str(tree), "rev-parse", "HEAD")


def machine() -> str:
    """Return cores, architecture and kernel."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}"


def output(*command: str) -> str:
    """Return what a command prints; where it fails, what it printed before."""
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY).stdout.strip()
