-- The newest jobs: $1 only this id, $2 only this status, $3 at most so many. An id is looked up; what is none finds nothing.
SELECT j.*
FROM (
    (
        SELECT id FROM background_job_status
        WHERE $1::text IS NULL AND job_type = 'stats_update' AND ($2::text IS NULL OR status = $2)
        ORDER BY created_at DESC, id
        LIMIT $3
    )
    UNION ALL
    SELECT id FROM background_job_status
    WHERE id = CASE WHEN $1 ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN $1::uuid END
      AND job_type = 'stats_update' AND ($2::text IS NULL OR status = $2)
) AS chosen
CROSS JOIN LATERAL (
    SELECT id::text AS id, coalesce(job_payload::text, '') AS payload, coalesce(status, '') AS status, started_at, completed_at, error_message,
           results::text AS results, coalesce(retry_count, 0) AS retry_count, coalesce(max_retries, 3) AS max_retries,
           coalesce(priority, 0) AS priority, created_at, updated_at, clock_timestamp() AS now
    FROM background_job_status AS k
    WHERE k.id = chosen.id
    OFFSET 0
) AS j
ORDER BY j.created_at DESC, j.id
