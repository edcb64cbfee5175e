-- Writes down that everything in table $1 before day $2 is thinned, as of $3.
INSERT INTO refresh_worker.retention_progress AS p (snapshot_table, thinned_until, noted_at)
VALUES ($1, $2, $3)
ON CONFLICT (snapshot_table) DO UPDATE SET
    thinned_until = CASE WHEN isfinite(p.thinned_until) THEN greatest(p.thinned_until, excluded.thinned_until)
                         ELSE excluded.thinned_until END,
    noted_at = excluded.noted_at
