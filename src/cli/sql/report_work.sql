-- Runs that began at $1 or later, by kind and priority, the best priority first.
SELECT NULL::text AS day, kind, priority, sum(calls)::bigint AS calls, sum(changed)::bigint AS changed,
       sum(unchanged)::bigint AS unchanged, sum(fresh)::bigint AS fresh, sum(gone)::bigint AS gone,
       sum(error)::bigint AS error, sum(released)::bigint AS released
FROM refresh_worker.work
WHERE started >= $1
GROUP BY kind, priority
ORDER BY kind, array_position(ARRAY['critical', 'high', 'medium', 'low'], priority)
