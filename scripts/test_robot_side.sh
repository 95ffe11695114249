#!/bin/sh
# Test what runs on the robot with every Python it supports that is found here: each gets a fresh
# virtual environment with NumPy, pytest and hypothesis, and nothing else.
# Usage: sh scripts/test_robot_side.sh
set -eu
cd "$(dirname "$0")/.."

versions="3.11 3.12 3.13"
pyenv=${PYENV_ROOT:-${HOME:-}/.pyenv}
rooms="core runtime trace testing"
# The tests that need no other package, and the examples in the docstrings of the rooms.
tests="tests/core tests/runtime tests/trace"
for room in $rooms; do tests="$tests src/streamvla/$room"; done

environments=$(mktemp -d)
trap 'rm -rf "$environments"' EXIT
interpreter() { # the first of version $1 that can make an environment
    for python in "python$1" "$pyenv/versions/$1".*/bin/python; do
        "$python" -c 'import ensurepip, venv' 2>/dev/null && echo "$python" && return
    done
}

tested="" absent=""
for version in $versions; do
    python=$(interpreter "$version") || {
        absent="$absent $version"
        continue
    }
    venv="$environments/$version"
    echo "robot side: Python $version"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e . pytest hypothesis
    # shellcheck disable=SC2086 # the list is meant to be split
    "$venv/bin/python" -m pytest -q -p no:cacheprovider $tests
    tested="$tested $version"
done
echo "robot side: tested with Python${tested:- none}; not found here:${absent:- none}"
[ -n "$tested" ]
