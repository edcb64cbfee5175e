-- The schemas with tables of these names ($1), each with the column $2, since an unrelated table may have the same name.
-- `seen`: a statement without a schema reaches the table; `hidden`: it does not. Views and partitions count too.
SELECT quote_ident(n.nspname) AS schema,
       n.nspname = current_schema() AS is_current,
       has_schema_privilege(n.oid, 'USAGE') AS may_look,
       n.nspname IN (
           SELECT CASE p.name WHEN '$user' THEN current_user ELSE p.name END
           FROM (SELECT trim(' "' FROM e) AS name FROM unnest(string_to_array(current_setting('search_path'), ',')) AS e) AS p
       ) AS is_on_path,
       coalesce(array_agg(t.name ORDER BY t.name) FILTER (WHERE c.oid = to_regclass(quote_ident(t.name))), '{}') AS seen,
       coalesce(array_agg(t.name ORDER BY t.name)
                FILTER (WHERE c.oid IS DISTINCT FROM to_regclass(quote_ident(t.name))), '{}') AS hidden,
       quote_ident(current_user) AS role,
       quote_ident(current_database()) AS database
FROM unnest($1::text[], $2::text[]) AS t (name, key)
JOIN pg_class AS c ON c.relname = t.name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('refresh_worker', 'information_schema') AND n.nspname !~ '^pg_'
  AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = t.key AND NOT a.attisdropped)
GROUP BY n.oid, n.nspname
ORDER BY count(*) DESC, n.nspname
