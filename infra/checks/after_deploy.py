#!/usr/bin/env python3
"""Runs after-deploy.sh with mocked commands: deployments that work, that are broken, and that cannot be shown to work."""
import json
import os
import pathlib
import subprocess
import tempfile

SCRIPT = pathlib.Path(__file__).resolve().with_name("after-deploy.sh")
BEGAN, BEFORE, AFTER = "2026-03-04T05:00:00", "2026-03-04T04:59:59.5+00:00", "2026-03-04T05:00:01.25+00:00"

# Each run takes the next line of `runs`, and repeats the last one.
COMMANDS = {
    "tofu": 'echo "refresh-worker-refresh"',
    "curl": 'while [ "$1" != --output ]; do shift; done; echo "{}" >"$2"; printf "%s" "$STATUS"',
    "aws": '''
if [ "$1" = cloudwatch ]; then cat "$HERE/alarms"; exit; fi
run=$(head -1 "$HERE/runs")
[ "$(wc -l <"$HERE/runs")" = 1 ] || sed -i 1d "$HERE/runs"
case $run in
    throttled) exit 254 ;;
    error) echo Unhandled ;;
    *) echo None ;;
esac
for answer; do :; done
printf '{"stopped_because": "%s"}' "$run" >"$answer"''',
}


def look(runs, expect, says, status=200, metric=None, composite=None, actions=True):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, text in COMMANDS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / name).chmod(0o755)
        alarm = lambda time: [{"AlarmName": "refresh-worker-errors", "StateTransitionedTimestamp": time,
                               "ActionsEnabled": actions}] if time else []
        (folder / "alarms").write_text(json.dumps({"MetricAlarms": alarm(metric), "CompositeAlarms": alarm(composite)}))
        (folder / "runs").write_text("\n".join(runs.split()) + "\n")
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "HERE": str(folder), "STATUS": str(status),
                                    "AFTER_DEPLOY_PAUSE": "0", "AFTER_DEPLOY_TIMEOUT": "1" if expect else "60"}
        done = subprocess.run([SCRIPT, folder, BEGAN], env=environment, capture_output=True, text=True)
        assert done.returncode == expect and says in done.stdout + done.stderr, (runs, expect, says, done)


def main():
    for well in ("queue_empty", "deadline", "max_requests", "already_running throttled shutdown queue_empty"):
        look(well, 0, "ended well")
    for nothing in ("maintenance", "keys_cooling_down", "refresh_paused", "daily_quota", "already_running"):
        look(nothing, 3, "NOT SHOWN")
    look("error", 1, "ended with an error")
    look("throttled", 1, "cannot be invoked")
    look("something_new", 1, "unknown reason")
    look("queue_empty", 1, "attempt 6 of 6", status=503)
    look("queue_empty", 0, "alarms that are on", metric=BEFORE)
    look("queue_empty", 0, "alarms that are on", metric=AFTER, actions=False)
    for new in ({"metric": AFTER}, {"composite": AFTER}):
        look("queue_empty", 1, "went on after", **new)
        look("maintenance", 1, "went on after", **new)
    print("working, broken and not shown are distinguished")


if __name__ == "__main__":
    main()
