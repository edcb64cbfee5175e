-- Counts jobs that ended with a status of $1 more than $2 seconds ago.
SELECT count(*) FROM background_job_status
WHERE job_type = 'stats_update' AND status = ANY ($1)
  AND coalesce(completed_at, updated_at, created_at) < clock_timestamp() - $2 * interval '1 second'
