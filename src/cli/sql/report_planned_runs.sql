-- The runs with the planner among those that began at $1 or later, summed up, and the level at the end of the last one.
WITH planned AS MATERIALIZED (
    SELECT r.run, r.started, least(greatest(r.ended, r.started), r.started + interval '1 hour') AS ended, r.api_requests, j.planned,
           CASE WHEN j.keys_held ~ '^[0-9]{1,6}$' THEN j.keys_held::bigint ELSE 0 END AS keys
    FROM refresh_worker.refresh_runs AS r
    CROSS JOIN LATERAL (
        -- As in the view refresh_worker.work.
        SELECT CASE WHEN strpos(r.report::text, $r$\u$r$) = 0 THEN r.report
                    ELSE regexp_replace(r.report::text, $r$\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})$r$, $r$\\u003f$r$, 'g')::json
               END AS report
        OFFSET 0
    ) AS d
    CROSS JOIN LATERAL (SELECT d.report -> 'planned' AS planned, d.report ->> 'keys_held' AS keys_held OFFSET 0) AS j
    -- A run that is still to come was written by a wrong clock.
    WHERE r.started >= $1 AND r.started <= now() + interval '1 hour' AND strpos(r.report::text, '"planned"') > 0
      AND json_typeof(j.planned) = 'object'
), numbers AS (
    SELECT coalesce(sum(v.value::float8) FILTER (WHERE v.key = 'failed'), 0)::float8 AS failed,
           coalesce(sum(v.value::float8) FILTER (WHERE v.key = 'refused'), 0)::float8 AS refused
    FROM planned AS p
    CROSS JOIN LATERAL json_each(p.planned) AS j
    CROSS JOIN LATERAL (
        SELECT j.key, CASE WHEN j.key IN ('failed', 'refused') THEN j.value::text END AS value
        OFFSET 0
    ) AS v
    WHERE v.value ~ '^[0-9]{1,12}$'
), newest AS (
    SELECT l.planned -> 'levels' ->> 'main' AS level, l.planned ->> 'lateness_seconds' AS lateness
    FROM (SELECT p.planned FROM planned AS p ORDER BY p.started DESC, p.run LIMIT 1) AS l
)
SELECT count(*) AS runs, coalesce(extract(epoch FROM min(p.started)), 0)::float8 AS first_began,
       coalesce(extract(epoch FROM max(p.ended)), 0)::float8 AS last_ended,
       coalesce(sum(least(greatest(p.api_requests, 0), 1000000000)), 0)::float8 AS calls,
       (avg(p.keys) FILTER (WHERE p.keys > 0))::float8 AS keys,
       (SELECT CASE WHEN n.level ~ '^[0-9]{1,12}(\.[0-9]{1,30})?(e-?[0-9]{1,2})?$' THEN n.level::float8 END FROM newest AS n) AS level,
       (SELECT CASE WHEN n.lateness ~ '^[0-9]{1,12}(\.[0-9]{1,30})?$' THEN n.lateness::float8 END FROM newest AS n)
           AS lateness_seconds,
       (SELECT n.failed FROM numbers AS n) AS failed, (SELECT n.refused FROM numbers AS n) AS refused
FROM planned AS p
