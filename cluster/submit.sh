#!/usr/bin/env bash
# Train on a Ray cluster that is up: `ray job submit` with this repository's code, its logs here, its exit status ours.
#
#     cluster/submit.sh CONFIG [options of ray job submit] [-- options of pgrpo train]
#     cluster/submit.sh cluster/qwen2.5-coder-7b-8gpu.yaml --address http://head:8265 -- --set run.dir=/shared/runs
#     cluster/submit.sh cluster/local.yaml -- --set run.dir=/shared/runs --resume-if-any
#
# The same as, in the repository's folder:
#
#     ray job submit --runtime-env cluster/ray/runtime-env.yaml -- \
#         python -m pgrpo_ray train CONFIG --set cluster.address=auto --set run.dir=/shared/runs
#
# run.dir, models and problems must lie where all nodes see them. Without --address Ray takes RAY_API_SERVER_ADDRESS,
# else this machine. Ctrl-C ends the watching, not the job: `ray job logs --follow ID`, `ray job stop ID`.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 2; }
[ $# -gt 0 ] && [ "${1#-}" = "$1" ] || usage
config=$1 && shift
repository=$(cd "$(dirname "$0")/.." && pwd)
case $config in /*) ;; *) [ -f "$repository/$config" ] || config=$(realpath "$config") ;; esac
[ -f "$config" ] || [ -f "$repository/$config" ] || { echo "submit.sh: no such config: $config" >&2; exit 2; }
config=${config#"$repository/"} # as the nodes see it
case $config in /*) echo "submit.sh: $config is not in $repository, so no node would have it; put it there" >&2; exit 2 ;; esac

submit=() train=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do submit+=("$1") && shift; done
[ $# -eq 0 ] || { shift && train=("$@"); }

# Ray's job commands do not look for a token by themselves.
if [ -z "${RAY_AUTH_MODE:-}" ] && { [ -n "${RAY_AUTH_TOKEN:-}" ] || [ -f "$HOME/.ray/auth_token" ]; }; then
    export RAY_AUTH_MODE=token
fi
cd "$repository"
[ -x .venv/bin/ray ] && PATH=$PWD/.venv/bin:$PATH
id=${PGRPO_JOB_ID:-pgrpo-$(date +%Y%m%d-%H%M%S)-$$}
echo "submit.sh: job $id"
if ray job submit --submission-id "$id" --runtime-env cluster/ray/runtime-env.yaml "${submit[@]}" -- \
    python -m pgrpo_ray train "$config" --set cluster.address=auto "${train[@]}"; then
    exit 0
fi
# Ray's status is 1 whatever the job's was.
address='' previous=''
for argument in "${submit[@]}"; do
    case $argument in --address=*) address=${argument#*=} ;; esac
    if [ "$previous" = --address ]; then address=$argument; fi
    previous=$argument
done
exec python - "$id" "$address" <<'PYTHON'
import sys
from ray.job_submission import JobSubmissionClient
try:
    status = JobSubmissionClient(sys.argv[2] or None).get_job_info(sys.argv[1]).driver_exit_code
except Exception:  # the cluster is gone, or never was: Ray has said so above
    status = None
sys.exit(1 if status is None else status)
PYTHON
