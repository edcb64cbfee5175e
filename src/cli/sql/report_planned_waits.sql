-- The readers' requests by the time that they waited, in the runs that began at $1 or later.
SELECT v.key AS name, sum(v.value::float8)::float8 AS requests
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL (
    SELECT CASE WHEN strpos(r.report::text, $r$\u$r$) = 0 THEN r.report
                ELSE regexp_replace(r.report::text, $r$\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})$r$, $r$\\u003f$r$, 'g')::json
           END AS report
    OFFSET 0
) AS d
CROSS JOIN LATERAL json_each_text(
    CASE WHEN json_typeof(d.report -> 'planned' -> 'waits') = 'object' THEN d.report -> 'planned' -> 'waits' ELSE '{}' END
) AS v
WHERE r.started >= $1 AND strpos(r.report::text, '"planned"') > 0 AND v.value ~ '^[0-9]{1,12}$' AND v.key ~ '^([0-9]{1,6}|more)$'
GROUP BY v.key
ORDER BY v.key
LIMIT 100
