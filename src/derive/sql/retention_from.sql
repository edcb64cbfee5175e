-- The day from which {table} is not thinned yet: what was noted, else the day of its oldest row. Nothing when it is empty.
-- $1: the table.
SELECT coalesce(
    (SELECT p.thinned_until FROM refresh_worker.retention_progress AS p WHERE p.snapshot_table = $1),
    (SELECT date_trunc('day', min(s.ts)) FROM {table} AS s WHERE s.ts >= '0001-01-01')
)
