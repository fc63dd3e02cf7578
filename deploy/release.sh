#!/usr/bin/env bash
# Build what is published and prove it. Usage: release.sh VENV [two-step run: 1]
# Checks that pyproject, package and CHANGELOG name one version and that the tree is clean; builds wheel and sdist from
# what git knows; looks into both; installs the wheel into a clean environment (with VENV's libraries below it, which are
# the lock's) and runs the command from there, outside of this checkout. With a second argument it also trains two steps.
# Uploads nothing: the last line says how.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/$1
version=$("$venv/bin/python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
fail() { echo "release: $1" >&2; exit 1; }

grep -q "^__version__ = \"$version\"$" pgrpo_ray/__init__.py || fail "pgrpo_ray/__init__.py is of another version than $version"
grep -q "^## $version\b" CHANGELOG.md || fail "CHANGELOG.md has no section $version"
[ -z "$(git status --porcelain)" ] || fail "there are uncommitted changes"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git archive HEAD | tar -x -C "$scratch" --one-top-level=source
"$venv/bin/python" -m build --no-isolation --outdir dist "$scratch/source" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
wheel=dist/pgrpo_ray-$version-py3-none-any.whl
"$venv/bin/python" deploy/check_wheel.py "$wheel" "dist/pgrpo_ray-$version.tar.gz"

"$venv/bin/python" -m venv --without-pip "$scratch/clean"
site=$("$scratch/clean/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" -m pip install --quiet --no-deps --no-compile --target "$site" "$wheel"
# The libraries of the lock, but not this checkout: an editable installation adds itself by a .pth file, which is not
# read from a path that another .pth file names.
"$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/libraries.pth"
cp -r cluster "$scratch/cluster"
cd "$scratch"
run() { "$scratch/clean/bin/python" -m pgrpo_ray "$@"; }
[ "$("$scratch/clean/bin/python" -c 'import pgrpo_ray; print(pgrpo_ray.__file__)')" = "$site/pgrpo_ray/__init__.py" ] || fail "the wheel is not what was imported"
run --version
run doctor >doctor.txt || { cat doctor.txt; fail "pgrpo doctor finds this machine wanting"; }
run check cluster/local.yaml >check.txt || { cat check.txt; fail "pgrpo check refuses cluster/local.yaml"; }
[ $# -lt 2 ] || run train cluster/local.yaml --set run.steps=2 --set starter.sft_steps=60 \
    --set starter.reward_model_steps=10 --set starter.train_problems=200 --set starter.heldout_problems=64 \
    --set data.heldout_problems=16 --set rollout.prompts_per_step=12
echo "release: dist/ holds $version, as it is in $(git -C "$OLDPWD" rev-parse --short HEAD). Tag it, then: python -m twine upload dist/pgrpo_ray-$version*"
