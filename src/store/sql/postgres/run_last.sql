SELECT run, started, ended, stopped_because, error, processed, failed, api_requests, report::text AS report
FROM refresh_worker.refresh_runs
ORDER BY started DESC, run DESC
LIMIT 1
