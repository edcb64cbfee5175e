-- The next planned looks until $1, the earliest first: at most $7, after the object $3 (kind), $4 (tag) whose next look is $2 (null: from the first).
-- Only of the buckets from $5 to $6.
SELECT p.kind, p.tag, p.looked_at, p.next_look, p.heard_at, p.changes, p.watched, p.mails, p.exposed, p.bucket, p.hinted, s.fresh_until
FROM (
    SELECT k.* FROM refresh_worker.plan AS k
    WHERE k.next_look <= $1 AND k.next_look >= coalesce($2::timestamptz, '-infinity') AND (k.next_look, k.kind, k.tag) > (coalesce($2::timestamptz, '-infinity'), $3, $4)
      AND greatest(least(k.bucket, 9999), 0) BETWEEN $5::integer AND $6::integer
    ORDER BY k.next_look, k.kind, k.tag
    LIMIT $7
) AS p
LEFT JOIN LATERAL (
    SELECT k.fresh_until FROM refresh_worker.refresh_state AS k WHERE k.kind = p.kind AND k.tag = p.tag OFFSET 0
) AS s ON true
ORDER BY p.next_look, p.kind, p.tag
