-- Deletes records from before $1, at most $2.
DELETE FROM refresh_worker.looks
WHERE ctid = ANY (ARRAY(SELECT l.ctid FROM refresh_worker.looks AS l WHERE l.at < $1 ORDER BY l.at LIMIT $2))
