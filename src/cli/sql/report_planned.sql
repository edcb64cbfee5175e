-- What the planner saw in the runs that began at $1 or later, by side, kind and group; `against` is the strategy that a trial compares
-- with. A report may hold anything: what is not a number of the expected form counts as none, as in the view
-- refresh_worker.work.
SELECT a.key AS arm, t.against, k.key AS kind, g.place AS place,
       coalesce(sum(n.looks), 0)::float8 AS looks, coalesce(sum(n.planned), 0)::float8 AS planned,
       coalesce(sum(n.planned_changed), 0)::float8 AS planned_changed,
       coalesce(sum(n.flagged), 0)::float8 AS flagged,
       coalesce(sum(n.flagged_really_stale), 0)::float8 AS flagged_really_stale,
       coalesce(sum(n.unflagged), 0)::float8 AS unflagged, coalesce(sum(n.fresh_low), 0)::float8 AS fresh_low,
       coalesce(sum(n.fresh_high), 0)::float8 AS fresh_high
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL (
    SELECT CASE WHEN strpos(r.report::text, $r$\u$r$) = 0 THEN r.report
                ELSE regexp_replace(r.report::text, $r$\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})$r$, $r$\\u003f$r$, 'g')::json
           END AS report
    OFFSET 0
) AS d
CROSS JOIN LATERAL (
    SELECT CASE WHEN json_typeof(d.report -> 'planned' -> 'arms') = 'object' THEN d.report -> 'planned' -> 'arms' ELSE '{}' END AS arms
    OFFSET 0
) AS p
CROSS JOIN LATERAL (
    SELECT CASE WHEN p.arms -> 'trial' ->> 'strategy' IN ('value', 'tiers', 'age') THEN p.arms -> 'trial' ->> 'strategy' END AS against
) AS t
CROSS JOIN LATERAL json_each(p.arms) AS a
CROSS JOIN LATERAL json_each(CASE WHEN json_typeof(a.value -> 'kinds') = 'object' THEN a.value -> 'kinds' ELSE '{}' END) AS k
CROSS JOIN LATERAL json_array_elements(CASE WHEN json_typeof(k.value) = 'array' THEN k.value ELSE '[]' END)
    WITH ORDINALITY AS g (value, place)
CROSS JOIN LATERAL (
    SELECT sum(v.value::float8) FILTER (WHERE v.key = 'looks') AS looks,
           sum(v.value::float8) FILTER (WHERE v.key = 'planned') AS planned,
           sum(v.value::float8) FILTER (WHERE v.key = 'planned_changed') AS planned_changed,
           sum(v.value::float8) FILTER (WHERE v.key = 'flagged') AS flagged,
           sum(v.value::float8) FILTER (WHERE v.key = 'flagged_really_stale') AS flagged_really_stale,
           sum(v.value::float8) FILTER (WHERE v.key = 'unflagged') AS unflagged,
           sum(v.value::float8) FILTER (WHERE v.key = 'fresh_low') AS fresh_low,
           sum(v.value::float8) FILTER (WHERE v.key = 'fresh_high') AS fresh_high
    FROM json_each_text(CASE WHEN json_typeof(g.value) = 'object' THEN g.value ELSE '{}' END) AS v
    WHERE v.value ~ '^[0-9]{1,12}(\.[0-9]{1,20})?$'
) AS n
WHERE r.started >= $1 AND strpos(r.report::text, '"planned"') > 0
  AND a.key IN ('main', 'trial') AND k.key IN ('clan', 'player', 'war') AND g.place <= 16
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
