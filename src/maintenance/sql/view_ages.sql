-- The ages of the views $1, by the database's clock, by which other programs write these times, too. An impossible time counts as
-- never: the view is due.
SELECT view_name, extract(epoch FROM clock_timestamp() - last_refreshed_at)::float8
FROM materialized_view_refresh_log
WHERE view_name = ANY ($1) AND last_refreshed_at BETWEEN '0001-01-01' AND '9999-12-31'
