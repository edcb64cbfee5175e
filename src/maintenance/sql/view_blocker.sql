-- The oldest session that holds a lock on a materialized view ($1, else $2) or on a table that its query reads directly.
SELECT concat('pid ', l.pid, ' (', concat_ws('; ', a.state,
           'its transaction began ' || to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           'role ' || a.usename, 'application ' || nullif(a.application_name, '')), ')')
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.relation = coalesce(to_regclass($1), to_regclass($2))
       OR (l.mode = 'AccessExclusiveLock' AND l.relation IN (
           SELECT d.refobjid
           FROM pg_rewrite AS r
           JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass
           WHERE r.ev_class = coalesce(to_regclass($1), to_regclass($2)))))
ORDER BY a.xact_start
LIMIT 1
