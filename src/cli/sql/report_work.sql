-- Runs that began at $1 or later, by kind and class, the best class first.
SELECT NULL::text AS day, kind, class, sum(calls)::bigint AS calls, sum(changed)::bigint AS changed,
       sum(unchanged)::bigint AS unchanged, sum(fresh)::bigint AS fresh, sum(gone)::bigint AS gone,
       sum(error)::bigint AS error, sum(released)::bigint AS released
FROM refresh_worker.work
WHERE started >= $1
GROUP BY kind, class
ORDER BY kind, array_position(ARRAY['critical', 'high', 'medium', 'low'], class)
