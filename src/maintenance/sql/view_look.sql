-- The state of a view before its refresh. $1: its name; $2: its name in our own schema, searched second; null for a name that has
-- a schema.
-- `has_key`: a unique index that REFRESH ... CONCURRENTLY can use, by PostgreSQL's own rule: a valid btree over columns
-- alone, of all rows, checked at once.
SELECT format('%I.%I', n.nspname, c.relname) AS qualified,
       c.relkind = 'm' AS is_materialized,
       c.relispopulated AS is_populated,
       EXISTS (
           SELECT FROM pg_index AS i
           JOIN pg_class AS ic ON ic.oid = i.indexrelid
           JOIN pg_am AS am ON am.oid = ic.relam
           WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
             AND i.indpred IS NULL AND i.indexprs IS NULL AND am.amname = 'btree'
       ) AS has_key,
       pg_has_role(c.relowner, 'USAGE')
           OR CASE WHEN current_setting('server_version_num')::int >= 170000
                   THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END AS is_ours,
       quote_ident(current_user) AS role,
       coalesce(has_table_privilege(to_regclass('materialized_view_refresh_log')::oid, 'SELECT'), false) AS has_log
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = coalesce(to_regclass($1), to_regclass($2))
