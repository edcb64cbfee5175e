SELECT run, started, ended, stopped_because, error, processed, failed, api_requests, report::text AS report
FROM refresh_worker.refresh_runs
-- One at a time that cannot be would be the last for ever.
WHERE started <= '9999-12-31'
ORDER BY started DESC, run DESC
LIMIT 1
