-- As the view refresh_worker.freshness; a time that is still to come, or cannot be, says that nobody knows when.
SELECT s.kind,
       count(*) AS objects,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '5 minutes') AS fresh_5_min,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '30 minutes') AS fresh_30_min,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '2 hours') AS fresh_2_h,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '8 hours') AS fresh_8_h,
       count(*) FILTER (WHERE s.fetched_at <= now() - interval '8 hours') AS older,
       count(*) FILTER (WHERE s.fetched_at IS NULL) AS never_fetched,
       extract(epoch FROM now() - percentile_disc(0.5) WITHIN GROUP (ORDER BY s.fetched_at))::float8
           AS median_age_seconds,
       count(*) FILTER (WHERE s.changed_at > now() - interval '24 hours') AS changed_24_h
FROM (
    SELECT kind,
           CASE WHEN fetched_at BETWEEN '0001-01-01' AND now() + interval '1 minute' THEN fetched_at END AS fetched_at,
           CASE WHEN changed_at BETWEEN '0001-01-01' AND now() + interval '1 minute' THEN changed_at END AS changed_at
    FROM refresh_worker.refresh_state
) AS s
GROUP BY s.kind
ORDER BY s.kind
