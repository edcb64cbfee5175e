-- The log of the related system, where there is none.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_log (
    view_name           text NOT NULL CONSTRAINT materialized_view_refresh_log_pkey PRIMARY KEY,
    last_refreshed_at   timestamptz NOT NULL DEFAULT now(),
    refresh_duration_ms integer,
    total_jobs          integer,
    total_objects       bigint
);
COMMENT ON TABLE materialized_view_refresh_log IS 'One row a materialized view: its last refresh.';
