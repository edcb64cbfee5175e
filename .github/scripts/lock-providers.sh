#!/usr/bin/env bash
# Writes .terraform.lock.hcl of each root configuration, with the checksums of its providers for all our platforms.
#
#   lock-providers.sh              keeps the versions that are locked
#   lock-providers.sh --upgrade    takes the newest that the configuration allows
#
# Needs tofu, since Terraform's registry is another, and reaches registry.opentofu.org.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v tofu >/dev/null || { echo "tofu is missing: https://opentofu.org/docs/intro/install/" >&2; exit 1; }
case ${1:-} in
    '') upgrade=() ;;
    --upgrade) upgrade=(-upgrade) ;;
    *) echo "Usage: lock-providers.sh [--upgrade]" >&2 && exit 2 ;;
esac
for root in infra/examples/*/ infra/github/; do
    echo "-- $root"
    tofu -chdir="$root" init -backend=false -input=false ${upgrade[@]+"${upgrade[@]}"}
    tofu -chdir="$root" providers lock -platform=linux_amd64 -platform=linux_arm64 -platform=darwin_amd64 -platform=darwin_arm64
done
