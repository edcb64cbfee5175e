-- What the planner saw in the runs that began at $1 or later, by side, kind and group; `against` is the strategy that a trial compares
-- with. A report may hold anything: what is not a number counts as none, and a group with a
-- number below 0 or above 10^12 is left out. Taken apart as jsonb, once a run, since
-- thousands of reports with a hundred groups each would take minutes otherwise.
SELECT a.key AS arm, t.against, k.key AS kind, g.place AS place,
       coalesce(sum(n.looks), 0)::float8 AS looks, coalesce(sum(n.planned), 0)::float8 AS planned,
       coalesce(sum(n.planned_changed), 0)::float8 AS planned_changed,
       coalesce(sum(n.flagged), 0)::float8 AS flagged,
       coalesce(sum(n.flagged_really_stale), 0)::float8 AS flagged_really_stale,
       coalesce(sum(n.unflagged), 0)::float8 AS unflagged, coalesce(sum(n.fresh_low), 0)::float8 AS fresh_low,
       coalesce(sum(n.fresh_high), 0)::float8 AS fresh_high
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL (
    -- As in the view refresh_worker.work.
    SELECT CASE WHEN strpos(r.report::text, $r$\u$r$) = 0 THEN r.report
                ELSE regexp_replace(r.report::text, $r$\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})$r$, $r$\\u003f$r$, 'g')::json
           END AS report
    OFFSET 0
) AS d
CROSS JOIN LATERAL (SELECT d.report -> 'planned' -> 'arms' AS arms OFFSET 0) AS j
CROSS JOIN LATERAL (
    -- jsonb fails on a number of more than 131,072 digits.
    SELECT CASE WHEN json_typeof(j.arms) = 'object' AND length(j.arms::text) < 100000 AND j.arms::text !~ '[eE][+-]?[0-9]{5}'
                THEN j.arms::jsonb ELSE '{}' END AS arms
    OFFSET 0
) AS p
CROSS JOIN LATERAL (
    SELECT CASE WHEN p.arms -> 'trial' ->> 'strategy' IN ('value', 'tiers', 'age') THEN p.arms -> 'trial' ->> 'strategy' END AS against
    OFFSET 0
) AS t
CROSS JOIN LATERAL jsonb_each(p.arms) AS a
CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(a.value -> 'kinds') = 'object' THEN a.value -> 'kinds' ELSE '{}' END) AS k
CROSS JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(k.value) = 'array' THEN k.value ELSE '[]' END)
    WITH ORDINALITY AS g (value, place)
CROSS JOIN LATERAL (
    SELECT CASE WHEN jsonb_typeof(g.value -> 'looks') = 'number' THEN (g.value -> 'looks')::numeric END AS looks,
           CASE WHEN jsonb_typeof(g.value -> 'planned') = 'number' THEN (g.value -> 'planned')::numeric END AS planned,
           CASE WHEN jsonb_typeof(g.value -> 'planned_changed') = 'number' THEN (g.value -> 'planned_changed')::numeric END
               AS planned_changed,
           CASE WHEN jsonb_typeof(g.value -> 'flagged') = 'number' THEN (g.value -> 'flagged')::numeric END AS flagged,
           CASE WHEN jsonb_typeof(g.value -> 'flagged_really_stale') = 'number' THEN (g.value -> 'flagged_really_stale')::numeric END
               AS flagged_really_stale,
           CASE WHEN jsonb_typeof(g.value -> 'unflagged') = 'number' THEN (g.value -> 'unflagged')::numeric END AS unflagged,
           CASE WHEN jsonb_typeof(g.value -> 'fresh_low') = 'number' THEN (g.value -> 'fresh_low')::numeric END AS fresh_low,
           CASE WHEN jsonb_typeof(g.value -> 'fresh_high') = 'number' THEN (g.value -> 'fresh_high')::numeric END AS fresh_high
    OFFSET 0
) AS n
WHERE r.started >= $1 AND strpos(r.report::text, '"planned"') > 0
  AND a.key IN ('main', 'trial') AND k.key IN ('clan', 'player', 'war') AND g.place <= 16
  AND greatest(n.looks, n.planned, n.planned_changed, n.flagged, n.flagged_really_stale, n.unflagged, n.fresh_low, n.fresh_high) <= 1e12
  AND least(n.looks, n.planned, n.planned_changed, n.flagged, n.flagged_really_stale, n.unflagged, n.fresh_low, n.fresh_high) >= 0
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
