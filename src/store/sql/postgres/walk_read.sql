-- The next $3 objects of the walk, after $1 (kind), $2 (tag): which of them have a place in the plan, and the clan of the others.
SELECT s.kind, s.tag, s.fetched_at, p.is_planned IS NOT NULL AS is_planned, c.clan_tag::text AS clan_tag
FROM (
    SELECT k.kind, k.tag, k.fetched_at FROM refresh_worker.refresh_state AS k
    WHERE (k.kind, k.tag) > ($1, $2)
    ORDER BY k.kind, k.tag
    LIMIT $3
) AS s
LEFT JOIN LATERAL (
    SELECT true AS is_planned FROM refresh_worker.plan AS k WHERE k.kind = s.kind AND k.tag = s.tag OFFSET 0
) AS p ON true
LEFT JOIN LATERAL (
    SELECT k.clan_tag FROM players AS k WHERE s.kind = 'player' AND p.is_planned IS NULL AND k.tag = s.tag OFFSET 0
) AS c ON true
ORDER BY s.kind, s.tag
