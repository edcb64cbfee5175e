#!/usr/bin/env bash
# The steps of release.yml. They run by hand, too.
#
#   release.sh check TAG            the tag, the version in Cargo.toml and Cargo.lock, and a dated section of CHANGELOG.md agree
#   release.sh notes VERSION        prints that section
#   release.sh build TARGET FOLDER  builds the command line for TARGET, and packs it with its notices into FOLDER
#   release.sh image FOLDER INTO    unpacks the Linux archives of FOLDER as the context of Dockerfile
#   release.sh existing IMAGE COMMIT  prints the digest of a published image, or nothing; fails if it is of another commit
#   release.sh sums FOLDER          writes FOLDER/SHA256SUMS of everything in it
#
# TARGET is one of Rust's: x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu, x86_64-apple-darwin, aarch64-apple-darwin.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/../.."
scripts=.github/scripts

# Binaries for Linux run with this glibc and newer ones: Debian 10, Ubuntu 18.10, Enterprise Linux 8, Amazon Linux 2023.
glibc=2.28

fail() { printf '%s\n' "$@" >&2; exit 1; }
usage() { sed -n '4,9s/^# *//p' "$scripts/release.sh" >&2; exit 2; }
of_caller() { case $1 in /*) echo "$1" ;; *) echo "$caller/$1" ;; esac; }
version() { sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml; }

# The lines below `## [VERSION]` up to the next section.
section() {
    awk -v version="$1" '
        /^## / { inside = index($0, "## [" version "]") == 1; next }
        /^\[[^]]*\]: / { next } # The link of a version.
        inside { print }
    ' CHANGELOG.md | sed -e '/./,$!d'
}

check() {
    local tag=$1 wanted heading
    wanted=$(version)
    [[ "$tag" =~ ^v[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "The tag is \`$tag\`: use v and three numbers, as in v$wanted."
    [ "$tag" = "v$wanted" ] || fail "The tag is $tag, but the version in Cargo.toml is $wanted. Fix: change one of them."
    [ "$(grep -A1 '^name = "coc-refresh-worker"' Cargo.lock | tail -1)" = "version = \"$wanted\"" ] ||
        fail "Cargo.lock has another version than $wanted. Fix: cargo check, and commit Cargo.lock."
    heading=$(grep -F "## [$wanted]" CHANGELOG.md || true)
    [[ "$heading" =~ ^"## [$wanted] - "[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] ||
        fail "CHANGELOG.md has no dated section of $wanted. Fix: rename \`## [Unreleased]\` to \`## [$wanted] - $(date +%F)\`."
    [ -n "$(section "$wanted")" ] || fail "The section of $wanted in CHANGELOG.md is empty. Fix: say what changed."
    echo "$tag: Cargo.toml, Cargo.lock and CHANGELOG.md agree"
}

notes() {
    local text
    text=$(section "$1")
    [ -n "$text" ] || fail "CHANGELOG.md has no section of $1, or it is empty."
    printf '%s\n' "$text"
}

# zig links against an older glibc than this machine's. The same versions as for the Lambda package.
provide_zig() {
    local wanted=infra/checks/requirements/package.txt
    tools=${PACKAGE_TOOLS_DIR:-$PWD/target/release-tools}
    cmp -s "$wanted" "$tools/requirements.txt" && return
    echo "Installing cargo-zigbuild and zig from PyPI into $tools"
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$wanted"
    cp "$wanted" "$tools/requirements.txt"
}

compile() {
    local flags=(--locked --profile lambda --bin refresh-worker)
    case $1 in
        *-linux-gnu)
            provide_zig
            PATH="$tools/bin:$PATH" CARGO_ZIGBUILD_PYTHON_PATH="$tools/bin/python" cargo zigbuild "${flags[@]}" --target "$1.$glibc"
            ;;
        *-apple-darwin) MACOSX_DEPLOYMENT_TARGET=11.0 cargo build "${flags[@]}" --target "$1" ;;
        *) fail "The target is \`$1\`." "$(usage 2>&1)" ;;
    esac
}

check_binary() {
    local floor
    ! grep -aq FAILPOINT "$1" || fail "The binary was built with the feature failpoints, which is for tests only."
    case $2 in
        *-linux-gnu)
            floor=$(grep -aoE 'GLIBC_2\.[0-9]+' "$1" | sort -uV | tail -1 | cut -d_ -f2)
            [ "$(printf '%s\n' "$floor" "$glibc" | sort -V | tail -1)" = "$glibc" ] || fail "The binary needs glibc $floor, not $glibc."
            ;;
    esac
    # Only where it runs.
    [ "$(rustc -vV | sed -n 's/^host: //p')" != "$2" ] ||
        [ "$("$1" --version | awk '{ print $2 }')" = "$(version)" ] || fail "The binary says that it is $("$1" --version)."
}

build() {
    local target=$1 into name binary folder
    into=$(of_caller "$2")
    name=refresh-worker-$(version)-$target
    binary=${CARGO_TARGET_DIR:-target}/$target/lambda/refresh-worker
    compile "$target"
    check_binary "$binary" "$target"
    folder=$(mktemp -d)
    # shellcheck disable=SC2064  # The value of now is meant.
    trap "rm -rf '$folder'" EXIT
    mkdir -p "$into" "$folder/$name"
    cp "$binary" LICENSE README.md CHANGELOG.md "$folder/$name"
    python3 "$scripts/third_party.py" notices --target "$target" >"$folder/$name/THIRD-PARTY-NOTICES.txt"
    python3 "$scripts/third_party.py" sbom --target "$target" >"$into/$name.cdx.json"
    pack "$folder" "$name" "$into/$name.tar.gz"
    echo "$into/$name.tar.gz: $(wc -c <"$into/$name.tar.gz") bytes"
}

# Order, times and owners are fixed, so that the same files give the same archive.
pack() {
    python3 - "$1" "$2" "$3" "$(git log -1 --format=%ct)" <<'PYTHON'
import gzip, pathlib, sys, tarfile
root, name, target, time = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

def fixed(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = time
    entry.mode = 0o755 if entry.isdir() or entry.name.endswith("/refresh-worker") else 0o644
    return entry

with open(target, "wb") as file, gzip.GzipFile("", "wb", 9, file, time) as packed:
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in [root / name, *sorted((root / name).iterdir())]:
            archive.add(path, str(path.relative_to(root)), recursive=False, filter=fixed)
PYTHON
}

image() {
    local from into pair archive found=''
    from=$(of_caller "$1") into=$(of_caller "$2")
    for pair in amd64:x86_64 arm64:aarch64; do
        archive=$from/refresh-worker-$(version)-${pair#*:}-unknown-linux-gnu.tar.gz
        # One is enough for an image of one architecture.
        [ -f "$archive" ] || { echo "left out: there is no $archive" >&2; continue; }
        found=yes
        mkdir -p "$into/${pair%:*}"
        tar -xzf "$archive" -C "$into/${pair%:*}" --strip-components=1
    done
    [ -n "$found" ] || fail "There is no Linux archive of version $(version) in $from. Fix: release.sh build TARGET $1"
}

existing() {
    local found revision
    if ! found=$(docker buildx imagetools inspect --format '{{json .}}' "$1" 2>&1); then
        # ghcr.io denies access to a package that does not exist.
        grep -qiE 'not found|manifest unknown|name unknown|denied|403' <<<"$found" || fail "Whether $1 exists cannot be seen: $found"
        return 0
    fi
    revision=$(jq -r '[.. | objects | .["org.opencontainers.image.revision"] // empty] | unique | join(", ")' <<<"$found")
    [ "$revision" = "$2" ] || fail "$1 exists, of the commit ${revision:-unknown}. What is public is never replaced: take the next version."
    jq -er '(.manifest // .Manifest).digest' <<<"$found"
}

sums() {
    local sums
    cd "$(of_caller "$1")"
    # Only names, so that whoever has the files can check them with sha256sum --check.
    rm -f SHA256SUMS
    sums=$(find . -maxdepth 1 -type f | sed 's|^\./||' | LC_ALL=C sort | xargs sha256sum)
    printf '%s\n' "$sums" >SHA256SUMS
    cat SHA256SUMS
}

case ${1:-}:$# in
    check:2 | notes:2 | build:3 | image:3 | existing:3 | sums:2) "$@" ;;
    *) usage ;;
esac
