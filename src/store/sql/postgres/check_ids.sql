-- The ids left in each sequence, and the fix when they run out. A sequence behind its table continues after the table's
-- highest id, unless that id is at the end of the range: no sequence follows there.
SELECT t.name,
       s.sequence::text AS sequence,
       (m.most - CASE WHEN f.is_far THEN v.last_value ELSE greatest(v.last_value, coalesce(t.highest, 0)) END)::bigint AS ids_left,
       CASE WHEN f.is_far THEN t.highest::bigint END AS far_id,
       a.atttypid <> 'int8'::regtype AS is_narrow,
       coalesce(q.seqincrement, 1) > 0 AS goes_up
FROM (
    SELECT 'clan_snapshots' AS name, (SELECT max(id) FROM clan_snapshots) AS highest
    UNION ALL SELECT 'player_snapshots', (SELECT max(id) FROM player_snapshots)
    UNION ALL SELECT 'war_snapshots', (SELECT max(id) FROM war_snapshots)
    UNION ALL SELECT 'clan_memberships', (SELECT max(id) FROM clan_memberships)
) AS t
JOIN pg_attribute AS a ON a.attrelid = t.name::regclass AND a.attname = 'id' AND NOT a.attisdropped
CROSS JOIN LATERAL (
    SELECT coalesce(
        pg_get_serial_sequence(t.name, 'id')::regclass,
        (SELECT c.oid::regclass
         FROM pg_attrdef AS f
         JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
         JOIN pg_class AS c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid AND c.relkind = 'S'
         WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum
         LIMIT 1)) AS sequence
) AS s
JOIN pg_sequence AS q ON q.seqrelid = s.sequence
CROSS JOIN LATERAL (
    SELECT least(q.seqmax, CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                           ELSE 9223372036854775807 END) AS most
) AS m
CROSS JOIN LATERAL (SELECT coalesce(pg_sequence_last_value(s.sequence), q.seqstart - 1) AS last_value) AS v
CROSS JOIN LATERAL (
    -- A sequence near the end reached it by itself.
    SELECT coalesce(t.highest > m.most - least(1000000, m.most / 10)
                    AND v.last_value <= m.most - 2 * least(1000000, m.most / 10), FALSE) AS is_far
) AS f
ORDER BY t.name
