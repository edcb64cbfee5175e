-- The errors that runs reported for an object, the newest first. $1 its name, $2 the limit.
SELECT e.run, e.started, e.text
FROM refresh_worker.run_errors AS e
WHERE e.object = $1
ORDER BY e.started DESC, e.run, e.place
LIMIT $2
