-- True when no job waits and none is in progress.
SELECT NOT EXISTS (
    SELECT FROM background_job_status WHERE job_type = 'stats_update' AND status IN ('queued', 'processing')
)
