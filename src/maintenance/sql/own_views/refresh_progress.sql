-- How fresh the data is, by kind and priority: of the objects of a kind, how many are younger than what the priority promises.
CREATE MATERIALIZED VIEW IF NOT EXISTS refresh_worker.refresh_progress AS
SELECT s.kind, k.priority, k.fresh_for,
       count(*) AS objects,
       count(*) FILTER (WHERE s.fetched_at > now() - k.fresh_for) AS fresh,
       count(*) FILTER (WHERE s.fetched_at <= now() - k.fresh_for) AS stale,
       count(*) FILTER (WHERE s.fetched_at IS NULL) AS never_fetched,
       round(100.0 * count(*) FILTER (WHERE s.fetched_at > now() - k.fresh_for) / count(*), 1) AS fresh_percent,
       min(s.fetched_at) AS oldest_fetch,
       max(s.fetched_at) AS newest_fetch,
       now() AS computed_at
FROM refresh_worker.refresh_state AS s
CROSS JOIN (VALUES ('critical', interval '5 minutes'), ('high', interval '30 minutes'), ('medium', interval '2 hours'),
                   ('low', interval '8 hours')) AS k (priority, fresh_for)
GROUP BY s.kind, k.priority, k.fresh_for;
CREATE UNIQUE INDEX IF NOT EXISTS refresh_progress_key ON refresh_worker.refresh_progress (kind, priority);
