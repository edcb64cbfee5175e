-- How long ago the view $1 was refreshed, by the database's clock: other programs write these times by it, too.
SELECT extract(epoch FROM clock_timestamp() - last_refreshed_at)::float8
FROM materialized_view_refresh_log
WHERE view_name = $1
