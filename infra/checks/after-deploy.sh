#!/usr/bin/env bash
# After an apply: is it healthy, does a run end well, is any alarm on?   after-deploy.sh FOLDER_OF_THE_ROOT_CONFIGURATION
#
# Needs tofu (or terraform), the AWS command line, curl and jq.
set -euo pipefail
root=${1:?the folder of the root configuration}
tool=$(command -v tofu || command -v terraform) || { echo "tofu is missing" >&2; exit 1; }
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

output() { "$tool" -chdir="$root" output -raw "$1"; }

health() {
    local url status
    url=$(output health_url)
    for attempt in 1 2 3 4 5 6; do
        status=$(curl --silent --show-error --max-time 30 --output "$answer" --write-out '%{http_code}' "$url" || true)
        [ "$status" = 200 ] && { echo "healthy: $(jq -c '{status, queue_size, timestamp}' "$answer")"; return; }
        echo "GET $url: $status, attempt $attempt of 6"
        sleep 10
    done
    cat "$answer"
    return 1
}

run_once() {
    local name
    name=$(output refresh_function_name)
    aws lambda invoke --function-name "$name" --qualifier live --cli-binary-format raw-in-base64-out --cli-read-timeout 60 \
        --payload '{"source": "deploy", "options": {"max_runtime": 20}}' --query FunctionError --output text "$answer" | tee /dev/stderr |
        grep -q '^None$' || { echo "a run ended with an error: $(cat "$answer")" >&2; return 1; }
    echo "a run ended well: $(jq -c '{stopped_because, processed_requests, failed_requests, queue}' "$answer" | cut -c1-400)"
}

alarms() {
    local name prefix on
    name=$(output refresh_function_name)
    prefix=${name%refresh}
    on=$(aws cloudwatch describe-alarms --alarm-name-prefix "$prefix" --state-value ALARM --query 'MetricAlarms[].AlarmName' --output text)
    [ -z "$on" ] || echo "alarms that are on (from before, or now; DEPLOYMENT.md says what to do): $on"
}

health
run_once
alarms
