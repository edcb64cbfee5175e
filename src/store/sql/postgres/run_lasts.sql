-- The newest run, the newest that went well, and the newest that failed. One that was turned away did nothing, well or not.
(
    SELECT 'any' AS sort, run, started, ended, stopped_because, error, processed, failed, api_requests, '' AS report
    FROM refresh_worker.refresh_runs
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
    ORDER BY started DESC, run DESC
    LIMIT 1
)
UNION ALL
(
    SELECT 'failed', run, started, ended, stopped_because, error, processed, failed, api_requests, ''
    FROM refresh_worker.refresh_runs
    WHERE error IS NOT NULL
    ORDER BY started DESC, run DESC
    LIMIT 1
)
