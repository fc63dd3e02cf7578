#!/usr/bin/env bash
# See that a Docker engine answers; install and start one where this user may. Quick when nothing is to do.
# Usage: setup-docker.sh VENV. Always exits 0: without Docker local runs use the weaker process sandbox and say so.
# PGRPO_NO_DOCKER=1 declines to install or start anything.
set -euo pipefail
venv=$1

say() { echo "docker: $*"; }
# Asks as the runs will ask, so that both mean the same engine; the docker command may well be absent.
engine() {
    "$venv/bin/python" -c 'import sys; from pgrpo_ray.sandbox.docker_runner import engine_problem; sys.exit(engine_problem() is not None)'
}
no_engine() { say "$*"; say "until then local runs use the weaker process sandbox"; exit 0; }

# Returns 0 as soon as the engine answers; 1 after $1 seconds, or as soon as process $2, if given, has ended.
wait_for_engine() {
    for _ in $(seq $((2 * $1))); do
        engine && return 0
        if [ $# -gt 1 ] && ! kill -0 "$2" 2>/dev/null; then return 1; fi
        sleep 0.5
    done
    return 1
}

start_engine() {
    say "starting the engine"
    if [ -d /run/systemd/system ] && systemctl start docker; then wait_for_engine 60 && return 0; fi
    wait_for_engine 3 && return 0 # perhaps one is starting already
    # A pid file may outlive its daemon, and its number may be another process by now; dockerd would then refuse to start.
    if [ "$(cat "/proc/$(cat /var/run/docker.pid 2>/dev/null)/comm" 2>/dev/null)" != dockerd ]; then
        rm -f /var/run/docker.pid
    fi
    nohup dockerd >/var/log/dockerd.log 2>&1 </dev/null & # ends at once where another is alive
    wait_for_engine 60 $!
}

if engine; then exit 0; fi
if [ "${PGRPO_NO_DOCKER:-}" = 1 ]; then no_engine "declined by PGRPO_NO_DOCKER=1"; fi

if [ -n "${DOCKER_HOST:-}" ]; then no_engine "DOCKER_HOST=$DOCKER_HOST does not answer; start that engine or unset it"; fi
if [ "$(id -u)" != 0 ]; then
    if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
        no_engine "this user may not use it. Fix: sudo usermod -aG docker $(id -un), then log in again"
    elif command -v dockerd >/dev/null; then
        no_engine "installed but not running. Fix: sudo systemctl start docker"
    fi
    no_engine "not installed, and installing needs root. Fix: sudo bash deploy/setup-docker.sh .venv"
fi

if ! command -v dockerd >/dev/null; then
    if ! command -v apt-get >/dev/null; then
        no_engine "not installed, and this is no Debian-like system. Fix: https://docs.docker.com/engine/install/"
    fi
    say "installing docker.io and iptables with apt-get (PGRPO_NO_DOCKER=1 declines)"
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get -qq update && apt-get -qq -y install --no-install-recommends docker.io iptables; } >/dev/null; then
        no_engine "apt-get could not install docker.io; its messages are above"
    fi
fi
if start_engine; then say "the engine answers"; else no_engine "the engine did not answer within 60 s or ended; see /var/log/dockerd.log"; fi
