#!/usr/bin/env bash
# Checks a deployment after an apply: it is healthy, a run does its work, and no alarm goes on in the minutes that follow.
#
#   after-deploy.sh FOLDER_OF_THE_ROOT_CONFIGURATION [BEGAN]
#
# BEGAN is when the apply began (date -u +%Y-%m-%dT%H:%M:%S): alarms that were on before it are printed and do not count. Neither
# do alarms that notify nobody: an alarm without actions is part of a composite one, which counts when nothing suppresses it and one
# of its parts went on after BEGAN. The apply that switches the schedule on adds no-invocations, which was on, to worker-unhealthy.
#
# AFTER_DEPLOY_WATCH       seconds to watch the alarms for (default 600: docs/operating.md says how long each alarm takes)
# AFTER_DEPLOY_INTERVAL    seconds between two looks (default 20)
#
# Exit codes: 0 it works; 1 it does not; 3 it is healthy, but something could not be shown, and the last lines say what and why.
#
# Needs tofu (or terraform), the AWS command line (version 2), curl and jq.
set -euo pipefail
root=${1:?the folder of the root configuration} began=${2:-$(date -u +%Y-%m-%dT%H:%M:%S)}
pause=${AFTER_DEPLOY_PAUSE:-10} timeout=${AFTER_DEPLOY_TIMEOUT:-300} # Seconds.
watch=${AFTER_DEPLOY_WATCH:-600} interval=${AFTER_DEPLOY_INTERVAL:-20}
for setting in "AFTER_DEPLOY_WATCH=$watch" "AFTER_DEPLOY_INTERVAL=$interval"; do
    [[ "${setting#*=}" =~ ^[0-9]+$ ]] || { echo "${setting%%=*} is \`${setting#*=}\`: give whole seconds" >&2; exit 1; }
done
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

# Prints the alarms of this deployment that are on, with their times, and fails when one went on after BEGAN.
look_at_alarms() {
    local on new
    on=$(jq -r '[(.MetricAlarms + .CompositeAlarms)[] | "\(.AlarmName) since \(.StateTransitionedTimestamp[:19])"] | join(", ")' "$response")
    # schedule-off is on while the schedule is off. It notifies nobody.
    new=$(jq -r --arg began "$began" '(.MetricAlarms + .CompositeAlarms) as $on
        | def parts: [.AlarmRule // "" | scan("ALARM\\(\\s*[\"\u0027]?([^\"\u0027()]+?)[\"\u0027]?\\s*\\)") | .[0] | sub("^arn:.*:alarm:"; "")];
        # Composite alarms may contain composite ones, and even themselves: hence the depth.
        def is_new($depth): .StateTransitionedTimestamp[:19] >= $began[:19]
            and (parts as $parts | [$on[] | select(.AlarmName | IN($parts[]))]
                | length == 0 or $depth == 0 or any(.[]; is_new($depth - 1)));
        [$on[]
        | select(.ActionsEnabled and (.AlarmActions == null or .AlarmActions != []) and .ActionsSuppressedBy == null)
        | select(is_new(5)) | "\(.AlarmName) (\(.StateReason // "no reason given"))"] | join(", ")' "$response")
    [ "$on" = "$shown" ] || echo "alarms that are on (docs/operating.md says what to do): ${on:-none any more}"
    shown=$on
    [ -z "$new" ] || { echo "alarms that went on after $began: $new" >&2; return 1; }
}

# Looks until the time is up. One look would come before most alarms can know: they judge periods of minutes.
watch_alarms() {
    local end=$((SECONDS + watch)) failures=0 error
    shown=''
    echo "watching the alarms $prefix* for $watch s"
    while true; do
        if error=$(aws cloudwatch describe-alarms --alarm-types MetricAlarm CompositeAlarm --alarm-name-prefix "$prefix" \
            --state-value ALARM --output json 2>&1 >"$response"); then
            failures=0
            look_at_alarms || return 1
        else
            failures=$((failures + 1))
            echo "the alarms cannot be read: $error" >&2
        fi
        [ $SECONDS -lt $end ] || break
        sleep "$interval"
    done
    [ $failures = 0 ] || unwatched="the alarms could not be read at the end"
}

name=$(output refresh_function_name) untested='' unwatched=''
prefix=${name%refresh}
health
runs
watch_alarms
health
[ -z "$untested" ] || echo "NOT SHOWN that runs work: the last one ended with $untested" >&2
[ -z "$unwatched" ] || echo "NOT SHOWN that no alarm went on: $unwatched. The deploy role needs cloudwatch:DescribeAlarms" >&2
[ -z "$untested$unwatched" ] || exit 3
