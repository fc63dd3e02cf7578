#!/usr/bin/env bash
# See that a Docker engine answers; install and start one where this user may. Quick when nothing is to do.
# Always exits 0: without Docker local runs use the process sandbox, which is weaker and says so.
# PGRPO_NO_DOCKER=1 declines.
set -euo pipefail

say() { echo "docker: $*"; }
answers() { curl --silent --fail --max-time 5 --unix-socket "$1" http://localhost/_ping >/dev/null 2>&1; }
engine() {
    if command -v docker >/dev/null; then timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
    else answers "${DOCKER_SOCKET:-/var/run/docker.sock}"; fi
}
no_engine() { say "$*"; say "until then local runs use the weaker process sandbox"; exit 0; }

# Returns 0 as soon as the engine answers, 1 after 60 s.
wait_for_engine() {
    for _ in $(seq 120); do engine && return 0; sleep 0.5; done
    return 1
}

start_engine() {
    say "starting the engine"
    if [ -d /run/systemd/system ]; then systemctl start docker && wait_for_engine && return 0; fi
    # `service` says success even where the daemon dies at once, so the answer counts, not the status.
    if [ -x /etc/init.d/docker ] && service docker start >/dev/null 2>&1; then
        for _ in $(seq 20); do engine && return 0; sleep 0.5; done
    fi
    pgrep -x dockerd >/dev/null || nohup dockerd >/var/log/dockerd.log 2>&1 </dev/null &
    wait_for_engine
}

if [ "${PGRPO_NO_DOCKER:-}" = 1 ]; then no_engine "declined by PGRPO_NO_DOCKER=1"; fi
if engine; then exit 0; fi

if [ -n "${DOCKER_HOST:-}" ]; then no_engine "DOCKER_HOST=$DOCKER_HOST does not answer; start that engine or unset it"; fi
if [ "$(id -u)" != 0 ]; then
    if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
        no_engine "this user may not use it. Fix: sudo usermod -aG docker $(id -un), then log in again"
    elif command -v dockerd >/dev/null; then
        no_engine "installed but not running. Fix: sudo systemctl start docker"
    fi
    no_engine "not installed, and installing needs root. Fix: sudo bash deploy/setup-docker.sh"
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
if start_engine; then say "the engine answers"; else no_engine "the engine did not answer within 60 s; see /var/log/dockerd.log"; fi
