-- $1 tag, $2 name, $3 role, $4 town_hall, $5 clan_tag, $6 trophies, $7 donations, $8 donations_received,
-- $9 war_attacks_used, $10 last_seen, $11 document (null: none known), $12 deep_link, $13 updated_at,
-- $14 claim: `document` (the player's own response), `member` (columns of a member list), `war` (attacks only),
-- $15 write to the snapshot rows: `insert`, `rewrite`, `leave`,
-- $16 ts (null: unchanged), $17 the row to rewrite, $18 whether its document is replaced.
-- Values meet columns of other types (`jsonb`, `bigint`, `timestamptz` and so on) only in assignments.
WITH incoming AS (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
                $10::timestamp[], $11::text[], $12::text[], $13::timestamp[], $14::text[], $15::text[],
                $16::timestamp[], $17::bigint[], $18::boolean[])
        AS i (tag, name, role, town_hall, clan_tag, trophies, donations, donations_received, war_attacks_used,
              last_seen, document, deep_link, updated_at, claim, snapshot, ts, row_id, replaces)
),
-- An equal document is not rewritten.
answered AS (
    INSERT INTO players AS p (tag, name, town_hall, role, clan_tag, updated_at, data, deep_link)
    SELECT i.tag, i.name, i.town_hall, i.role, i.clan_tag, i.updated_at, i.document::json, i.deep_link
    FROM incoming AS i
    WHERE i.claim = 'document'
    ON CONFLICT (tag) DO UPDATE SET
        name = excluded.name,
        town_hall = excluded.town_hall,
        role = excluded.role,
        clan_tag = excluded.clan_tag,
        updated_at = excluded.updated_at,
        data = CASE WHEN p.data::text = excluded.data::text THEN p.data ELSE excluded.data END,
        deep_link = excluded.deep_link
),
-- A member list sets columns only. The document stays, since the short form has no labels.
listed AS (
    INSERT INTO players AS p (tag, name, town_hall, role, clan_tag, updated_at, data, deep_link)
    SELECT i.tag, i.name, i.town_hall, i.role, i.clan_tag, i.updated_at,
           -- A player with history, deleted from `players` by another program, gets the newest document back.
           CASE WHEN i.document IS NOT NULL THEN i.document::json
                WHEN NOT EXISTS (SELECT FROM players AS k WHERE k.tag = i.tag OFFSET 0)
                THEN (SELECT o.data::text::json FROM player_snapshots AS o WHERE o.id = i.row_id) END,
           i.deep_link
    FROM incoming AS i
    WHERE i.claim = 'member'
    ON CONFLICT (tag) DO UPDATE SET
        name = excluded.name,
        town_hall = coalesce(excluded.town_hall, p.town_hall),
        role = coalesce(excluded.role, p.role),
        clan_tag = excluded.clan_tag,
        updated_at = excluded.updated_at,
        data = coalesce(p.data, excluded.data),
        deep_link = coalesce(nullif(p.deep_link, ''), excluded.deep_link)
    WHERE (p.name, p.clan_tag) IS DISTINCT FROM (excluded.name, excluded.clan_tag)
       OR p.town_hall IS DISTINCT FROM coalesce(excluded.town_hall, p.town_hall)
       OR p.role IS DISTINCT FROM coalesce(excluded.role, p.role)
       OR (p.data IS NULL AND excluded.data IS NOT NULL)
       OR coalesce(p.deep_link, '') = ''
       -- Readers would never request a row with an impossible time again.
       OR p.updated_at > '9999-12-31'
),
rewritten AS (
    UPDATE player_snapshots AS s
    SET ts = coalesce(i.ts, s.ts), clan_tag = i.clan_tag, name = i.name, role = i.role, town_hall = i.town_hall,
        trophies = i.trophies, donations = i.donations, donations_received = i.donations_received,
        war_attacks_used = i.war_attacks_used, last_seen = i.last_seen
    FROM incoming AS i
    WHERE i.snapshot = 'rewrite' AND s.id = i.row_id AND NOT i.replaces
),
replaced AS (
    UPDATE player_snapshots AS s
    SET ts = i.ts, clan_tag = i.clan_tag, name = i.name, role = i.role, town_hall = i.town_hall,
        trophies = i.trophies, donations = i.donations, donations_received = i.donations_received,
        war_attacks_used = i.war_attacks_used, last_seen = i.last_seen, data = i.document::json
    FROM incoming AS i
    WHERE i.snapshot = 'rewrite' AND s.id = i.row_id AND i.replaces
    RETURNING s.id, i.tag
),
inserted AS (
    INSERT INTO player_snapshots
        (ts, player_tag, clan_tag, name, role, town_hall, trophies, donations, donations_received, war_attacks_used,
         last_seen, data)
    SELECT i.ts, i.tag, i.clan_tag, i.name, i.role, i.town_hall, i.trophies, i.donations, i.donations_received,
           i.war_attacks_used, i.last_seen, i.document::json
    FROM incoming AS i
    WHERE i.snapshot = 'insert'
    RETURNING id, player_tag
)
UPDATE refresh_worker.refresh_state AS s
SET snapshot_id = n.id
FROM (SELECT id, player_tag::text AS tag FROM inserted UNION ALL SELECT id, tag FROM replaced) AS n
WHERE s.kind = 'player' AND s.tag = n.tag
