-- Skips ids above the highest for other programs, which use max(id) + 1: numbers of the sequence are drawn and not used.
-- Only for the tables that get new rows: $1 clan_snapshots, $2 player_snapshots, $3 war_snapshots, $4 clan_memberships.
-- $5: the gap for ids of eight bytes, $6: the gap for ids of four bytes, which run out. No gap when nine tenths of a range are
-- used, or when a row has an id at its end: no sequence follows there. Returns the number of sequences behind their table,
-- where other programs have written, and the count of drawn numbers. The sequence is the column's own (serial or IDENTITY),
-- else the one that its default names.
SELECT count(*) FILTER (WHERE d.is_behind) AS behind, coalesce(sum(d.drawn), 0)::bigint AS drawn
FROM (
    SELECT 'clan_snapshots' AS name, (SELECT max(id) FROM clan_snapshots) AS highest WHERE $1::boolean
    UNION ALL SELECT 'player_snapshots', (SELECT max(id) FROM player_snapshots) WHERE $2::boolean
    UNION ALL SELECT 'war_snapshots', (SELECT max(id) FROM war_snapshots) WHERE $3::boolean
    UNION ALL SELECT 'clan_memberships', (SELECT max(id) FROM clan_memberships) WHERE $4::boolean
) AS t
JOIN pg_attribute AS a ON a.attrelid = t.name::regclass AND a.attname = 'id'
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
CROSS JOIN LATERAL (
    SELECT coalesce(pg_sequence_last_value(s.sequence), 0) AS last_value,
           m.most, m.most - least(1000000, m.most / 10) AS last_good, greatest(t.highest, 0) AS highest
    FROM (
        SELECT least(q.seqmax, CASE a.atttypid WHEN 'integer'::regtype THEN 2147483647 ELSE 9223372036854775807 END) AS most
        FROM pg_sequence AS q
        WHERE q.seqrelid = s.sequence
    ) AS m
) AS v
CROSS JOIN LATERAL (
    -- As in ids_step.sql.
    SELECT v.highest > v.last_value
               AND (v.highest <= v.last_good OR (v.last_value > v.last_good AND v.highest < v.most)) AS is_behind,
           CASE WHEN v.highest > v.last_value THEN 0
                ELSE CASE WHEN v.most - v.last_value < greatest(v.most / 10, 1000000) THEN 0
                          WHEN v.most > 2147483647 THEN $5::bigint ELSE $6::bigint END
                     - (v.last_value - v.highest)
           END AS missing
) AS m
CROSS JOIN LATERAL (
    SELECT m.is_behind,
           CASE WHEN m.missing <= 0 THEN 0
                ELSE (SELECT count(n.id) FROM (SELECT nextval(s.sequence) AS id FROM generate_series(1, m.missing)) AS n) END AS drawn
) AS d
WHERE s.sequence IS NOT NULL
