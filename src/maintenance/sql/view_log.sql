-- Writes the one row of a view: $1 its name, $2 the duration of the refresh in ms, $3 and $4 counts of its statistics.
INSERT INTO materialized_view_refresh_log AS l
    (view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects)
VALUES ($1, clock_timestamp(), $2, $3, $4)
ON CONFLICT (view_name) DO UPDATE SET
    last_refreshed_at = excluded.last_refreshed_at,
    refresh_duration_ms = excluded.refresh_duration_ms,
    total_jobs = excluded.total_jobs,
    total_objects = excluded.total_objects
