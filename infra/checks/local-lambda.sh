#!/usr/bin/env bash
# Runs the very commands of README.md ("Connect it to real servers"), docs/events.md and DEPLOYMENT.md ("By hand": the worker as a
# Lambda function on this machine) on private servers and the simulated API, and looks whether the work was done.
#
# Needs Rust, redis-server and PostgreSQL (./test.sh installs the two), and python3 with venv. cargo-lambda comes from PyPI into
# target/check-tools-lambda. Exit codes: 0 it works, 1 it does not, 3 something is missing here, and the last line says what.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$PWD/target/check-tools-lambda

missing() { printf 'NOT RUN: the worker in a local Lambda. To get it: %s\n' "$1"; exit 3; }
fail() { printf '%s\n' "$@" >&2; [ ! -s "$work/watch" ] || tail -20 "$work/watch" >&2; exit 1; }

# The lines of a document's shell blocks that begin with a word, without comments.
shell_lines() { awk '/^```/ { inside = /^```sh/ } inside { sub(/ +# .*/, ""); print }' "$1"; }
commands() { shell_lines README.md | awk '/^refresh-worker / { print }'; }
consumer() { shell_lines docs/events.md | awk '/^redis-cli / { print }'; }
# `watch`, which goes on, then `invoke`.
lines=$(shell_lines DEPLOYMENT.md | awk '/^cargo lambda / { print }')
[ "$(grep -c . <<<"$lines")" = 2 ] || { printf 'DEPLOYMENT.md should have two lines with cargo lambda:\n%s\n' "$lines" >&2; exit 1; }
watch=$(head -1 <<<"$lines") invoke=$(tail -1 <<<"$lines")
port=$(grep -oE -- '-P [0-9]+' <<<"$watch" | cut -d' ' -f2)

[ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
command -v cargo >/dev/null || missing "https://rustup.rs"
command -v redis-server >/dev/null || missing "apt-get install redis-server, or ./test.sh"
initdb=$(command -v initdb || find /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin -name initdb 2>/dev/null | sort -V | tail -1)
[ -n "$initdb" ] || missing "apt-get install postgresql, or ./test.sh"
postgres=$(dirname "$initdb")
status=0
infra/checks/provide.sh "$tools" lambda >&2 || status=$?
# 2: a file has another hash than the list, which is a failure and no lack.
[ "$status" != 2 ] || exit 1
[ "$status" = 0 ] || missing "apt-get install python3-venv, and reach pypi.org"

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
! is_open "$port" || missing "port $port must be free: DEPLOYMENT.md uses it"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
wait_for() { for _ in $(seq "$2"); do ! is_open "$1" || return 0; sleep 0.2; done; fail "nothing listens on port $1"; }

work=$(mktemp -d)
chmod 755 "$work"
# PostgreSQL refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
    install -d -o postgres "$work/postgres"
else
    as_postgres() { "$@"; }
    mkdir "$work/postgres"
fi
started=()
finish() {
    for process in "${started[@]}"; do kill -- "$process" 2>/dev/null || true; done
    as_postgres "$postgres/pg_ctl" -D "$work/postgres/data" -m immediate stop >/dev/null 2>&1 || true
    # What watch has started ends with it, and may be writing still.
    wait
    rm -rf "$work"
}
trap finish EXIT

redis_port=$(free_port) postgres_port=$(free_port)
redis-server --port "$redis_port" --save '' --dir "$work" >"$work/redis" 2>&1 &
started+=($!)
as_postgres "$postgres/initdb" --no-sync --auth=trust --username=worker --encoding=UTF8 -D "$work/postgres/data" >"$work/initdb" 2>&1 ||
    fail "$(cat "$work/initdb")"
as_postgres "$postgres/pg_ctl" -D "$work/postgres/data" -l "$work/postgres/log" \
    -o "-h 127.0.0.1 -p $postgres_port -c unix_socket_directories='' -c fsync=off" start >/dev/null || fail "$(cat "$work/postgres/log")"
wait_for "$redis_port" 50

export REDIS_URL=redis://127.0.0.1:$redis_port DATABASE_URL=postgresql://worker@127.0.0.1:$postgres_port/postgres
cargo build --locked --quiet
worker=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug/refresh-worker
"$worker" sim --listen 127.0.0.1:0 >"$work/sim" 2>&1 &
started+=($!)
for _ in $(seq 50); do ! grep -q enqueue "$work/sim" || break; sleep 0.2; done
# What sim prints: how to point the worker at it, and a request of an object that exists.
eval "$(grep -oE 'export COC_[A-Z_]+=.*' "$work/sim")"
enqueue=$(grep -oE 'refresh-worker enqueue .*' "$work/sim") || fail "sim does not say what to request:" "$(cat "$work/sim")"
PATH="$(dirname "$worker"):$tools/bin:$PATH"

[ "$(commands | wc -l)" -ge 4 ] || fail "README.md has no commands for real servers"
# Before the tables are there, check says so, and that `migrate` makes them; after all it must have nothing to say.
while read -r command; do
    bash -c "$command" </dev/null >"$work/command" 2>&1 ||
        { [ "$command" = "refresh-worker check" ] && [ "$(grep -c -- '->' "$work/command")" = "$(grep -c -- '-> refresh-worker migrate' "$work/command")" ]; } ||
        fail "README.md: \`$command\` failed:" "$(cat "$work/command")"
done < <(commands)
refresh-worker check >"$work/command" 2>&1 || fail "after the commands of README.md, check fails:" "$(cat "$work/command")"
echo "$(commands | wc -l) commands of README.md work"

redis-cli() { command redis-cli -p "${REDIS_URL##*:}" "$@"; }
export -f redis-cli
while read -r command; do
    answer=$(bash -c "$command" </dev/null 2>&1) && [[ "$answer" != *ERR* ]] || fail "docs/events.md: \`$command\` failed: $answer"
done < <(consumer)
echo "$(consumer | wc -l) commands of docs/events.md work"

bash -c "$enqueue"

set -m # A group of its own: watch starts cargo, and cargo the worker.
bash -c "$watch" >"$work/watch" 2>&1 &
started+=("-$!")
set +m
wait_for "$port" 100
report=$(timeout 540 bash -c "$invoke" 2>&1) || fail "invoke failed:" "$report"
echo "$report" | tail -1 | cut -c1-400
done_requests=$(grep -oE '"processed_requests": ?[0-9]+' <<<"$report" | grep -oE '[0-9]+$' || true)
[ "${done_requests:-0}" -gt 0 ] || fail "the run processed no request, although some were queued: $report"
echo "$done_requests requests processed by the two lines of DEPLOYMENT.md"
