#!/bin/sh
# Set up a virtual environment with everything `make demo` and `make test` need.
# Usage: sh scripts/setup.sh [VENV]
set -eu
venv=${1:-.venv}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "setup: needs Python 3.11 or newer as '$python'; set PYTHON=/path/to/python3.11" >&2
    exit 1
}

# Offscreen OpenGL for the simulated cameras (either library will do), and the interpreter's venv
# module (Debian splits it). ldconfig is not on every user's PATH.
packages=""
PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep -q -e 'libEGL\.so\.1' -e 'libOSMesa\.so\.[68]' ||
    packages="libegl1 libgl1-mesa-dri libosmesa6"
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
# The tests open the report in a real browser.
command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
    packages="$packages chromium fonts-dejavu-core"
if [ -n "$packages" ]; then
    echo "setup: installing the system packages $packages"
    run=""
    [ "$(id -u)" = 0 ] || run="sudo"
    # shellcheck disable=SC2086 # the list is meant to be split
    { $run apt-get update -q && $run apt-get install -q -y --no-install-recommends $packages; } || {
        echo "setup: could not install them; run: sudo apt-get install $packages" >&2
        exit 1
    }
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e '.[all,aloha,vlm,track,camera,ray,words,dev,docs]'
