#!/usr/bin/env bash
# A Ray cluster on machines that are there: each role's nodes are started over ssh, and ended again.
#
#     cluster/ray/on-premise.sh INVENTORY up | down | status
#
# INVENTORY has a line a machine: its ssh name and its roles; the first is the head. `#` begins a comment.
#
#     head-1          driver
#     gpu-1           learner
#     gpu-2           rollout,reward
#     cpu-1           sandbox
#
# Each machine has this repository at PGRPO_HOME (default: the same folder as here) with `make setup` done, Docker where
# programs are judged, and the shared disk mounted. `down` ends all of Ray on them, so they should serve nothing else.
# Why not `ray up` with provider `local`: in Ray 2.60 it counts the head among the workers and starts one too few.
set -euo pipefail
[ $# -eq 2 ] && [ -f "$1" ] || { sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 2; }
inventory=$1 action=$2 port=${PGRPO_RAY_PORT:-6379}
home=${PGRPO_HOME:-$(cd "$(dirname "$0")/../.." && pwd)}
mapfile -t machines < <(sed 's/#.*//; /^[[:space:]]*$/d' "$inventory")
read -r head _ <<<"${machines[0]}"

on() { ssh -o BatchMode=yes "$1" "cd $home && export RAY_AUTH_MODE=token && $2"; }

# {"rollout":1,"reward":1} of rollout,reward; a driver offers nothing, and no CPU, so that no role lands there.
offers() {
    local resources= role
    for role in ${1//,/ }; do
        case $role in
            driver) ;;
            learner | rollout | reward | sandbox) resources+=${resources:+,}\"$role\":1 ;;
            *) echo "on-premise.sh: unknown role '$role' in $inventory; there are driver, learner, rollout, reward, sandbox" >&2; return 2 ;;
        esac
    done
    echo "--resources='{$resources}'$([ "$1" = driver ] && echo ' --num-cpus=0')"
}

case $action in
    up)
        for machine in "${machines[@]}"; do read -r _ roles <<<"$machine"; offers "$roles" >/dev/null; done
        token=$(on "$head" "umask 077 && .venv/bin/ray get-auth-token --generate") # made there unless it is there
        address=$(on "$head" "hostname -I | cut -d' ' -f1")
        for machine in "${machines[@]}"; do
            read -r host roles <<<"$machine"
            where="--address=$address:$port"
            if [ "$host" = "$head" ]; then where="--head --port=$port --node-ip-address=$address"; fi
            # Through standard input, as arguments can be read by everybody on the machine. A file that is there keeps
            # its mode whatever the umask is, and Ray makes it for all users to read.
            ssh -o BatchMode=yes "$host" "umask 077 && mkdir -p ~/.ray && touch ~/.ray/auth_token &&
                chmod 600 ~/.ray/auth_token && cat >~/.ray/auth_token" <<<"$token"
            echo "on-premise.sh: $host: $roles"
            on "$host" ".venv/bin/ray start $where $(offers "$roles") --disable-usage-stats" >/dev/null
        done
        on "$head" ".venv/bin/ray status"
        ;;
    down) for machine in "${machines[@]}"; do read -r host _ <<<"$machine"; on "$host" ".venv/bin/ray stop" || true; done ;;
    status) on "$head" ".venv/bin/ray status" ;;
    *) echo "on-premise.sh: up, down or status, not '$action'" >&2; exit 2 ;;
esac
