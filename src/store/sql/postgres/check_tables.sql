-- Of each expected table ($1 table, $2 column, a row a column; $3 table and $4 rights needed, as a list with commas):
-- whether it is there, and what it or the role lacks. `sequence` is where its ids come from.
SELECT t.name,
       t.oid IS NOT NULL AS is_there,
       quote_ident(current_user) AS role,
       ARRAY(
           SELECT e.column_name FROM unnest($1::text[], $2::text[]) AS e (table_name, column_name)
           WHERE e.table_name = t.name AND t.oid IS NOT NULL
             AND NOT EXISTS (SELECT FROM pg_attribute AS a
                             WHERE a.attrelid = t.oid AND a.attname = e.column_name AND NOT a.attisdropped)
       ) AS missing_columns,
       ARRAY(
           SELECT r FROM unnest(string_to_array(t.rights, ',')) AS r
           WHERE t.oid IS NOT NULL AND NOT has_table_privilege(t.oid, r)
       ) AS missing_rights,
       EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS e (table_name, column_name)
               WHERE e.table_name = t.name AND e.column_name = 'id') AS has_ids,
       s.sequence::text AS sequence,
       ARRAY(
           SELECT r FROM unnest(ARRAY['USAGE', 'UPDATE']) AS r
           WHERE s.sequence IS NOT NULL AND NOT has_sequence_privilege(s.sequence, r)
       ) AS missing_sequence_rights
FROM (SELECT n.name, n.rights, to_regclass(n.name)::oid AS oid FROM unnest($3::text[], $4::text[]) AS n (name, rights)) AS t
CROSS JOIN LATERAL (
    SELECT CASE WHEN EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = t.oid AND a.attname = 'id' AND NOT a.attisdropped
    ) THEN coalesce(
        pg_get_serial_sequence(t.name, 'id')::regclass,
        (SELECT c.oid::regclass
         FROM pg_attribute AS a
         JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
         JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
         JOIN pg_class AS c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid AND c.relkind = 'S'
         WHERE a.attrelid = t.oid AND a.attname = 'id'
         LIMIT 1)) END AS sequence
) AS s
ORDER BY t.name
