#!/usr/bin/env bash
# Builds the package as it is for arm64, runs the end-to-end tests on it, and compares the bytes of two builds for both architectures.
#
#   infra/checks/arm64.sh                everything: four builds, about 20 minutes on two free cores
#   infra/checks/arm64.sh tests          one build, and its tests
#   infra/checks/arm64.sh bytes          two builds for each architecture
#
# Needs Linux, what package-lambda.sh and test.sh need, and on another processor than arm64 an emulator: apt-get install qemu-user-static.
# Where rustup cannot fetch Rust's library for arm64, Debian's compiler and its library are used, which fit together: apt-get install
# mmdebstrap. They are unpacked into target/check-tools-arm64; nothing of them is installed. The commit is built, not the working tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$PWD/target/check-tools-arm64 what=${1:-all} target=aarch64-unknown-linux-gnu
root=$tools/root

fail() { printf '%s\n' "$@" >&2; exit 1; }
step() { printf '\n-- %s\n' "$1"; }

case $what in all | tests | bytes) ;; *) fail "Usage: infra/checks/arm64.sh [tests|bytes]" ;; esac
[ "$(uname -s)" = Linux ] || fail "This needs Linux."
own_std() { [ -d "$(rustc --print target-libdir --target $target 2>/dev/null)" ] || timeout 120 rustup target add $target >/dev/null 2>&1; }

# Unpacks Debian packages, for amd64 and arm64, without installing them.
unpack() {
    [ ! -e "$root.$1" ] || return 0
    command -v mmdebstrap >/dev/null || fail "NOT RUN: mmdebstrap is missing. To get it: apt-get install mmdebstrap"
    rm -rf "$root" "$root".*
    mkdir -p "$tools"
    # A mirror's list may have expired; its signature and the hashes of the packages are checked in any case.
    mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' --architectures="$(dpkg --print-architecture),arm64" \
        --include="$2" sid "$root" https://deb.debian.org/debian >"$tools/log" 2>&1 || { cat "$tools/log" >&2; exit 1; }
    # Their places before Debian merged them into /usr.
    for folder in lib lib64; do [ -e "$root/$folder" ] || ln -s "usr/$folder" "$root/$folder"; done
    touch "$root.$1"
}

libc=libc6:arm64,libgcc-s1:arm64
if own_std; then
    unpack libc "$libc"
else
    echo "Rust's library for arm64 cannot be fetched by rustup here: using Debian's compiler and library"
    unpack rust "rustc,libstd-rust-dev:arm64,$libc"
    mkdir -p "$tools/bin"
    libraries=$root/usr/lib/x86_64-linux-gnu
    # With its own loader, since its C library may be newer than this machine's.
    printf '#!/bin/sh\nexec %s --library-path %s %s --sysroot %s "$@"\n' "$libraries/ld-linux-x86-64.so.2" "$libraries" \
        "$root/usr/bin/rustc" "$root/usr" >"$tools/bin/rustc"
    chmod +x "$tools/bin/rustc"
    export PATH="$tools/bin:$PATH" RUSTC="$tools/bin/rustc"
fi
rustc --version

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A package of the commit, built in a folder of its own: build FOLDER ARCH; prints the zip.
build() {
    local zips=("$1"/dist/refresh-worker-*.zip) started=$SECONDS
    git clone --quiet . "$1"
    PACKAGE_TOOLS_DIR=$PWD/target/package-tools "$1/package-lambda.sh" --arch "$2" --output "$1/dist" --ca-bundle none >"$1/log" 2>&1 ||
        { cat "$1/log" >&2; exit 1; }
    zips=("$1"/dist/refresh-worker-*.zip)
    echo "$2: $(stat -c %s "${zips[0]}") bytes in $((SECONDS - started)) s, $(sed -n 's/^  glibc  */glibc /p' "$1/log")" >&2
    rm -rf "$1/target"
    echo "${zips[0]}"
}

step "The package for arm64"
zip=$(build "$work/first" arm64)

if [ "$what" != bytes ]; then
    step "Its end-to-end tests"
    python3 -m zipfile -e "$zip" "$work/unpacked"
    chmod +x "$work/unpacked/bootstrap"
    binary=$work/unpacked/bootstrap filter=() slower=()
    if [ "$(uname -m)" != aarch64 ]; then
        qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || fail "NOT RUN: the emulator is missing. To get it: apt-get install qemu-user-static"
        printf '#!/bin/sh\nexec %s -L %s %s "$@"\n' "$qemu" "$root" "$binary" >"$work/bootstrap"
        chmod +x "$work/bootstrap"
        binary=$work/bootstrap
        # Memory is the emulator's too, and one second of its time is too little for a start.
        echo "without the tests of memory, and without the deadline of one second: both measure the emulator"
        filter=(-- --skip lambda::memory:: --skip huge_and_deep_bodies_take_bounded_memory) slower=("DEADLINE_SECONDS=30,6" RUST_TEST_THREADS=4)
    fi
    # The tests themselves are for this machine, and built by its own compiler.
    env -u RUSTC PATH="${PATH#"$tools/bin:"}" E2E_BINARY="$binary" "${slower[@]}" ./test.sh lambda "${filter[@]}"
fi

if [ "$what" != tests ]; then
    step "Two builds in different folders have the same bytes"
    cmp "$zip" "$(build "$work/another folder, with a longer name" arm64)"
    cmp "$(build "$work/third" x86_64)" "$(build "$work/a fourth one" x86_64)"
    echo "the same for arm64 and x86_64"
fi
