-- The day from which {table} is not thinned yet: what was noted, but not before the day of its oldest row. Nothing when it is
-- empty. Times that cannot be are passed over. $1: the table.
SELECT greatest(
    (SELECT p.thinned_until FROM refresh_worker.retention_progress AS p
     WHERE p.snapshot_table = $1 AND isfinite(p.thinned_until)),
    (SELECT date_trunc('day', min(s.ts)) FROM {table} AS s WHERE s.ts >= '0001-01-01')
)
