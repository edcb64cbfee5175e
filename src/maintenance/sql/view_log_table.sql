-- Creates the log of the related system where it is missing. Not when it exists in a schema that the search path does not reach.
DO $$
DECLARE
    elsewhere text := (
        SELECT quote_ident(n.nspname)
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = 'materialized_view_refresh_log' AND c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname !~ '^pg_'
        ORDER BY n.nspname LIMIT 1
    );
BEGIN
    IF to_regclass('materialized_view_refresh_log') IS NOT NULL THEN
        RETURN;
    END IF;
    IF elsewhere IS NOT NULL THEN
        RAISE EXCEPTION 'materialized_view_refresh_log is in the schema %, which the search path does not reach', elsewhere
            USING ERRCODE = 'duplicate_table';
    END IF;

    CREATE TABLE materialized_view_refresh_log (
        view_name           text NOT NULL CONSTRAINT materialized_view_refresh_log_pkey PRIMARY KEY,
        last_refreshed_at   timestamptz NOT NULL DEFAULT now(),
        refresh_duration_ms integer,
        total_jobs          integer,
        total_objects       bigint
    );
    COMMENT ON TABLE materialized_view_refresh_log IS 'One row a materialized view: its last refresh.';
END
$$;
