#!/usr/bin/env bash
# Installs one of the lists in requirements/ from PyPI into a folder, unless it is there: provide.sh FOLDER LIST
# Every file must have the hash that the list has. requirements/renew.sh makes the lists.
# Exit codes: 1 it cannot be installed here; 2 a file has another hash, which nobody should pass over.
set -euo pipefail
folder=$1 list=$(dirname "$0")/requirements/$2.txt
command -v python3 >/dev/null || exit 1
wanted=$(cat "$list")
[ "$(cat "$folder/requirements" 2>/dev/null)" != "$wanted" ] || exit 0
echo "Installing from PyPI into ${folder#"$PWD/"}: $(grep -v '^#' "${list%.txt}.in" | tr '\n' ' ')"
rm -rf "$folder"
python3 -m venv "$folder"
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
if ! "$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$list" 2>"$errors"; then
    cat "$errors" >&2
    ! grep -q 'DO NOT MATCH THE HASHES' "$errors" || exit 2
    exit 1
fi
printf '%s' "$wanted" >"$folder/requirements"
