-- Fails jobs whose worker was silent for the lease ($1, seconds) and which have no attempt left.
UPDATE background_job_status
SET status = 'failed', completed_at = clock_timestamp(), updated_at = clock_timestamp(),
    error_message = format('its worker ended silently, %s times', coalesce(retry_count, 0)::bigint + 1)
WHERE job_type = 'stats_update' AND status = 'processing'
  AND coalesce(updated_at, started_at, created_at, '-infinity') <= clock_timestamp() - $1 * interval '1 second'
  AND coalesce(retry_count, 0) >= coalesce(max_retries, 3)
