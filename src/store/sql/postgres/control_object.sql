-- An object of kind $1 with a good response since $4, and none of the tags $5. It reads a bounded stretch of rows before and
-- after the tag $2, so that its cost does not grow with the table. Objects whose copy the API would only repeat at $3 come last.
SELECT s.tag
FROM (
    (SELECT r.tag, r.fetched_at, r.fresh_until, r.last_outcome FROM refresh_worker.refresh_state AS r
     WHERE r.kind = $1 AND r.tag >= $2 ORDER BY r.tag LIMIT 200)
    UNION ALL
    (SELECT r.tag, r.fetched_at, r.fresh_until, r.last_outcome FROM refresh_worker.refresh_state AS r
     WHERE r.kind = $1 AND r.tag < $2 ORDER BY r.tag LIMIT 200)
) AS s
WHERE s.last_outcome IN ('stored', 'unchanged') AND s.fetched_at > $4 AND s.tag <> ALL ($5)
ORDER BY s.fresh_until > $3, s.fetched_at DESC
LIMIT 1
