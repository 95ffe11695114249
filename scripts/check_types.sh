#!/bin/sh
# How much of what the package offers states its type: at least 98 %, as pyright counts it for those
# who install it. Hence in a built package, not in the sources.
# Usage: sh scripts/check_types.sh [VENV]
set -eu
cd "$(dirname "$0")/.."

least=98
bin=$(cd "${1:-.venv}/bin" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"
cp -R pyproject.toml README.md LICENSE src "$work/source" # building leaves files behind
rm -rf "$work"/source/src/*.egg-info
"$bin/pip" install -q --disable-pip-version-check --no-deps --target "$work/installed" "$work/source"

# Before the editable installation on the interpreter's path.
report="$work/report.txt"
(cd "$work" && PYTHONPATH="$work/installed" PATH="$bin:$PATH" \
    "$bin/pyright" --verifytypes streamvla --ignoreexternal) >"$report" || true # below 100 %

score=$(sed -n 's/^Type completeness score: \([0-9.]*\)%$/\1/p' "$report")
if [ -z "$score" ] || ! grep -q "^Package directory: \"$work/installed/" "$report"; then
    cat "$report" >&2
    echo "types: pyright did not measure the package that was built" >&2
    exit 1
fi
awk -v score="$score" -v least="$least" 'BEGIN { exit !(score + 0 >= least + 0) }' || {
    grep -B 1 -A 1 -e ' - error: ' "$report" >&2 || true
    echo "types: $score % of the public symbols have a known type; expected at least $least %" >&2
    exit 1
}
echo "types: $score % of the public symbols have a known type"
