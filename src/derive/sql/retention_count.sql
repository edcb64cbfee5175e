-- How many rows of {table} would go, and how many would stay of those days. $1: from this day on, $2: before this day,
-- $3: the kind.
SELECT count(*) FILTER (WHERE goes), count(*) FILTER (WHERE NOT goes)
FROM (
    SELECT EXISTS (
               SELECT FROM {table} AS n
               WHERE n.{tag} = s.{tag} AND n.ts > s.ts AND n.ts < date_trunc('day', s.ts) + interval '1 day'
           ) AND NOT EXISTS (
               SELECT FROM refresh_worker.refresh_state AS k
               WHERE k.kind = $3 AND k.tag = s.{tag} AND k.snapshot_id = s.id
           ) AS goes
    FROM {table} AS s
    WHERE s.ts >= $1 AND s.ts < $2
) AS q
