#!/usr/bin/env bash
# One card or more: rollout, learner and weight sync there. Usage, on a machine with NVIDIA GPUs and this checkout:
#
#     bash benchmarks/gpu.sh                      # sets up .venv for CUDA, then about 10 minutes
#     MODEL=/path/or/hub-name bash benchmarks/gpu.sh
#
# Further arguments go to benchmarks/gpu.py, whose first lines say what is measured.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup ACCELERATOR=cuda
exec .venv/bin/python benchmarks/gpu.py ${MODEL:+--model "$MODEL"} "$@"
