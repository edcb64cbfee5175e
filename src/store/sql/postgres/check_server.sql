-- The limits of the server, the database and the role, apart from tables.
SELECT pg_is_in_recovery() AS is_standby,
       current_setting('transaction_read_only')::boolean AS is_read_only,
       (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only') AS read_only_by,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       quote_ident(d.datname) AS database,
       quote_ident(r.rolname) AS role,
       -- The lower limit of connections; -1: no limit. A superuser has none.
       CASE WHEN r.rolsuper THEN -1
            ELSE coalesce(least(nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1)), -1) END AS connections,
       r.rolconnlimit <> -1 AND (d.datconnlimit = -1 OR r.rolconnlimit <= d.datconnlimit) AS is_by_role
FROM pg_database AS d
JOIN pg_roles AS r ON r.rolname = current_user
WHERE d.datname = current_database()
