SELECT run, started, ended, stopped_because, error, processed, failed, api_requests, report::text AS report
FROM refresh_worker.refresh_runs
-- A run with an impossible time would be the last for ever.
WHERE started <= '9999-12-31'
ORDER BY started DESC, run DESC
LIMIT 1
