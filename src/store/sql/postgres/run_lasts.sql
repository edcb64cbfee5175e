-- The newest run, the newest good one, and the newest failed one. A run that preflight rejected is neither good nor failed.
-- A run with an impossible time would be the last for ever. Each is the first entry of an index; the lower two are partial.
(
    SELECT 'any' AS sort, run, started, ended, stopped_because, error, processed, failed, api_requests, '' AS report
    FROM refresh_worker.refresh_runs
    WHERE started <= '9999-12-31'
    ORDER BY started DESC, run DESC
    LIMIT 1
)
UNION ALL
(
    SELECT 'good', run, started, ended, stopped_because, error, processed, failed, api_requests, ''
    FROM refresh_worker.refresh_runs
    WHERE
        error IS NULL
        AND (processed > 0 OR stopped_because IN ('queue_empty', 'deadline', 'max_requests', 'shutdown'))
        AND started <= '9999-12-31'
    ORDER BY started DESC, run DESC
    LIMIT 1
)
UNION ALL
(
    SELECT 'failed', run, started, ended, stopped_because, error, processed, failed, api_requests, ''
    FROM refresh_worker.refresh_runs
    WHERE error IS NOT NULL AND started <= '9999-12-31'
    ORDER BY started DESC, run DESC
    LIMIT 1
)
