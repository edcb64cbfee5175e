-- The stays a batch can change: $1 players it places, $2 clans whose lists it has. Of closed stays only those since $3,
-- the earliest moment the batch speaks of.
SELECT m.id, m.player_tag::text AS player_tag, m.clan_tag::text AS clan_tag, m.joined_at, m.left_at,
       s.fetched_at AT TIME ZONE 'UTC' AS fetched_at, s.member_at AT TIME ZONE 'UTC' AS member_at
FROM clan_memberships AS m
LEFT JOIN refresh_worker.refresh_state AS s ON s.kind = 'player' AND s.tag = m.player_tag
WHERE m.player_tag IS NOT NULL AND m.clan_tag IS NOT NULL
  AND ((m.player_tag = ANY ($1) AND (m.left_at IS NULL OR m.left_at >= $3 OR m.joined_at >= $3))
    OR (m.clan_tag = ANY ($2) AND (m.left_at IS NULL OR m.left_at = 'infinity')))
