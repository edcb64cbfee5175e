-- Inserts the row of a finished run ($1 to $9), unless another attempt has its name. Deletes rows that started before $10 or
-- are not among the newest $11.
WITH trimmed AS (
    DELETE FROM refresh_worker.refresh_runs
    WHERE started < greatest(
        $10, (SELECT started FROM refresh_worker.refresh_runs ORDER BY started DESC OFFSET $11 - 1 LIMIT 1)
    )
)
INSERT INTO refresh_worker.refresh_runs
    (run, started, ended, stopped_because, error, processed, failed, api_requests, report)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::json)
ON CONFLICT (run) DO UPDATE SET
    started = excluded.started, ended = excluded.ended, stopped_because = excluded.stopped_because,
    error = excluded.error, processed = excluded.processed, failed = excluded.failed,
    api_requests = excluded.api_requests, report = excluded.report
WHERE refresh_runs.started = excluded.started
