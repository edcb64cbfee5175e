-- $1 tag, $2 name, $3 member_count, $4 level, $5 war_wins, $6 war_losses, $7 document, $8 deep_link, $9 updated_at,
-- $10 ts, $11 the row to move (null: insert), $12 whether the moved row's document is replaced.
-- Values meet columns of other types (`jsonb`, `bigint`, `timestamptz` and so on) only in assignments: no expression has both.
WITH incoming AS (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::int[], $6::int[], $7::text[], $8::text[],
                $9::timestamp[], $10::timestamp[], $11::bigint[], $12::boolean[])
        AS i (tag, name, member_count, level, war_wins, war_losses, document, deep_link, updated_at, ts, row_id, replaces)
),
-- An equal document is not rewritten.
present AS (
    INSERT INTO clans AS c (tag, data, updated_at, deep_link)
    SELECT i.tag, i.document::json, i.updated_at, i.deep_link FROM incoming AS i
    ON CONFLICT (tag) DO UPDATE SET
        data = CASE WHEN c.data::text = excluded.data::text THEN c.data ELSE excluded.data END,
        updated_at = excluded.updated_at,
        deep_link = excluded.deep_link
),
moved AS (
    UPDATE clan_snapshots AS s
    SET ts = i.ts, name = i.name, member_count = i.member_count, level = i.level, war_wins = i.war_wins,
        war_losses = i.war_losses
    FROM incoming AS i
    WHERE s.id = i.row_id AND NOT i.replaces
),
replaced AS (
    UPDATE clan_snapshots AS s
    SET ts = i.ts, name = i.name, member_count = i.member_count, level = i.level, war_wins = i.war_wins,
        war_losses = i.war_losses, data = i.document::json
    FROM incoming AS i
    WHERE s.id = i.row_id AND i.replaces
    RETURNING s.id, i.tag
),
inserted AS (
    INSERT INTO clan_snapshots (ts, clan_tag, name, member_count, level, war_wins, war_losses, data)
    SELECT i.ts, i.tag, i.name, i.member_count, i.level, i.war_wins, i.war_losses, i.document::json
    FROM incoming AS i
    WHERE i.row_id IS NULL
    RETURNING id, clan_tag
)
UPDATE refresh_worker.refresh_state AS s
SET snapshot_id = n.id
FROM (SELECT id, clan_tag::text AS tag FROM inserted UNION ALL SELECT id, tag FROM replaced) AS n
WHERE s.kind = 'clan' AND s.tag = n.tag
