#!/usr/bin/env bash
# Build and try a release. Usage: deploy/release.sh [--dry-run] [--with-lock]
#
# What is committed is built into dist/, and its wheel is used as a user would: in an environment of its own, from a
# folder outside of the repository, up to a training run of two steps. Nothing is published.
#   --dry-run    for a checkout between releases: an unclean tree and a changelog without a date are only said
#   --with-lock  install requirements/cpu.lock anew (needs an index, minutes), in place of .venv's libraries, which
#                `make audit` has found to be those of the lock
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD python=$PWD/.venv/bin/python dry= lock=
for option in "$@"; do
    case $option in
        --dry-run) dry=1 ;;
        --with-lock) lock=1 ;;
        *) echo "usage: deploy/release.sh [--dry-run] [--with-lock]" >&2; exit 2 ;;
    esac
done
refuse() { echo "release: $1" >&2; [ -n "$dry" ] || exit 1; }

[ -z "$(git status --porcelain)" ] || refuse "the tree is not clean: commit or stash first; what is committed is built"
differ=$("$python" deploy/release_check.py versions 2>&1) || refuse "$differ"

scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/source" "$scratch/elsewhere"
git archive HEAD | tar -x -C "$scratch/source"
"$python" -m build --no-isolation --outdir "$scratch/dist" "$scratch/source" >"$scratch/build.log" 2>&1 ||
    { cat "$scratch/build.log" >&2; exit 1; }
"$python" deploy/release_check.py archives "$scratch/dist"
(cd "$scratch/source" && find . -type f -print0 | xargs -0 "$python" "$root/deploy/secret_scan.py")

"$python" -m venv "$scratch/venv"
try=$scratch/venv/bin
if [ -n "$lock" ]; then
    "$try/python" -m pip install --quiet --no-deps -r requirements/cpu.lock
else
    # A path in a .pth: its libraries are found, while an editable install in it is not, as that has a .pth of its own.
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$try/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/libraries.pth"
fi
# Not --force-reinstall, which would take the editable install out of .venv, whose libraries these are.
"$try/python" -m pip install --quiet --no-deps --no-index --ignore-installed "$scratch"/dist/*.whl
cd "$scratch/elsewhere"
unset PYTHONPATH
case $("$try/python" -c 'import pgrpo_ray; print(pgrpo_ray.__file__)') in
    "$scratch"/venv/*) ;;
    *) echo "release: the wheel is not what is imported" >&2; exit 1 ;;
esac
"$try/pgrpo" --help >/dev/null
"$try/pgrpo" doctor
"$try/pgrpo" config local >my.yaml
# A starter of the smallest size: its training is tried by `make test`.
tiny=(sft_steps=60 reward_model_steps=10 train_problems=200 heldout_problems=64)
"$try/pgrpo" train my.yaml --set run.name=release --set run.steps=2 --set data.heldout_problems=16 \
    "${tiny[@]/#/--set=starter.}"
test -s runs/release/metrics.jsonl

mkdir -p "$root/dist" && rm -f "$root"/dist/pgrpo_ray-* && cp "$scratch"/dist/* "$root/dist/"
echo "built and tried:" && ls "$root/dist"
[ -n "$dry" ] || echo "next: git tag v$("$try/python" -c 'import pgrpo_ray; print(pgrpo_ray.__version__)'), push the tag, upload dist/"
