-- The last writes of a commit. Closes stays ($1 id, $2 left_at) and opens new ones ($3 player, $4 clan, $5 joined_at); ids come
-- from the sequence. Keeps what has to be told ($6 id, or none; $7 the time, $8 the words), and forgets what is told by now
-- ($9 ids).
WITH closed AS (
    UPDATE clan_memberships AS m
    SET left_at = c.left_at
    FROM unnest($1::bigint[], $2::timestamp[]) AS c (id, left_at)
    WHERE m.id = c.id AND (m.left_at IS NULL OR m.left_at = 'infinity')
),
kept AS (
    INSERT INTO refresh_worker.outbox (note, stored_at, words)
    SELECT $6::bigint, $7::timestamptz, $8::text
    WHERE $6::bigint IS NOT NULL
),
forgotten AS (
    DELETE FROM refresh_worker.outbox AS u WHERE u.note = ANY ($9::bigint[])
)
INSERT INTO clan_memberships (player_tag, clan_tag, joined_at)
SELECT o.player_tag, o.clan_tag, o.joined_at
FROM unnest($3::text[], $4::text[], $5::timestamp[]) AS o (player_tag, clan_tag, joined_at)
