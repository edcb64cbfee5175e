-- What the server, the database and the role allow whatever the tables are.
SELECT pg_is_in_recovery() AS is_standby,
       current_setting('transaction_read_only')::boolean AS is_read_only,
       (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only') AS read_only_by,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       quote_ident(d.datname) AS database,
       quote_ident(r.rolname) AS role,
       -- The fewest connections that either allows; none of them: -1. A superuser is not counted.
       CASE WHEN r.rolsuper THEN -1
            ELSE coalesce(least(nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1)), -1) END AS connections,
       r.rolconnlimit <> -1 AND (d.datconnlimit = -1 OR r.rolconnlimit <= d.datconnlimit) AS is_by_role
FROM pg_database AS d
JOIN pg_roles AS r ON r.rolname = current_user
WHERE d.datname = current_database()
