-- Everything that a commit writes for the planner. Places in the plan: $1 kind, $2 tag, $3 looked_at, $4 next_look, $5 heard_at,
-- $6 changes, $7 watched, $8 mails, $9 exposed, $10 bucket, $11 hinted. Records for replays: $12 at, $13 kind, $14 tag, $15 changed,
-- $16 active, $17 asked_at.
WITH recorded AS (
    INSERT INTO refresh_worker.looks (at, kind, tag, changed, active, asked_at)
    SELECT r.* FROM unnest($12::timestamptz[], $13::text[], $14::text[], $15::boolean[], $16::boolean[], $17::timestamptz[]) AS r
)
INSERT INTO refresh_worker.plan AS p
    (kind, tag, looked_at, next_look, heard_at, changes, watched, mails, exposed, bucket, hinted)
SELECT i.*
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::real[], $7::real[], $8::real[],
            $9::real[], $10::smallint[], $11::boolean[])
    AS i (kind, tag, looked_at, next_look, heard_at, changes, watched, mails, exposed, bucket, hinted)
-- All writers of these rows take them in this order.
ORDER BY i.kind COLLATE "C", i.tag COLLATE "C"
ON CONFLICT (kind, tag) DO UPDATE SET
    looked_at = excluded.looked_at, next_look = excluded.next_look, heard_at = excluded.heard_at, changes = excluded.changes,
    watched = excluded.watched, mails = excluded.mails, exposed = excluded.exposed, bucket = excluded.bucket, hinted = excluded.hinted
