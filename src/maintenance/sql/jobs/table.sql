-- Creates the table of the related system where it is missing: its columns, checks, indexes and trigger. Not when the table exists
-- in a schema that the search path does not reach.
DO $$
DECLARE
    elsewhere text := (
        SELECT quote_ident(n.nspname)
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = 'background_job_status' AND c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname !~ '^pg_'
        ORDER BY n.nspname LIMIT 1
    );
BEGIN
    IF to_regclass('background_job_status') IS NOT NULL THEN
        RETURN;
    END IF;
    IF elsewhere IS NOT NULL THEN
        RAISE EXCEPTION 'background_job_status is in the schema %, which the search path does not reach; a second one is not '
            'made: ALTER ROLE % IN DATABASE % SET search_path = %, public; or add ?options=-csearch_path%%3D% to DATABASE_URL',
            elsewhere, quote_ident(current_user), quote_ident(current_database()), elsewhere, elsewhere
            USING ERRCODE = 'duplicate_table';
    END IF;

    CREATE TABLE background_job_status (
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
    CREATE INDEX idx_background_job_status_created_at ON background_job_status (created_at DESC);
    CREATE INDEX idx_background_job_status_status ON background_job_status (status);
    CREATE INDEX idx_background_job_status_priority ON background_job_status (priority DESC);
    COMMENT ON TABLE background_job_status IS 'Statistics jobs: who asked, how far they are, what came of them.';

    CREATE OR REPLACE FUNCTION background_job_status_touch() RETURNS trigger LANGUAGE plpgsql AS $touch$
    BEGIN
        NEW.updated_at = now();
        RETURN NEW;
    END
    $touch$;
    CREATE TRIGGER background_job_status_updated_at BEFORE UPDATE ON background_job_status
        FOR EACH ROW EXECUTE FUNCTION background_job_status_touch();
END
$$;
