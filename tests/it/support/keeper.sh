# shellcheck shell=sh disable=SC1010,SC2034,SC2154  # Who starts it sets its variables.
# Keeps one private server for the test process that holds the other end of stdin.
#
# When that end closes, and the system closes it however the test process ends, the server is stopped and its folder
# removed. Until then each line on stdin is an order, answered by one line on stdout.
# $name, $bin, $stop_signal, $prepare and $serve come by the environment; the last two are commands that may use
# $bin, $folder and $port.
set -u
server=
folder=$(mktemp -d "${TMPDIR:-/tmp}/refresh-worker-tests-$name.XXXXXX") || exit 1
cd "$folder" || exit 1

stop() {
    [ -n "$server" ] || return 0
    kill -CONT "$server" 2>/dev/null
    kill -s "$stop_signal" "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    server=
}
trap 'stop; cd /; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

echo "$folder"
while read -r order port; do
    case $order in
        prepare) (eval "$prepare") >>"$folder/log" 2>&1 </dev/null ;;
        start) (eval "$serve") >>"$folder/log" 2>&1 </dev/null & server=$! ;;
        stop) stop ;;
        freeze) kill -STOP "$server" ;;
        thaw) kill -CONT "$server" ;;
        *) false ;;
    esac && echo done || echo failed
done
