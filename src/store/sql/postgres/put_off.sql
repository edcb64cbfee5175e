-- Puts next looks off: $1 kind, $2 tag, $3 until when, sorted by kind and tag. None is brought forward. Only while the last look ($5) and
-- the hint ($6) are the ones that were seen, where they matter ($4): a commit may have learned more since.
WITH held AS MATERIALIZED (
    -- One lookup and lock after the other, in the order in which all writers of these rows take them.
    SELECT p.kind, p.tag, a.at, a.matters, a.looked_at, a.hinted
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::boolean[], $5::timestamptz[], $6::boolean[])
        AS a (kind, tag, at, matters, looked_at, hinted)
    CROSS JOIN LATERAL (
        SELECT k.kind, k.tag FROM refresh_worker.plan AS k WHERE k.kind = a.kind AND k.tag = a.tag FOR UPDATE
    ) AS p
)
UPDATE refresh_worker.plan AS p
SET next_look = greatest(p.next_look, h.at)
FROM held AS h
WHERE p.kind = h.kind AND p.tag = h.tag
    -- A time that others wrote may be finer than ours.
    AND (NOT h.matters OR (p.hinted = h.hinted AND date_trunc('milliseconds', p.looked_at) IS NOT DISTINCT FROM h.looked_at))
