"""The HEALTHCHECK of the images: where `ray start` was said, that node must answer; elsewhere who runs is healthy.

Ray's agent on the node answers for the raylet, and on the head for the GCS too; it asks for no token. `ray start`
writes an address file that only `ray stop` removes: with it and without a raylet the node is dead. A training run on
one machine has a Ray of its own that comes and goes; its end is the container's end, so there is nothing more to ask.
Standard library only, as it runs every few seconds. Kubernetes does not look at it.
"""

import os
import re
import sys
import urllib.request
from pathlib import Path

TIMEOUT_S = 5
ADDRESS_FILE = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray/ray_current_cluster"


def agent_ports(proc: Path) -> set[int]:
    """Return where the agents of the raylets that run here listen; their command line says so."""
    ports = set()
    for file in proc.glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if command.split("\0")[0].endswith("/raylet") and (found := re.search(r"--listen-port=(\d+)", command)):
            ports.add(int(found[1]))
    return ports


def problem(proc: Path = Path("/proc"), address_file: Path = ADDRESS_FILE) -> str | None:
    """Return what is wrong with the node in this container; None: nothing, or there is none."""
    if not address_file.exists():
        return None
    ports = agent_ports(proc)
    if not ports:
        return f"{address_file} names a cluster, but no raylet runs"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a container's http_proxy is for elsewhere
    for port in ports:
        try:
            direct.open(f"http://127.0.0.1:{port}/api/healthz", timeout=TIMEOUT_S).close()
        except OSError as error:
            return f"the node's agent on port {port}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(problem())
