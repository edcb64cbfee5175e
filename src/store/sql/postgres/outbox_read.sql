-- Outbox entries of commits before $1 that nobody has deleted, the oldest first, at most $2.
SELECT e.id, e.stored_at, e.payload
FROM refresh_worker.outbox AS e
WHERE e.stored_at < $1
ORDER BY e.stored_at, e.id
LIMIT $2
