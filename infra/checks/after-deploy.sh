#!/usr/bin/env bash
# Checks a deployment after an apply: it is healthy, a run does its work, no alarm has gone on.
#
#   after-deploy.sh FOLDER_OF_THE_ROOT_CONFIGURATION [BEGAN]
#
# BEGAN is when the apply began (date -u +%Y-%m-%dT%H:%M:%S): alarms that were on before it are printed and do not count.
# Exit codes: 0 it works; 1 it does not; 3 it is healthy, but no run could show that it works, and the last line says why.
#
# Needs tofu (or terraform), the AWS command line (version 2), curl and jq.
set -euo pipefail
root=${1:?the folder of the root configuration} began=${2:-$(date -u +%Y-%m-%dT%H:%M:%S)}
pause=${AFTER_DEPLOY_PAUSE:-10} timeout=${AFTER_DEPLOY_TIMEOUT:-300} # Seconds.
tool=$(command -v tofu || command -v terraform) || { echo "tofu is missing" >&2; exit 1; }
response=$(mktemp)
trap 'rm -f "$response"' EXIT

output() { "$tool" -chdir="$root" output -raw "$1"; }

health() {
    local url status
    url=$(output health_url)
    for attempt in 1 2 3 4 5 6; do
        status=$(curl --silent --show-error --max-time 30 --output "$response" --write-out '%{http_code}' "$url" || true)
        [ "$status" = 200 ] && { echo "healthy: $(jq -c '{status, queue_size, timestamp}' "$response")"; return; }
        echo "GET $url: $status, attempt $attempt of 6"
        sleep "$pause"
    done
    cat "$response"
    return 1
}

# Sets stopped_because. An invocation that was throttled has none.
run_once() {
    local error
    stopped_because=none
    error=$(aws lambda invoke --function-name "$name" --qualifier live --cli-binary-format raw-in-base64-out --cli-read-timeout 60 \
        --payload '{"source": "deploy", "options": {"max_runtime": 20}}' --query FunctionError --output text "$response") || return 0
    [ "$error" = None ] || { echo "a run ended with an error: $(cat "$response")" >&2; return 1; }
    stopped_because=$(jq -r .stopped_because "$response")
}

# Runs until one has done its work: a run that finds every key in use has shown nothing.
runs() {
    local end=$((SECONDS + timeout))
    while true; do
        run_once || return 1
        case $stopped_because in
            queue_empty | deadline | max_requests)
                echo "a run ended well: $(jq -c '{stopped_because, processed_requests, failed_requests, queue}' "$response" | cut -c1-400)"
                return
                ;;
            maintenance | keys_cooling_down | refresh_paused | daily_quota) break ;;
            already_running | shutdown) [ $SECONDS -lt $end ] || break ;;
            none) [ $SECONDS -lt $end ] || { echo "the function $name cannot be invoked" >&2 && return 1; } ;;
            *) echo "a run ended for an unknown reason: $(cat "$response")" >&2 && return 1 ;;
        esac
        sleep "$((pause / 2))"
    done
    untested=$stopped_because
}

alarms() {
    local on new
    aws cloudwatch describe-alarms --alarm-types MetricAlarm CompositeAlarm --alarm-name-prefix "${name%refresh}" \
        --state-value ALARM --output json >"$response"
    on=$(jq -r '[(.MetricAlarms + .CompositeAlarms)[].AlarmName] | join(" ")' "$response")
    # With the schedule off, no-invocations is on without its actions.
    new=$(jq -r --arg began "$began" '[(.MetricAlarms + .CompositeAlarms)[]
        | select(.ActionsEnabled and .StateTransitionedTimestamp[:19] >= $began[:19]).AlarmName] | join(" ")' "$response")
    [ -z "$on" ] || echo "alarms that are on (docs/operating.md says what to do): $on"
    [ -z "$new" ] || { echo "alarms that went on after $began: $new" >&2; return 1; }
}

name=$(output refresh_function_name) untested=''
health
runs
alarms
if [ -n "$untested" ]; then
    echo "NOT SHOWN that runs work: the last one ended with $untested" >&2
    exit 3
fi
