-- Steps the id sequences that are behind their table forward to it. Under an advisory lock, so that none goes back.
-- $1: how many ids above the highest are left to them, though not at the end of a sequence. The sequence is the column's own
-- (serial or IDENTITY), else the one its default names.
SELECT setval(s.sequence, least(t.highest + $1, greatest(t.highest, q.seqmax - 1000000)))
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
JOIN pg_sequence AS q ON q.seqrelid = s.sequence
WHERE t.highest IS NOT NULL
  AND least(t.highest + $1, greatest(t.highest, q.seqmax - 1000000)) > coalesce(pg_sequence_last_value(s.sequence), 0)
