-- $1 tag of the clan, $2 document, $3 ts, $4 the row to move (null: insert), $5 whether its document is replaced.
WITH incoming AS (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::timestamp[], $4::bigint[], $5::boolean[])
        AS i (tag, document, ts, row_id, replaces)
),
moved AS (
    UPDATE war_snapshots AS s
    SET ts = i.ts
    FROM incoming AS i
    WHERE s.id = i.row_id AND NOT i.replaces
),
replaced AS (
    UPDATE war_snapshots AS s
    SET ts = i.ts, data = i.document::json
    FROM incoming AS i
    WHERE s.id = i.row_id AND i.replaces
    RETURNING s.id, i.tag
),
inserted AS (
    INSERT INTO war_snapshots (ts, clan_tag, data)
    SELECT i.ts, i.tag, i.document::json FROM incoming AS i WHERE i.row_id IS NULL
    RETURNING id, clan_tag
)
UPDATE refresh_worker.refresh_state AS s
SET snapshot_id = n.id
FROM (SELECT id, clan_tag::text AS tag FROM inserted UNION ALL SELECT id, tag FROM replaced) AS n
WHERE s.kind = 'war' AND s.tag = n.tag
