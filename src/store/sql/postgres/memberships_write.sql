-- Closes stays ($1 id, $2 left_at) and opens new ones ($3 player, $4 clan, $5 joined_at). Ids come from the sequence.
WITH closed AS (
    UPDATE clan_memberships AS m
    SET left_at = c.left_at
    FROM unnest($1::bigint[], $2::timestamp[]) AS c (id, left_at)
    WHERE m.id = c.id AND m.left_at IS NULL
)
INSERT INTO clan_memberships (player_tag, clan_tag, joined_at)
SELECT o.player_tag, o.clan_tag, o.joined_at
FROM unnest($3::text[], $4::text[], $5::timestamp[]) AS o (player_tag, clan_tag, joined_at)
