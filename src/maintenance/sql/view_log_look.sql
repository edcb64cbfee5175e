-- Does the log of views exist, and may the role write or create it?
SELECT l.oid IS NOT NULL AS is_there,
       CASE WHEN l.oid IS NULL THEN coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
            ELSE has_table_privilege(l.oid, 'SELECT') AND has_table_privilege(l.oid, 'INSERT')
                 AND has_table_privilege(l.oid, 'UPDATE') END AS may_write,
       quote_ident(current_user) AS role
FROM (SELECT to_regclass('materialized_view_refresh_log')::oid AS oid) AS l
