-- The places in the plan of the objects $1 (kind), $2 (tag), and the levels, as rows of kind `level`. `fresh_until` only where $3:
-- a response brings its own.
SELECT p.kind, p.tag, p.looked_at, p.next_look, p.heard_at, p.changes, p.watched, p.mails, p.exposed, p.bucket, p.hinted, s.fresh_until,
       NULL::double precision AS ln_level
FROM unnest($1::text[], $2::text[], $3::boolean[]) AS a (kind, tag, is_asked)
CROSS JOIN LATERAL (
    SELECT k.* FROM refresh_worker.plan AS k WHERE k.kind = a.kind AND k.tag = a.tag OFFSET 0
) AS p
LEFT JOIN LATERAL (
    SELECT k.fresh_until FROM refresh_worker.refresh_state AS k WHERE a.is_asked AND k.kind = a.kind AND k.tag = a.tag OFFSET 0
) AS s ON true
UNION ALL
SELECT 'level', l.arm, l.listening_since, l.moved_at, NULL, 0::real, 0::real, 0::real, 0::real, 0::smallint, false,
       NULL, l.ln_level
FROM refresh_worker.plan_level AS l
