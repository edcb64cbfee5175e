-- Deletes at most $3 jobs that ended with a status of $1 more than $2 seconds ago, by their ids from $4 on (null: from the first),
-- so that a batch does not read again what earlier ones have passed. Returns the number deleted, and the last id.
WITH gone AS (
    DELETE FROM background_job_status
    WHERE id = ANY (ARRAY(
        SELECT id FROM background_job_status
        WHERE id >= coalesce($4::text::uuid, '00000000-0000-0000-0000-000000000000')
          AND job_type = 'stats_update' AND status = ANY ($1)
          AND coalesce(completed_at, updated_at, created_at) < clock_timestamp() - $2 * interval '1 second'
        ORDER BY id
        LIMIT $3
    ))
    RETURNING id
)
SELECT (SELECT count(*) FROM gone), (SELECT id::text FROM gone ORDER BY id DESC LIMIT 1)
