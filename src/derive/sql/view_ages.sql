-- How long ago the views $1 were refreshed, by the database's clock: other programs write these times by it, too.
SELECT view_name, extract(epoch FROM clock_timestamp() - last_refreshed_at)::float8
FROM materialized_view_refresh_log
WHERE view_name = ANY ($1)
