#!/bin/sh
# Test LIBERO's tasks against LIBERO itself, in a fresh environment: the package with its meshes is
# 1 GB, so the project's own environment does without it.
# Usage: sh scripts/test_libero.sh
set -eu
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e '.[libero]' pytest hypothesis
"$environment/bin/python" -m pytest -q -p no:cacheprovider -m libero tests/robots/test_libero.py
