-- Deletes one batch of rows of {table} for which {tag} has a newer row of the same day. The newest row of each day stays, and with
-- it the newest of all; and so does the row that refresh_state names.
-- $1: from this time on, $2: the end of that day, $3: the most rows, $4: the kind. Returns the number deleted, and the last time.
WITH gone AS (
    DELETE FROM {table} AS s
    WHERE s.id = ANY (ARRAY(
        SELECT o.id
        FROM {table} AS o
        WHERE o.ts >= $1::timestamp AND o.ts < $2::timestamp
          -- OFFSET 0: looked up row by row, since a batch looks at few of all rows.
          AND EXISTS (SELECT FROM {table} AS n WHERE n.{tag} = o.{tag} AND n.ts > o.ts AND n.ts < $2 OFFSET 0)
          AND NOT EXISTS (
              SELECT FROM refresh_worker.refresh_state AS k
              WHERE k.kind = $4 AND k.tag = o.{tag} AND k.snapshot_id = o.id
              OFFSET 0
          )
        ORDER BY o.ts
        LIMIT $3
    ))
    RETURNING s.ts
)
SELECT count(*), max(ts) FROM gone
