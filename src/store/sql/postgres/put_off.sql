-- Puts next looks off: $1 kind, $2 tag, $3 until when, sorted by kind and tag. None is brought forward.
WITH held AS MATERIALIZED (
    -- One lookup and lock after the other, in the order in which all writers of these rows take them.
    SELECT p.kind, p.tag, a.at
    FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS a (kind, tag, at)
    CROSS JOIN LATERAL (
        SELECT k.kind, k.tag FROM refresh_worker.plan AS k WHERE k.kind = a.kind AND k.tag = a.tag FOR UPDATE
    ) AS p
)
UPDATE refresh_worker.plan AS p
SET next_look = greatest(p.next_look, h.at)
FROM held AS h
WHERE p.kind = h.kind AND p.tag = h.tag
