#!/usr/bin/env bash
# Runs every test, on private Redis and PostgreSQL servers that are gone afterwards.
#
#   ./test.sh                      everything
#   ./test.sh queue                what has "queue" in its name; arguments go to `cargo test`
#
# Installs what is missing with apt-get (Debian, Ubuntu) or brew (macOS), after saying so.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

has_redis() { command -v redis-server >/dev/null || [ -x /opt/homebrew/bin/redis-server ] || [ -x /usr/local/bin/redis-server ]; }

has_postgres() {
    local initdb
    command -v initdb >/dev/null && return
    for initdb in /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb {/opt/homebrew,/usr/local}/opt/postgresql*/bin/initdb \
        /Applications/Postgres.app/Contents/Versions/*/bin/initdb; do
        [ -x "$initdb" ] && return
    done
    return 1
}

has_compiler() { command -v cc >/dev/null; }

# The distribution's packages start their servers on the default ports. The tests need only the programs, so nothing is
# started now, and nothing that this script installs starts with the machine.
install_with_apt() (
    as_root='' policy=/usr/sbin/policy-rc.d log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "Missing: $*. Install it as root: apt-get install $*"
        as_root=sudo
    fi
    say "Missing: $*. Installing with: ${as_root:+sudo }apt-get install $*"
    if [ ! -e $policy ]; then
        # shellcheck disable=SC2064  # The values of now are meant.
        trap "$as_root rm -f $policy \"$log\"" EXIT
        printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
        $as_root chmod 755 $policy
    fi
    if ! { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        cat "$log" >&2
        fail "That did not work. Install it yourself: apt-get install $*"
    fi
    for service in "$@"; do
        case $service in redis-server | postgresql) $as_root systemctl disable "$service" >/dev/null 2>&1 || true ;; esac
    done
)

install_missing() {
    local missing=''
    has_redis || missing="$missing redis"
    has_postgres || missing="$missing postgresql"
    has_compiler || missing="$missing compiler"
    [ -n "$missing" ] || return 0
    if command -v apt-get >/dev/null; then
        missing=${missing/redis/redis-server}
        # shellcheck disable=SC2086  # A list of words.
        install_with_apt ${missing/compiler/build-essential}
    elif [ "$(uname)" = Darwin ]; then
        has_compiler || fail "Missing: a C compiler. Install it with: xcode-select --install"
        command -v brew >/dev/null || fail "Missing:$missing. Install Homebrew (https://brew.sh), or install these yourself."
        missing=${missing/postgresql/postgresql@17}
        say "Missing:$missing. Installing with: brew install$missing"
        # shellcheck disable=SC2086  # A list of words.
        brew install --quiet $missing
    else
        fail "Missing:$missing." "Install Redis 7 (redis-server), PostgreSQL 13 or newer (initdb, postgres) and a C compiler (cc) with" \
            "your system's packages. They need not run: the tests start servers of their own."
    fi
}

[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
command -v cargo >/dev/null || fail "Rust is missing. Install it from https://rustup.rs, then run this again."
install_missing

# All tests with failpoints, so that everything is compiled once. Libraries are shared with `cargo run`.
features="--features failpoints"
# shellcheck disable=SC2086  # A list of words.
cargo test --locked --no-run $features "$@"
[ -n "${COC_FIXTURES_DIR:-}" ] || say "COC_FIXTURES_DIR is not set: tests with recorded API responses check nothing."

# Most tests wait for a server or a deadline, so more tests than processors run side by side.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-8}"

results=$(mktemp)
trap 'rm -f "$results"' EXIT
status=0
# shellcheck disable=SC2086  # A list of words.
INSTA_UPDATE=${INSTA_UPDATE:-no} cargo test --locked --quiet --no-fail-fast $features "$@" 2>&1 | tee "$results" || status=$?
awk -v seconds="$SECONDS" '
    /^test result: / { passed += $4; failed += $6; ignored += $8 }
    END { printf "All together: %d passed, %d failed, %d ignored, in %d s.\n", passed, failed, ignored, seconds }
' "$results"
exit "$status"
