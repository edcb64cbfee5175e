-- The session that blocks the transaction with the mark $1, $2, as far as this role may see it: of the sessions at the root of
-- the chain the one with the oldest transaction. Run on another connection during the wait.
WITH RECURSIVE waiting AS (
    SELECT l.pid
    FROM pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.classid = $1::integer::oid AND l.objid = $2::integer::oid AND l.objsubid = 2 AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
),
chain AS (
    SELECT w.pid AS waiting, b.pid, 1 AS depth
    FROM waiting AS w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid)
    UNION
    SELECT c.waiting, b.pid, c.depth + 1
    FROM chain AS c CROSS JOIN LATERAL unnest(pg_blocking_pids(c.pid)) AS b (pid)
    WHERE c.depth < 5
)
SELECT coalesce(wanted.relation, marked.relation, written.relation)::regclass::text AS relation, coalesce(wanted.is_needed, false) AS is_whole_table,
       c.pid, a.usename = session_user AND a.application_name = current_setting('application_name') AS is_ours,
       a.usename::text AS role, nullif(a.application_name, '') AS application, a.state,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since, false AS is_guess
FROM chain AS c
LEFT JOIN LATERAL (
    -- A locked partition, or a table that a trigger uses, blocks only some rows.
    SELECT l.relation, l.relation IN (
        to_regclass('clans'), to_regclass('players'), to_regclass('clan_snapshots'), to_regclass('player_snapshots'),
        to_regclass('war_snapshots'), to_regclass('clan_memberships'))
        OR t.relnamespace = to_regnamespace('refresh_worker') AS is_needed
    FROM pg_locks AS l JOIN pg_class AS t ON t.oid = l.relation
    WHERE l.pid = c.waiting AND NOT l.granted AND l.locktype = 'relation' LIMIT 1
) AS wanted ON true
-- A session that waits for a row holds a lock of the tuple.
LEFT JOIN LATERAL (
    SELECT l.relation FROM pg_locks AS l WHERE l.pid = c.waiting AND l.locktype = 'tuple' LIMIT 1
) AS marked ON true
-- Otherwise it is a row of a table that both sessions write.
LEFT JOIN LATERAL (
    SELECT l.relation
    FROM pg_locks AS l
    JOIN pg_locks AS o ON o.pid = c.waiting AND o.relation = l.relation AND o.database = l.database
         AND o.mode = 'RowExclusiveLock'
    JOIN pg_class AS t ON t.oid = l.relation AND t.relkind IN ('r', 'p')
    WHERE l.pid = c.pid AND l.locktype = 'relation' AND l.mode IN ('RowExclusiveLock', 'RowShareLock')
    LIMIT 1
) AS written ON true
LEFT JOIN pg_stat_activity AS a ON a.pid = c.pid
WHERE cardinality(pg_blocking_pids(c.pid)) = 0
ORDER BY wanted.relation IS NULL, a.xact_start
LIMIT 1
