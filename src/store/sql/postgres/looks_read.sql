-- The records for replays from $1 until before $2, the oldest first.
SELECT l.at, l.kind, l.tag, l.changed, l.asked_at
FROM refresh_worker.looks AS l
WHERE l.at >= $1 AND l.at < $2
ORDER BY l.at, l.kind, l.tag
