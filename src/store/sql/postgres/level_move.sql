-- Adds $2 to the logarithm of the level of the side $1 at the time $3, from -15 to 15. What is not a number counts as 0.
-- After an hour without a step, planning has paused until now.
INSERT INTO refresh_worker.plan_level AS l (arm, ln_level, moved_at, listening_since)
VALUES ($1, greatest(-15, least(15, $2::double precision)), $3, $3)
ON CONFLICT (arm) DO UPDATE SET
    ln_level = greatest(-15, least(15, CASE WHEN l.ln_level BETWEEN -15 AND 15 THEN l.ln_level ELSE 0 END + $2)),
    moved_at = excluded.moved_at,
    listening_since = CASE WHEN l.moved_at < excluded.moved_at - interval '1 hour' OR l.listening_since > excluded.moved_at
                           THEN excluded.moved_at ELSE l.listening_since END
RETURNING l.ln_level
