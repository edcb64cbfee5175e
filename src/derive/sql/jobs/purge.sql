-- At most $3 of the jobs that ended so ($1) and longer ago than $2 seconds.
DELETE FROM background_job_status
WHERE id IN (
    SELECT id FROM background_job_status
    WHERE job_type = 'stats_update' AND status = ANY ($1)
      AND coalesce(completed_at, updated_at, created_at) < clock_timestamp() - $2 * interval '1 second'
    LIMIT $3
)
