"""Look for secrets in the files of this checkout: `python deploy/secret_scan.py [FILE...]`.

Reads what git would commit, or the files that are named. Finds the tokens of well-known services by their shape,
private keys, addresses with passwords, and long random texts that are assigned to a name such as `api_key`. It does not
know what is in the history, and no scan finds a secret that looks like a word. A finding names file and line and never
repeats the secret. What is none takes `secret-scan: allow` into its line, with the reason.
"""

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ALLOW = "secret-scan: allow"
MAX_BYTES = 4 << 20
"""Larger files are data, not text (ours); each one is named."""
SHAPES = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{60,}",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "OpenAI or Anthropic key": r"\bsk-(?:proj-|svcacct-|ant-|or-)?[A-Za-z0-9_-]{32,}",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "Stripe key": r"\b[rs]k_live_[A-Za-z0-9]{20,}",
    "PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{15,}",
    "password in an address": r"\b[a-z][a-z0-9+]{2,}://[^\s/:@\"'{}$<>]+:[^\s/:@\"'{}$<>]{3,}@[A-Za-z0-9]",
}
"""What is found -> its shape, as the services document it."""
_SHAPES = {what: re.compile(shape) for what, shape in SHAPES.items()}
_ASSIGNED = re.compile(
    r"(?i)(?:api|access|auth|secret|private)?_?(?:key|token|secret|passw(?:or)?d|credential)s?[\"']?\s*[:=]\s*"
    r"[\"']?([A-Za-z0-9+/=_-]{20,})"
)
MIN_BITS = 3.5
"""Entropy of an assigned text's characters, bits each, from which it counts as random (ours: hexadecimal digits have
up to 4, names of identifiers about 3)."""


def entropy_bits(text: str) -> float:
    """Return the entropy of the text's characters, bits each."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what) for everything in `text` that looks like a secret."""
    for number, line in enumerate(text.splitlines(), start=1):
        if ALLOW in line:
            continue
        yield from ((number, what) for what, shape in _SHAPES.items() if shape.search(line))
        for match in _ASSIGNED.finditer(line):
            value = match[1]
            mixed = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
            if mixed and entropy_bits(value) >= MIN_BITS:
                yield number, "random text assigned to a name of secrets"


def committed() -> list[Path]:
    """Return the files that git has, or would take with `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    return [Path(name) for name in names if name]


def main() -> None:
    """Scan; exit with status 1 where there are findings."""
    files = [Path(name) for name in sys.argv[1:]] or committed()
    found, read = [], 0
    for path in files:
        if not path.is_file() or path.is_symlink():
            continue
        if path.stat().st_size > MAX_BYTES:
            print(f"secret scan: {path} is too large and was not read")
            continue
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue  # an image or another binary
        read += 1
        found += [f"{path}:{line}: {what}" for line, what in findings(content.decode("utf-8", "replace"))]
    print(f"secret scan: {read} files read")
    if found:
        fix = f"Take it out and revoke it; what is no secret takes `{ALLOW}` into its line."
        sys.exit("\n".join(["secret scan: failed", *found, fix]))


if __name__ == "__main__":
    main()
