-- The table of the related system, where there is none: its columns, checks, indexes and trigger.
CREATE TABLE IF NOT EXISTS background_job_status (
    id            uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT background_job_status_pkey PRIMARY KEY,
    job_type      text NOT NULL DEFAULT 'stats_update',
    job_payload   jsonb NOT NULL,
    status        text NOT NULL
        CONSTRAINT background_job_status_status_check CHECK (status IN ('queued', 'processing', 'completed', 'failed')),
    started_at    timestamptz,
    completed_at  timestamptz,
    error_message text,
    results       jsonb,
    retry_count   integer DEFAULT 0,
    max_retries   integer DEFAULT 3,
    priority      integer DEFAULT 0,
    created_at    timestamptz DEFAULT now(),
    updated_at    timestamptz DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idx_background_job_status_created_at ON background_job_status (created_at DESC);
CREATE INDEX IF NOT EXISTS idx_background_job_status_status ON background_job_status (status);
CREATE INDEX IF NOT EXISTS idx_background_job_status_priority ON background_job_status (priority DESC);
COMMENT ON TABLE background_job_status IS 'Statistics jobs: who asked, how far they are, what came of them.';

CREATE OR REPLACE FUNCTION background_job_status_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER background_job_status_updated_at BEFORE UPDATE ON background_job_status
    FOR EACH ROW EXECUTE FUNCTION background_job_status_touch();
