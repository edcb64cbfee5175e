-- Counts the rows of {table} that would be deleted, and those of the same days that would stay. $1: from this day on, $2: before
-- this day, $3: the kind. One row per object and day stays, and so does the row that refresh_state names.
WITH days AS (
    SELECT count(*) AS rows, CASE WHEN s.{tag} IS NULL THEN count(*) ELSE 1 END AS stay
    FROM {table} AS s
    WHERE s.ts >= $1::timestamp AND s.ts < $2::timestamp
    GROUP BY s.{tag}, date_trunc('day', s.ts)
),
-- Looked up from the few rows that are named, each by its id.
named AS (
    SELECT count(*) AS stay
    FROM (
        SELECT k.tag, k.snapshot_id FROM refresh_worker.refresh_state AS k
        WHERE k.kind = $3 AND k.snapshot_id IS NOT NULL
        OFFSET 0
    ) AS k
    CROSS JOIN LATERAL (
        SELECT o.{tag} AS tag, o.ts FROM {table} AS o WHERE o.id = k.snapshot_id OFFSET 0
    ) AS s
    WHERE s.tag = k.tag AND s.ts >= $1::timestamp AND s.ts < $2::timestamp AND EXISTS (
        SELECT FROM {table} AS n
        WHERE n.{tag} = k.tag AND n.ts > s.ts AND n.ts < date_trunc('day', s.ts) + interval '1 day'
        OFFSET 0
    )
)
SELECT (coalesce(sum(d.rows - d.stay), 0) - (SELECT stay FROM named))::bigint,
       (coalesce(sum(d.stay), 0) + (SELECT stay FROM named))::bigint
FROM days AS d
