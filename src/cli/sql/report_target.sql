-- The stored objects of kind $1, and those that are not older than $2 seconds. A time that is still to come, or cannot be, says that
-- nobody knows when.
SELECT count(*) AS objects,
       count(*) FILTER (WHERE s.fetched_at BETWEEN now() - make_interval(secs => least($2::float8, 3e9)) AND now() + interval '1 minute')
           AS young
FROM refresh_worker.refresh_state AS s
WHERE s.kind = $1 AND s.fetched_at IS NOT NULL
