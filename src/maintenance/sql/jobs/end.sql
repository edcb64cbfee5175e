-- Ends job $1, which we took at $2: $3 status, $4 error, $5 results, $6 true when an attempt is counted. Changes nothing when
-- another worker has taken the job over.
UPDATE background_job_status
SET status = $3,
    error_message = $4,
    results = coalesce($5::jsonb, results),
    retry_count = least(coalesce(retry_count, 0), 2147483646) + CASE WHEN $6 THEN 1 ELSE 0 END,
    completed_at = CASE WHEN $3 IN ('completed', 'failed') THEN clock_timestamp() END,
    updated_at = clock_timestamp()
WHERE id = $1::uuid AND started_at = $2 AND status = 'processing'
