-- The first statement of a commit: decides which claims win, and locks all rows in one order.
-- $1 kind, $2 tag, $3 fetched_at, $4 content_hash, $5 fresh_until, $6 last_outcome, $7 league, $8 member_at,
-- $9 attacks_at: one element a row, each row once. $10: the batch's clans. $11: a stored time later than this is wrong.
WITH named AS (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[], $5::timestamptz[], $6::text[], $7::text[],
                $8::timestamptz[], $9::timestamptz[])
        AS n (kind, tag, fetched_at, content_hash, fresh_until, last_outcome, league, member_at, attacks_at)
),
-- A member list may close the memberships of these. They claim nothing and are only locked.
settled AS (
    SELECT m.player_tag::text AS tag
    FROM unnest($10::text[]) AS c (tag)
    CROSS JOIN LATERAL (
        SELECT k.player_tag FROM clan_memberships AS k
        WHERE k.clan_tag = c.tag AND (k.left_at IS NULL OR k.left_at = 'infinity')
        OFFSET 0
    ) AS m
    EXCEPT
    SELECT named.tag FROM named WHERE named.kind = 'player'
),
incoming AS (
    SELECT * FROM named
    UNION ALL
    SELECT 'player', tag, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM settled
)
INSERT INTO refresh_worker.refresh_state AS s
    (kind, tag, fetched_at, changed_at, content_hash, fresh_until, last_outcome, league, member_at, attacks_at)
SELECT i.kind, i.tag, i.fetched_at, CASE WHEN i.content_hash IS NOT NULL THEN i.fetched_at END, i.content_hash,
       i.fresh_until, i.last_outcome, i.league::json, i.member_at, i.attacks_at
FROM incoming AS i
-- Rows that claim nothing (a war's players, the settled) are locked if they exist, and never created.
WHERE i.fetched_at IS NOT NULL OR i.member_at IS NOT NULL
   -- OFFSET 0: one lookup a row. Before 14 PostgreSQL may read the whole table instead.
   OR EXISTS (SELECT FROM refresh_worker.refresh_state AS k WHERE k.kind = i.kind AND k.tag = i.tag OFFSET 0)
ORDER BY i.kind COLLATE "C", i.tag COLLATE "C"
ON CONFLICT (kind, tag) DO UPDATE SET
    -- The response counts when it is not older than the stored one.
    fetched_at = CASE WHEN refresh_worker.wins(excluded.fetched_at, s.fetched_at, $11)
                      THEN excluded.fetched_at ELSE s.fetched_at END,
    changed_at = CASE WHEN refresh_worker.wins(excluded.fetched_at, s.fetched_at, $11)
                       AND excluded.content_hash IS DISTINCT FROM s.content_hash AND excluded.content_hash IS NOT NULL
                      THEN excluded.fetched_at ELSE s.changed_at END,
    content_hash = CASE WHEN refresh_worker.wins(excluded.fetched_at, s.fetched_at, $11)
                        THEN coalesce(excluded.content_hash, s.content_hash) ELSE s.content_hash END,
    fresh_until = CASE WHEN refresh_worker.wins(excluded.fetched_at, s.fetched_at, $11)
                       THEN excluded.fresh_until ELSE s.fresh_until END,
    last_outcome = CASE WHEN refresh_worker.wins(excluded.fetched_at, s.fetched_at, $11)
                        THEN CASE WHEN excluded.content_hash = s.content_hash THEN 'unchanged'
                                  ELSE excluded.last_outcome END
                        ELSE s.last_outcome END,
    league = CASE WHEN refresh_worker.wins(excluded.fetched_at, s.fetched_at, $11)
                  THEN coalesce(excluded.league, s.league) ELSE s.league END,
    -- A member's copy counts when it is not older than the stored copy and the player's own response.
    member_at = CASE WHEN refresh_worker.wins(excluded.member_at, s.member_at, $11)
                      AND refresh_worker.wins(excluded.member_at, s.fetched_at, $11)
                     THEN excluded.member_at ELSE s.member_at END,
    attacks_at = greatest(CASE WHEN s.attacks_at <= $11 THEN s.attacks_at END, excluded.attacks_at)
-- Rows that fail this are locked all the same.
WHERE refresh_worker.wins(excluded.fetched_at, s.fetched_at, $11)
   OR (refresh_worker.wins(excluded.member_at, s.member_at, $11)
       AND refresh_worker.wins(excluded.member_at, s.fetched_at, $11))
   OR excluded.attacks_at IS NOT NULL
RETURNING s.kind, s.tag, s.fetched_at, s.member_at, s.attacks_at, s.last_outcome, s.snapshot_id
