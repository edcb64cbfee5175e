-- Queues a job: $1 payload, $2 priority, $3 most retries. Returns its id.
INSERT INTO background_job_status (job_type, job_payload, status, priority, max_retries)
VALUES ('stats_update', $1::jsonb, 'queued', $2, $3)
RETURNING id::text
