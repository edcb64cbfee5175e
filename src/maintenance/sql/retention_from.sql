-- The first day of {table} before $2 that has a row and is not thinned yet; null when there is none. Skips infinity and years
-- before 1. $1: the table.
SELECT date_trunc('day', min(s.ts))
FROM {table} AS s
WHERE s.ts >= '0001-01-01' AND s.ts < $2::timestamp
  AND s.ts >= coalesce(
      (SELECT p.thinned_until FROM refresh_worker.retention_progress AS p
       WHERE p.snapshot_table = $1 AND isfinite(p.thinned_until)), '0001-01-01'
  )
