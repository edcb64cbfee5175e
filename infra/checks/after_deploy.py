#!/usr/bin/env python3
"""Runs after-deploy.sh with mocked commands: deployments that work, that are broken, and that cannot be shown to work."""
import json
import os
import pathlib
import subprocess
import tempfile

SCRIPT = pathlib.Path(__file__).resolve().with_name("after-deploy.sh")
BEGAN, BEFORE, AFTER = "2026-03-04T05:00:00", "2026-03-04T04:59:59.5+00:00", "2026-03-04T05:00:01.25+00:00"

# Each run takes the next line of `runs`, and each look at the alarms the next line of `alarms`; the last one is repeated.
COMMANDS = {
    "tofu": 'echo "refresh-worker-refresh"',
    "curl": '''
next() { head -1 "$HERE/$1"; [ "$(wc -l <"$HERE/$1")" = 1 ] || sed -i 1d "$HERE/$1"; }
while [ "$1" != --output ]; do shift; done
echo "{}" >"$2"
next status''',
    "aws": '''
next() { head -1 "$HERE/$1"; [ "$(wc -l <"$HERE/$1")" = 1 ] || sed -i 1d "$HERE/$1"; }
if [ "$1" = cloudwatch ]; then
    echo look >>"$HERE/looks"
    [[ " $* " = *" --alarm-name-prefix refresh-worker- "* ]] || exit 2
    alarms=$(next alarms)
    [ "$alarms" != refused ] || { echo "AccessDenied" >&2; exit 254; }
    echo "$alarms"
    exit
fi
run=$(next runs)
case $run in
    throttled) exit 254 ;;
    error) echo Unhandled ;;
    *) echo None ;;
esac
for answer; do :; done
printf '{"stopped_because": "%s"}' "$run" >"$answer"''',
}
QUIET = {"MetricAlarms": [], "CompositeAlarms": []}


def on(time, kind="MetricAlarms", **more):
    """What describe-alarms returns while one alarm is on since then."""
    alarm = {"AlarmName": "refresh-worker-errors", "StateTransitionedTimestamp": time, "StateReason": "6 errors", "ActionsEnabled": True,
             "AlarmActions": ["arn:aws:sns:eu-central-1:123456789012:refresh-worker-alarms"]} | more
    return QUIET | {kind: [alarm]}


def composite(rule, *children, kind="MetricAlarms"):
    """worker-unhealthy, on since the deployment, with the alarms that are on beside it: pairs of a name and a time."""
    parts = [{"AlarmName": f"refresh-worker-{name}", "StateTransitionedTimestamp": time, "ActionsEnabled": True, "AlarmActions": []}
             for name, time in children]
    whole = on(AFTER, "CompositeAlarms", AlarmName="refresh-worker-worker-unhealthy", AlarmRule=rule, StateReason="a child is on")
    return whole | {kind: whole[kind] + parts}


ANY = 'ALARM("refresh-worker-no-invocations") OR ALARM("refresh-worker-errors")'
ARN = "ALARM(arn:aws:cloudwatch:eu-central-1:123456789012:alarm:refresh-worker-no-invocations) OR NOT OK(other)"


def look(runs, expect, says, status="200", alarms=(QUIET,), looks=None, watch=0):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, text in COMMANDS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / name).chmod(0o755)
        (folder / "alarms").write_text("".join((line if line == "refused" else json.dumps(line)) + "\n" for line in alarms))
        (folder / "runs").write_text("\n".join(runs.split()) + "\n")
        (folder / "status").write_text("\n".join(status.split()) + "\n")
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "HERE": str(folder), "AFTER_DEPLOY_PAUSE": "0",
                                    "AFTER_DEPLOY_TIMEOUT": "1" if expect else "60", "AFTER_DEPLOY_WATCH": str(watch),
                                    "AFTER_DEPLOY_INTERVAL": "1"}
        done = subprocess.run([SCRIPT, folder, BEGAN], env=environment, capture_output=True, text=True)
        assert done.returncode == expect and says in done.stdout + done.stderr, (runs, expect, says, done)
        if looks:
            made = (folder / "looks").read_text().count("look")
            assert made in looks, (runs, says, made)


