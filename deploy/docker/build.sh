#!/usr/bin/env bash
# Build the images. Usage: build.sh cpu | cuda | executor | sandbox [FILE]
#
#   cpu        pgrpo-ray:VERSION-cpu: every role of a run, without GPUs
#   cuda       pgrpo-ray:VERSION-cuda: the same with GPUs; nodes need an NVIDIA driver of 580 or newer
#   executor   pgrpo-ray:VERSION-executor: cpu, and the sandbox image as a file for nodes whose Docker engine starts empty
#   sandbox    the image in which model code runs; saved to FILE where one is named
#
# Wheels of the lock come through this machine's pip with its own configuration, index and certificates, and reach the
# build as an image: nothing of that configuration does. Upon a base that is made here the build has no network at all.
#
# Settings, by environment:
#   PYTHON   whose pip fetches the wheels; it must be of the base's version: 3.11 for Debian 12, 3.12 for Ubuntu 24.04.
#            Default .venv/bin/python. All nodes of a Ray cluster need one Python: beside the CUDA image on Ubuntu, build
#            cpu and executor with BASE=ubuntu:24.04 (by digest) and PYTHON=python3.12.
#   BASE     the image to start from. Default for cuda: NVIDIA's. Default for the others: a Debian made here from packages,
#            without a registry, by mmdebstrap; where that cannot be had, the image that the Dockerfile names.
#   WHEELS   a folder with the wheels, where they are not to be fetched
#   NAME     instead of pgrpo-ray, such as registry.example.org/team/pgrpo-ray
#   KEEP=1   keeps wheels and inner stages on the engine, 6 GB for cpu; after a change of code a build takes seconds then
#   WITH     additions to the sandbox image: cpp or libraries
set -euo pipefail
shopt -s inherit_errexit
what=${1:-} file=${2:-}
[ -z "$file" ] || file=$(realpath "$file")
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d) leftovers=()
trap 'rm -rf "$scratch"; docker rmi "${leftovers[@]}" >/dev/null 2>&1 || true' EXIT

# Of the runtime: tini reaps what Ray leaves, vLLM's CPU kernels are linked with libnuma.
packages="ca-certificates libnuma1 python3 python3-venv tini"
# Triton and torch compile launchers with a C compiler and Python's headers; NCCL finds InfiniBand by libibverbs.
[ "$what" != cuda ] || packages+=" g++ libibverbs1 python3-dev"

say() { echo "images: $*" >&2; }

# A Debian without a registry; says its tag, or nothing where there is no mmdebstrap. It is whole before it is imported,
# as half of one would keep the tag for ever. mmdebstrap copies the host's names and resolvers, which are no part of an image.
debian() {
    local tag
    tag=pgrpo-base:bookworm-$(printf %s "$packages" | sha256sum | cut -c1-8)
    if ! docker image inspect "$tag" >/dev/null 2>&1; then
        if ! command -v mmdebstrap >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing mmdebstrap with apt-get"
            { apt-get -qq update && apt-get -qq -y install --no-install-recommends mmdebstrap; } >/dev/null ||
                say "it cannot be had"
        fi
        command -v mmdebstrap >/dev/null || return 0
        say "making $tag from packages"
        # shellcheck disable=SC2016 # $1 is the new root, for mmdebstrap to fill in
        mmdebstrap --quiet --variant=minbase --include="${packages// /,}" \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
            --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' bookworm "$scratch/base.tar"
        docker import "$scratch/base.tar" "$tag" >/dev/null
        rm "$scratch/base.tar"
    fi
    echo "$tag"
}

# wheels ACCELERATOR IMAGE: make an image of what its lock names, less what only development needs.
wheels() {
    local folder=${WHEELS:-} lock=requirements/$1.lock
    if [ -z "$folder" ]; then
        if docker image inspect "$2" >/dev/null 2>&1; then return; fi
        folder=$scratch/wheels
        say "fetching the wheels of $lock"
        fetch() { "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" -r "$lock" "$@"; }
        fetch 2>"$scratch/log" || {
            grep -q 'torch==.*+cpu' "$lock" && fetch --extra-index-url https://download.pytorch.org/whl/cpu
        } 2>>"$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
        "$python" deploy/docker/prune_wheels.py "$folder" "$1" >&2
    fi
    tar -C "$folder" -c . | docker import - "$2" >/dev/null
}

# sandbox: make the sandbox image and say its tag.
sandbox() {
    "$python" -m pgrpo_ray.sandbox.image ${WITH:+--with "$WITH"} >&2
    # shellcheck disable=SC2086 # none where WITH is empty
    "$python" -c 'import sys; from pgrpo_ray.sandbox.image import image_tag; print(image_tag(sys.argv[1:]))' ${WITH:-}
}

# build ACCELERATOR TARGET TAG
build() {
    local version base=${BASE:-} network=default image wheels sandbox of=folder
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
    image=${NAME:-pgrpo-ray}:$version-$3
    if [ -z "$base" ] && [ "$1" = cuda ]; then base=nvidia/cuda:13.0.2-base-ubuntu24.04; fi
    if [ -z "$base" ]; then
        base=$(debian) # in no condition, where its failures would pass unseen
        [ -z "$base" ] || network=none # it has all packages
    fi
    # Wheels are of one Python; which one those of a folder are of, nobody asks.
    [ -n "${WHEELS:-}" ] || of=py$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    wheels=pgrpo-wheels:$1-$of-$(cat "requirements/$1.lock" pyproject.toml | sha256sum | cut -c1-8)
    # The inner stages by name, so that they can be removed: the old builder would leave them as gigabytes without one.
    [ "${KEEP:-}" = 1 ] || leftovers=("pgrpo-build:$1" "$wheels" pgrpo-sandbox-file)
    wheels "$1" "$wheels"
    local arguments=(
        --force-rm --network "$network" --file deploy/docker/Dockerfile ${base:+--build-arg "BASE=$base"}
        --build-arg "PACKAGES=$packages" --build-arg "WHEELS=$wheels"
    )
    if [ "$2" = executor ]; then
        sandbox=$(sandbox)
        docker save --output "$scratch/sandbox-image.tar" "$sandbox"
        chmod 644 "$scratch/sandbox-image.tar" # docker makes it readable for its owner only
        tar -C "$scratch" -c sandbox-image.tar | docker import - pgrpo-sandbox-file >/dev/null
        arguments+=(--build-arg SANDBOX=pgrpo-sandbox-file)
    fi
    docker build "${arguments[@]}" --target code --tag "pgrpo-build:$1" .
    docker build "${arguments[@]}" --target "$2" --tag "$image" \
        --label "org.opencontainers.image.version=$version" \
        --label "org.opencontainers.image.revision=$(git describe --always --dirty --abbrev=40 2>/dev/null)" \
        --label "org.opencontainers.image.created=$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
        ${base:+--label "org.opencontainers.image.base.name=$base"} .
    say "$image is there"
}

case $what in
    cpu | cuda) build "$what" runtime "$what" ;;
    executor) build cpu executor executor ;;
    sandbox)
        tag=$(sandbox)
        [ -z "$file" ] || docker save --output "$file" "$tag"
        say "$tag is there${file:+, and in $file}"
        ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2 && exit 2 ;;
esac
