-- Takes the next job: the highest priority first, then the oldest. A job that failed with us waits before its next attempt (its
-- results have the retry_count of that attempt); a job that was queued again by hand does not. A job whose worker was silent for
-- the lease ($1, seconds) is taken over, which counts as an attempt. Rows that others have locked are skipped. $2: the wait after
-- the first failure, in seconds, doubled with each further one.
-- Both statuses come first, for the index: jobs that ended are many, and stay for years.
-- The results of earlier attempts are returned, but not those of a job that had ended and was queued again by hand.
WITH next AS (
    SELECT id, status, completed_at
    FROM background_job_status
    WHERE job_type = 'stats_update'
      AND status IN ('queued', 'processing')
      AND CASE status
          WHEN 'queued' THEN
              results::jsonb -> 'waits_as_retry' IS DISTINCT FROM to_jsonb(coalesce(retry_count, 0))
              OR coalesce(updated_at, started_at, created_at, '-infinity')
                 <= clock_timestamp() - $2 * power(2, least(greatest(retry_count, 1), 10) - 1) * interval '1 second'
          WHEN 'processing' THEN
              coalesce(updated_at, started_at, created_at, '-infinity') <= clock_timestamp() - $1 * interval '1 second'
              AND coalesce(retry_count, 0) < coalesce(max_retries, 3)
          END
    ORDER BY priority DESC NULLS LAST, created_at, id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE background_job_status AS j
SET status = 'processing',
    started_at = clock_timestamp(),
    completed_at = NULL,
    updated_at = clock_timestamp(),
    retry_count = coalesce(j.retry_count, 0) + CASE next.status WHEN 'processing' THEN 1 ELSE 0 END
FROM next
WHERE j.id = next.id
RETURNING j.id::text AS id, j.retry_count, coalesce(j.max_retries, 3) AS max_retries,
          j.started_at, CASE WHEN next.completed_at IS NULL THEN j.results::text END AS results,
          j.job_payload::jsonb ->> 'requestId' AS request_id, next.status = 'processing' AS taken_over
