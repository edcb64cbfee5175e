-- The heartbeat of the worker that took job $1 at $2.
UPDATE background_job_status
SET updated_at = clock_timestamp()
WHERE id = $1::uuid AND started_at = $2 AND status = 'processing'
