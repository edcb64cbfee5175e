-- A step of the walk. New places in the plan: $1 kind, $2 tag, $3 looked_at, $4 next_look, $5 bucket. The walk has come to $6 (kind),
-- $7 (tag), and ended at $8, if it has. Looks planned for later than $9 were written by a wrong clock: they are spread over $10
-- seconds from $11 on.
WITH walked AS (
    UPDATE refresh_worker.plan_walk AS w SET kind = $6, tag = $7, finished_at = $8 WHERE w.id = 1
),
put_right AS (
    UPDATE refresh_worker.plan AS p
    SET next_look = $11::timestamptz + p.bucket / 10000.0 * $10::double precision * interval '1 second'
    WHERE p.ctid = ANY (ARRAY(
        -- Rows that others hold are left for the next step: nobody waits out of order.
        SELECT k.ctid FROM refresh_worker.plan AS k WHERE k.next_look > $9
        ORDER BY k.next_look DESC LIMIT 1000
        FOR UPDATE SKIP LOCKED))
)
INSERT INTO refresh_worker.plan (kind, tag, looked_at, next_look, bucket)
SELECT i.*
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::smallint[]) AS i (kind, tag, looked_at, next_look, bucket)
ORDER BY i.kind COLLATE "C", i.tag COLLATE "C"
ON CONFLICT (kind, tag) DO NOTHING
