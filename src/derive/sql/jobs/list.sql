-- The newest jobs: $1 only this id, $2 only this status, $3 at most so many.
SELECT id::text AS id, coalesce(job_payload::text, '') AS payload, coalesce(status, '') AS status, started_at, completed_at, error_message,
       results::text AS results, coalesce(retry_count, 0) AS retry_count, coalesce(max_retries, 3) AS max_retries,
       coalesce(priority, 0) AS priority, created_at, updated_at, clock_timestamp() AS now
FROM background_job_status
WHERE job_type = 'stats_update'
  AND ($1::text IS NULL OR id::text = $1)
  AND ($2::text IS NULL OR status = $2)
ORDER BY created_at DESC, id
LIMIT $3
