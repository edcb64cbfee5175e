-- The memberships that a batch can change: $1 observed players, $2 clans with a member list. Closed ones only since $3, the
-- earliest observation. A membership that ends at infinity is open.
-- A lookup for each tag instead of a condition with OR: a generic plan would compare every membership of these clans with
-- thousands of tags. OFFSET 0 keeps the planner from reading whole tables.
SELECT m.id, m.player_tag::text AS player_tag, m.clan_tag::text AS clan_tag, m.joined_at, nullif(m.left_at, 'infinity') AS left_at,
       s.fetched_at AT TIME ZONE 'UTC' AS fetched_at, s.member_at AT TIME ZONE 'UTC' AS member_at
FROM (
    SELECT o.*
    FROM unnest($1::text[]) AS p (tag)
    CROSS JOIN LATERAL (
        SELECT k.id, k.player_tag, k.clan_tag, k.joined_at, k.left_at
        FROM clan_memberships AS k
        WHERE k.player_tag = p.tag AND k.clan_tag IS NOT NULL
          AND (k.left_at IS NULL OR k.left_at >= $3::timestamp OR k.joined_at >= $3::timestamp)
        OFFSET 0
    ) AS o
    UNION
    SELECT o.*
    FROM unnest($2::text[]) AS c (tag)
    CROSS JOIN LATERAL (
        SELECT k.id, k.player_tag, k.clan_tag, k.joined_at, k.left_at
        FROM clan_memberships AS k
        WHERE k.clan_tag = c.tag AND k.player_tag IS NOT NULL AND (k.left_at IS NULL OR k.left_at = 'infinity')
        OFFSET 0
    ) AS o
) AS m
LEFT JOIN LATERAL (
    SELECT k.fetched_at, k.member_at FROM refresh_worker.refresh_state AS k
    WHERE k.kind = 'player' AND k.tag = m.player_tag
    OFFSET 0
) AS s ON true
