-- The table of jobs: whether it is there or may be made, what it or the role lacks, whether rows are hidden from the role.
SELECT t.oid IS NOT NULL AS is_there,
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
       coalesce(row_security_active(t.oid), false) AS hides_rows,
       quote_ident(current_user) AS role
FROM (SELECT to_regclass('background_job_status')::oid AS oid) AS t
