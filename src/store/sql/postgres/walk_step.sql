-- A step of the walk. New places in the plan: $1 kind, $2 tag, $3 looked_at, $4 next_look, $5 bucket. The walk has come to $6 (kind),
-- $7 (tag), and ended at $8, if it has.
WITH walked AS (
    UPDATE refresh_worker.plan_walk AS w SET kind = $6, tag = $7, finished_at = $8 WHERE w.id = 1
)
INSERT INTO refresh_worker.plan (kind, tag, looked_at, next_look, bucket)
SELECT i.*
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::smallint[]) AS i (kind, tag, looked_at, next_look, bucket)
ORDER BY i.kind COLLATE "C", i.tag COLLATE "C"
ON CONFLICT (kind, tag) DO NOTHING
