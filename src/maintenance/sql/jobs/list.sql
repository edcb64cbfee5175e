-- The newest jobs: $1 only this id, $2 only this status, $3 at most this many. A text that is not an id finds nothing.
SELECT j.id::text AS id, coalesce(j.job_payload::text, '') AS payload, coalesce(j.status, '') AS status, j.started_at, j.completed_at, j.error_message,
       j.results::text AS results, coalesce(j.retry_count, 0) AS retry_count, coalesce(j.max_retries, 3) AS max_retries,
       coalesce(j.priority, 0) AS priority, j.created_at, j.updated_at, clock_timestamp() AS now
FROM (
    (
        SELECT * FROM background_job_status
        WHERE $1::text IS NULL AND job_type = 'stats_update' AND ($2::text IS NULL OR status = $2)
        ORDER BY created_at DESC, id
        LIMIT $3
    )
    UNION ALL
    SELECT * FROM background_job_status
    WHERE id = CASE WHEN $1 ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN $1::uuid END
      AND job_type = 'stats_update' AND ($2::text IS NULL OR status = $2)
) AS j
ORDER BY j.created_at DESC, j.id
