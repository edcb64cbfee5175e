-- A session that holds, or waits for, a lock on a whole table that blocks commits. Else, when $1, the session idle in the
-- oldest transaction with writes to these tables: it may hold the lock of a row. At most one.
SELECT l.relation::regclass::text AS relation, m.is_whole_table,
       l.pid, false AS is_ours, a.usename::text AS role, nullif(a.application_name, '') AS application, a.state,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since, $1::boolean AS is_guess
FROM pg_locks AS l
CROSS JOIN LATERAL (
    SELECT l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AS is_whole_table
) AS m
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.relation IN (
      to_regclass('clans'), to_regclass('players'), to_regclass('clan_snapshots'), to_regclass('player_snapshots'),
      to_regclass('war_snapshots'), to_regclass('clan_memberships'), to_regclass('refresh_worker.refresh_state'),
      to_regclass('refresh_worker.outbox'))
  AND (m.is_whole_table
       OR ($1 AND l.granted AND l.mode IN ('RowExclusiveLock', 'RowShareLock')
           AND coalesce(a.state, 'idle in transaction') LIKE 'idle in transaction%'))
ORDER BY m.is_whole_table DESC, l.granted DESC, a.xact_start
LIMIT 1
