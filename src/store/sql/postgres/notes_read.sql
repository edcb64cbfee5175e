-- What commits before $1 have to tell and nobody has forgotten, the oldest first, at most $2.
SELECT u.note AS id, u.stored_at, u.words
FROM refresh_worker.outbox AS u
WHERE u.stored_at < $1
ORDER BY u.stored_at, u.note
LIMIT $2
