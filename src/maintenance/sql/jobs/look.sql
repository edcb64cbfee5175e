-- The table of jobs: does it exist, may it be created, which columns and rights are missing, are rows hidden from the role; and
-- its schema, when the search path does not reach it.
WITH policies AS (
    SELECT p.polrelid, p.polpermissive, p.polcmd,
           coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') = 'true'
               AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true' AS is_open
    FROM pg_policy AS p
    WHERE 0 = ANY (p.polroles)
       OR EXISTS (SELECT FROM unnest(p.polroles) AS r (oid) WHERE r.oid <> 0 AND pg_has_role(r.oid, 'USAGE'))
)
SELECT t.oid IS NOT NULL AS is_there,
       CASE WHEN t.oid IS NULL THEN (
           SELECT quote_ident(n.nspname)
           FROM pg_class AS c
           JOIN pg_namespace AS n ON n.oid = c.relnamespace
           WHERE c.relname = 'background_job_status' AND c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname !~ '^pg_'
           ORDER BY n.nspname LIMIT 1
       ) END AS elsewhere,
       quote_ident(current_schema()) AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_make,
       ARRAY(
           SELECT c FROM unnest(ARRAY['id', 'job_type', 'job_payload', 'status', 'started_at', 'completed_at', 'error_message',
                                      'results', 'retry_count', 'max_retries', 'priority', 'created_at', 'updated_at']) AS c
           WHERE t.oid IS NOT NULL
             AND NOT EXISTS (SELECT FROM pg_attribute AS a
                             WHERE a.attrelid = t.oid AND a.attname = c AND NOT a.attisdropped)
       ) AS missing_columns,
       ARRAY(
           SELECT r FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r
           WHERE t.oid IS NOT NULL AND NOT has_table_privilege(t.oid, r)
       ) AS missing_rights,
       coalesce(row_security_active(t.oid), false) AND NOT (
           EXISTS (SELECT FROM policies AS p WHERE p.polrelid = t.oid AND p.polpermissive AND p.polcmd = '*' AND p.is_open)
           AND NOT EXISTS (SELECT FROM policies AS p WHERE p.polrelid = t.oid AND NOT p.polpermissive AND NOT p.is_open)
       ) AS hides_rows,
       quote_ident(current_user) AS role
FROM (SELECT to_regclass('background_job_status')::oid AS oid) AS t
