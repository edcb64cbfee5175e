-- Steps id sequences that are behind their table forward to it. Under an advisory lock, so that none goes back.
-- $1: the gap above the highest id. The sequence is the column's own (serial or IDENTITY), else the one that its default names.
-- A row at the end of a range does not move the sequence: it would be exhausted for all programs, and setval is not rolled
-- back. A sequence that reached the end by itself continues there, without a gap.
SELECT setval(s.sequence, CASE WHEN t.highest > v.last_good THEN t.highest ELSE least(t.highest + $1, v.last_good) END)
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
CROSS JOIN LATERAL (
    SELECT m.most, m.most - least(1000000, m.most / 10) AS last_good, coalesce(pg_sequence_last_value(s.sequence), 0) AS last_value
    FROM (
        SELECT least(q.seqmax, CASE a.atttypid WHEN 'integer'::regtype THEN 2147483647 ELSE 9223372036854775807 END) AS most
        FROM pg_attribute AS a
        WHERE a.attrelid = t.name::regclass AND a.attname = 'id'
    ) AS m
) AS v
WHERE t.highest > v.last_value AND (t.highest <= v.last_good OR (v.last_value > v.last_good AND t.highest < v.most))
