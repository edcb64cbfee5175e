-- One batch of rows of {table} that go: {tag} has a newer row of the same day, the day is over and older than what is kept
-- whole. Of each day the newest row stays, so the newest of all does, too; and so does the row that refresh_state names.
-- $1: from this day on, $2: before this day, $3: at most so many, $4: the kind.
WITH going AS (
    SELECT s.id
    FROM {table} AS s
    WHERE s.ts >= $1 AND s.ts < $2
      AND EXISTS (
          SELECT FROM {table} AS n
          WHERE n.{tag} = s.{tag} AND n.ts > s.ts AND n.ts < date_trunc('day', s.ts) + interval '1 day'
      )
      AND NOT EXISTS (
          SELECT FROM refresh_worker.refresh_state AS k
          WHERE k.kind = $4 AND k.tag = s.{tag} AND k.snapshot_id = s.id
      )
    ORDER BY s.ts
    LIMIT $3
)
DELETE FROM {table} AS s USING going WHERE s.id = going.id
