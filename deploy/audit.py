"""What `make audit` asks of the locked dependencies.

    python deploy/audit.py

- Every requirement of a lock file is a name and one exact version from the index: no range, no address, no repository.
- Every dependency of pyproject.toml is in the lock, at a version that it allows.
- What is installed here is what the lock says, so that what is tested is what is shipped.
- No known advisory concerns a locked version, as OSV (https://osv.dev) knows them: one request for all of a lock. Where
  OSV cannot be reached this is said, and is no failure. pip-audit would ask 200 times, and behind an index that mirrors
  PyPI it calls every package unknown and the whole clean.
"""

import json
import re
import sys
import tomllib
import urllib.request
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"cpu.lock": ("cpu", "dev", "docs", "wandb"), "cuda.lock": ("cuda", "dev", "docs", "wandb")}
"""Lock file -> what of pyproject.toml's optional dependencies it holds, as deploy/lock.sh resolves them."""
OSV = "https://api.osv.dev/v1/querybatch"
TIMEOUT_S = 10
ACCEPTED: dict[str, str] = {}
"""Advisory -> why it does not concern this project."""


def read_lock(lock: Path) -> tuple[dict[str, str], list[str]]:
    """Return the versions of a lock file by name, and what is wrong with its lines."""
    versions, findings = {}, []
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)", line.strip())
        if match is None:
            findings.append(f"{lock.name}:{number}: {line.strip()!r} is no `name==version`")
        elif (name := canonicalize_name(match[1])) in versions:
            findings.append(f"{lock.name}:{number}: {name} stands twice")
        else:
            versions[name] = match[2]
    return versions, findings


def check_wanted(project: dict, lock: str, versions: dict[str, str]) -> list[str]:
    """Say which dependencies of pyproject.toml the lock lacks, or has at a version that is not allowed."""
    extras = project.get("optional-dependencies", {})
    wanted = [*project["dependencies"], *(line for extra in EXTRAS[lock] for line in extras.get(extra, ()))]
    findings = []
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name not in versions:
            findings.append(f"{lock}: {requirement} is missing. Run `make lock`")
        elif Version(versions[name]) not in requirement.specifier:
            findings.append(
                f"{lock}: {name} {versions[name]} is not {requirement} as in pyproject.toml. Run `make lock`"
            )
    return findings


def check_installed(lock: str, versions: dict[str, str]) -> list[str]:
    """Say what is installed here at another version than the lock's, or not at all."""
    findings = []
    for name, version in versions.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "not installed"
        if installed != version:
            findings.append(f"{lock}: {name} {version} is {installed} here. Run `make setup`")
    return findings


def advisories(versions: dict[str, str]) -> dict[str, list[str]] | None:
    """Return the advisories that concern these versions, by package; None where OSV does not answer."""
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version.partition("+")[0]}
        for name, version in versions.items()
    ]
    request = urllib.request.Request(
        OSV, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            results = json.load(answer)["results"]
    except (OSError, ValueError, KeyError):
        return None
    found = {}
    for name, result in zip(versions, results, strict=True):
        if ids := [one["id"] for one in result.get("vulns", []) if one["id"] not in ACCEPTED]:
            found[name] = ids
    return found


def main() -> None:
    """Check every lock file; exit with status 1 and the findings where there are any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    accelerator = Path(sys.prefix) / ".accelerator"
    here = f"{accelerator.read_text().strip()}.lock" if accelerator.is_file() else ""
    findings = []
    for lock in EXTRAS:
        versions, wrong = read_lock(ROOT / "requirements" / lock)
        findings += wrong + check_wanted(project, lock, versions)
        findings += check_installed(lock, versions) if lock == here else []
        known = advisories(versions)
        if known is None:
            print(f"audit: {lock}: {OSV} does not answer, so ADVISORIES WERE NOT LOOKED UP")
        for name, ids in (known or {}).items():
            findings.append(f"{lock}: {name} {versions[name]}: {', '.join(ids)} (https://osv.dev/{ids[0]})")
        print(f"audit: {lock}: {len(versions)} requirements read")
    if findings:
        sys.exit("\n".join(["audit: failed", *findings]))


if __name__ == "__main__":
    main()