def main():
    for well in ("queue_empty", "deadline", "max_requests", "already_running throttled shutdown queue_empty"):
        look(well, 0, "ended well")
    for nothing in ("maintenance", "keys_cooling_down", "refresh_paused", "daily_quota", "already_running"):
        look(nothing, 3, "NOT SHOWN")
    look("error", 1, "ended with an error")
    look("throttled", 1, "cannot be invoked")
    look("something_new", 1, "unknown reason")
    look("queue_empty", 1, "attempt 6 of 6", status="503")
    look("queue_empty", 1, "attempt 6 of 6", status="200 503")

    look("queue_empty", 0, "alarms that are on", alarms=[on(BEFORE)])
    look("queue_empty", 0, "alarms that are on", alarms=[on(AFTER, ActionsEnabled=False)])
    look("queue_empty", 0, "alarms that are on", alarms=[on(AFTER, AlarmActions=[])])
    look("queue_empty", 0, "alarms that are on", alarms=[on(AFTER, "CompositeAlarms", ActionsSuppressedBy="Alarm")])
    for kind in ("MetricAlarms", "CompositeAlarms"):
        look("queue_empty", 1, "went on after", alarms=[on(AFTER, kind)])
        look("maintenance", 1, "errors (6 errors)", alarms=[on(AFTER, kind)])

    # A rule that gets a member which was on before, as with the schedule that is switched on, is no new trouble.
    for rule in (ANY, ARN, "ALARM(refresh-worker-no-invocations)", "ALARM( 'refresh-worker-no-invocations' )"):
        look("queue_empty", 0, "worker-unhealthy since", alarms=[composite(rule, ("no-invocations", BEFORE))])
        look("queue_empty", 1, "worker-unhealthy (a child is on)", alarms=[composite(rule, ("no-invocations", AFTER))])
    look("queue_empty", 1, "went on after", alarms=[composite(ANY, ("no-invocations", BEFORE), ("errors", AFTER))])
    # A child of another rule does not count, and without a known child the composite alarm counts itself.
    look("queue_empty", 0, "worker-unhealthy since", alarms=[composite(ANY, ("no-invocations", BEFORE), ("errors-of-health", AFTER))])
    look("queue_empty", 1, "went on after", alarms=[composite(ANY)])
    look("queue_empty", 1, "went on after", alarms=[composite("NOT OK(elsewhere)", ("errors", BEFORE))])
    # A composite alarm of composite alarms.
    nested = composite(ANY, ("no-invocations", BEFORE))
    outer = on(AFTER, "CompositeAlarms", AlarmName="refresh-worker-pager", AlarmRule="ALARM(refresh-worker-worker-unhealthy)")
    look("queue_empty", 0, "pager since", alarms=[nested | {"CompositeAlarms": nested["CompositeAlarms"] + outer["CompositeAlarms"]}])

    # Not one look: an alarm goes on while it watches, and the watching ends with it.
    look("queue_empty", 1, "went on after", alarms=[QUIET, on(BEFORE), on(AFTER)], looks=[3], watch=30)
    look("queue_empty", 0, "for 3 s", looks=[3, 4], watch=3)
    look("queue_empty", 0, "none any more", alarms=[on(BEFORE), QUIET], watch=2)
    look("queue_empty", 0, "cannot be read", alarms=["refused", QUIET], watch=2)
    look("queue_empty", 3, "NOT SHOWN that no alarm", alarms=["refused"])
    look("queue_empty", 1, "went on after", alarms=["refused", on(AFTER)], watch=30)
    print("working, broken and not shown are distinguished, and the alarms are watched")


if __name__ == "__main__":
    main()
