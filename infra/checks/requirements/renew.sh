#!/usr/bin/env bash
# Pins the newest versions of everything that the checks install, with the hash of each file. The packager's two are raised by hand
# in package.in, since they decide the bytes of a package.
set -euo pipefail
cd "$(dirname "$0")"
uv=$(mktemp -d)
trap 'rm -rf "$uv"' EXIT
python3 -m venv "$uv" && "$uv/bin/pip" install --quiet --disable-pip-version-check uv
for list in *.in; do
    # For every system and every Python from 3.11 on.
    "$uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade --no-header \
        "$list" --output-file "${list%.in}.txt"
done
{
    head -1 npm.txt
    tail -n +2 npm.txt | while read -r name _; do
        echo "$name $(npm view "$name" version dist.integrity --json | python3 -c 'import json, sys; print(*json.load(sys.stdin).values())')"
    done
} >"$uv/npm.txt"
cp "$uv/npm.txt" npm.txt
git diff --stat -- .
