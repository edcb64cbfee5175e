-- Runs that began at $1 or later, by day.
SELECT day::text AS day, NULL::text AS kind, NULL::text AS priority, sum(calls)::bigint AS calls,
       sum(changed)::bigint AS changed, sum(unchanged)::bigint AS unchanged, sum(fresh)::bigint AS fresh,
       sum(gone)::bigint AS gone, sum(error)::bigint AS error, sum(released)::bigint AS released
FROM refresh_worker.work
WHERE started >= $1
GROUP BY day
ORDER BY day
