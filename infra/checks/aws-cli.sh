#!/usr/bin/env bash
# Prints the folder of an AWS command line that package-lambda.sh accepts: aws-cli.sh FOLDER
#
# That is the one in PATH, if it is new enough. Otherwise Debian's package, which is the same Python on every system, is unpacked into
# FOLDER, with what it imports from PyPI: version 2 itself is not there. Exit codes are those of provide.sh.
set -euo pipefail
folder=$1 version=2.23.6-1
sum=09645cccbeece0553786ea7532d28901a9e7375d761fe5676490dbb4e7180569
here=$(cd "$(dirname "$0")" && pwd)

oldest=$(sed -n 's/^aws_oldest=//p' "$here/../../package-lambda.sh")
found=$(aws --version 2>/dev/null | sed -n 's|^aws-cli/\([0-9.]*\).*|\1|p' || true)
if aws=$(command -v aws) && [ "$(printf '%s\n' "$oldest" "${found:-0}" | sort -V | head -1)" = "$oldest" ]; then
    dirname "$aws"
    exit
fi
"$here/provide.sh" "$folder" aws-cli >&2
if [ ! -x "$folder/v2/aws" ]; then
    command -v dpkg-deb >/dev/null || exit 1
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    curl --fail --silent --location --max-time 180 --retry 2 --output "$archive" \
        "https://deb.debian.org/debian/pool/main/a/awscli/awscli_${version}_all.deb"
    echo "$sum  $archive" | sha256sum --check --quiet >&2 || exit 2
    dpkg-deb -x "$archive" "$folder/debian"
    mkdir -p "$folder/v2"
    printf '#!/bin/sh\nPYTHONWARNINGS=ignore PYTHONPATH=%s exec %s %s "$@"\n' "$folder/debian/usr/lib/python3/dist-packages" "$folder/bin/python" \
        "$folder/debian/usr/bin/aws" >"$folder/v2/aws"
    chmod +x "$folder/v2/aws"
fi
echo "$folder/v2"
