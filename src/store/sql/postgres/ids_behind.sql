-- How many id sequences are behind their table, because other programs give ids as max(id) + 1.
-- $1: how many ids above the highest are left to them. The sequence is the column's own (serial or IDENTITY), else the
-- one its default names.
SELECT count(*)
FROM (
    SELECT 'clan_snapshots' AS name, (SELECT max(id) FROM clan_snapshots) AS highest
    UNION ALL SELECT 'player_snapshots', (SELECT max(id) FROM player_snapshots)
    UNION ALL SELECT 'war_snapshots', (SELECT max(id) FROM war_snapshots)
    UNION ALL SELECT 'clan_memberships', (SELECT max(id) FROM clan_memberships)
) AS t
CROSS JOIN LATERAL (
    SELECT coalesce(
        pg_get_serial_sequence(t.name, 'id')::regclass,
        (SELECT c.oid::regclass
         FROM pg_attribute AS a
         JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
         JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
         JOIN pg_class AS c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid AND c.relkind = 'S'
         WHERE a.attrelid = t.name::regclass AND a.attname = 'id'
         LIMIT 1)) AS sequence
) AS s
WHERE s.sequence IS NOT NULL AND t.highest + $1 > coalesce(pg_sequence_last_value(s.sequence), 0)
