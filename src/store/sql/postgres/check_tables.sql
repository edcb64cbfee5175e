-- For each expected table: whether it exists, and what the table or the role lacks. $1 table, $2 column, $3 type of the column
-- (number, id, time, document, a number of characters, or empty for our own tables), a row a column; $4 table, $5 rights as a
-- list with commas, $6 the columns of its key. `sequence` is the source of its ids.
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
           SELECT format('%I is %s', e.column_name, format_type(a.atttypid, a.atttypmod))
           FROM unnest($1::text[], $2::text[], $3::text[]) AS e (table_name, column_name, holds)
           JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = e.column_name AND NOT a.attisdropped
           JOIN pg_type AS d ON d.oid = a.atttypid
           -- The base type of a domain.
           JOIN pg_type AS y ON y.oid = coalesce(nullif(d.typbasetype, 0), d.oid)
           WHERE e.table_name = t.name
             AND NOT CASE e.holds
                 WHEN '' THEN true
                 WHEN 'number' THEN y.typname IN ('int4', 'int8')
                 WHEN 'id' THEN y.typname IN ('int4', 'int8')
                 WHEN 'time' THEN y.typname IN ('timestamp', 'timestamptz')
                 WHEN 'document' THEN y.typname IN ('json', 'jsonb')
                 ELSE y.typname IN ('text', 'varchar', 'citext')
             END
           ORDER BY a.attnum
       ) AS other_columns,
       ARRAY(
           SELECT format('%I holds %s characters, not %s', e.column_name, a.atttypmod - 4, e.holds)
           FROM unnest($1::text[], $2::text[], $3::text[]) AS e (table_name, column_name, holds)
           JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = e.column_name AND NOT a.attisdropped
           WHERE e.table_name = t.name AND e.holds ~ '^[0-9]+$' AND a.atttypid = 'varchar'::regtype
             AND a.atttypmod BETWEEN 0 AND 3 + CASE WHEN e.holds ~ '^[0-9]+$' THEN e.holds::int END
           ORDER BY a.attnum
       ) AS narrow_columns,
       ARRAY(
           SELECT r FROM unnest(string_to_array(t.rights, ',')) AS r
           WHERE t.oid IS NOT NULL AND NOT has_table_privilege(t.oid, r)
       ) AS missing_rights,
       t.key <> '' AND coalesce(r.relkind, 'v') IN ('r', 'p') AND NOT EXISTS (
           SELECT FROM pg_index AS i
           WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
             AND i.indexprs IS NULL
             AND t.key = (SELECT string_agg(a.attname, ', ' ORDER BY a.attname)
                          FROM pg_attribute AS a
                          WHERE a.attrelid = t.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
       ) AS lacks_key,
       t.key,
       -- The catalogue does not show it for a view; the trial does.
       coalesce(r.relkind, 'r') IN ('r', 'p')
           AND EXISTS (SELECT FROM unnest($1::text[], $3::text[]) AS e (table_name, holds)
                       WHERE e.table_name = t.name AND e.holds = 'id') AS has_ids,
       s.sequence::text AS sequence,
       ARRAY(
           SELECT r FROM unnest(ARRAY['USAGE', 'UPDATE']) AS r
           WHERE s.sequence IS NOT NULL AND NOT has_sequence_privilege(s.sequence, r)
       ) AS missing_sequence_rights
FROM (SELECT n.name, n.rights, n.key, to_regclass(n.name)::oid AS oid
      FROM unnest($4::text[], $5::text[], $6::text[]) AS n (name, rights, key)) AS t
LEFT JOIN pg_class AS r ON r.oid = t.oid
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
