-- Jobs that ended so ($1) and longer ago than $2 seconds. With $3 they are counted only.
WITH old AS (
    SELECT id FROM background_job_status
    WHERE job_type = 'stats_update' AND status = ANY ($1)
      AND coalesce(completed_at, updated_at, created_at) < clock_timestamp() - $2 * interval '1 second'
),
gone AS (
    DELETE FROM background_job_status WHERE NOT $3 AND id IN (SELECT id FROM old)
)
SELECT count(*) FROM old
