#!/usr/bin/env bash
# Resolve both lock files from pyproject.toml. Usage: lock.sh VENV
set -euo pipefail
venv=$1
"$venv/bin/python" -m pip install --quiet uv
compile() { "$venv/bin/uv" pip compile pyproject.toml --quiet --no-header --no-annotate --python-version 3.11 --extra dev --extra docs --extra wandb "$@"; }
compile_cpu() { compile --extra cpu --override requirements/cpu-overrides.txt -o requirements/cpu.lock "$@"; }

# uv does not read pip's configuration, so hand over where pip finds wheels: the CPU build of torch is not on PyPI.
find_links=$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)
UV_FIND_LINKS=${PIP_FIND_LINKS:-$find_links} compile_cpu 2>/dev/null ||
    compile_cpu --extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match \
        --no-emit-index-url
# Without those wheels here, or the CPU build would win over the CUDA one of the same version.
compile --extra cuda -o requirements/cuda.lock
