-- The first day of {table} that is not thinned yet and has a row, before $2: nothing when there is none. Days without rows are
-- skipped, and so are times that are none: infinity, and years before 1.
-- $1: the table.
SELECT date_trunc('day', min(s.ts))
FROM {table} AS s
WHERE s.ts >= '0001-01-01' AND s.ts < $2::timestamp
  AND s.ts >= coalesce(
      (SELECT p.thinned_until FROM refresh_worker.retention_progress AS p
       WHERE p.snapshot_table = $1 AND isfinite(p.thinned_until)), '0001-01-01'
  )
