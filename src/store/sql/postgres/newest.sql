-- The newest snapshot row of each object, without its document.
-- Players: $1 tag, $2 the time of a new row, $3 whether a war names the player. Clans: $4, $5. Wars: $6, $7.
-- `taken` is the latest time of another row in the same millisecond.
SELECT 'player' AS kind, w.tag, n.id, n.ts,
       CASE WHEN n.ts >= w.at THEN (
           SELECT max(o.ts) FROM player_snapshots AS o
           WHERE o.player_tag = w.tag AND o.id <> n.id AND o.ts >= w.at AND o.ts < w.at + interval '1 millisecond'
       ) END AS taken,
       n.clan_tag::text, n.name::text, n.role::text, n.town_hall, n.trophies, n.donations, n.donations_received, n.war_attacks_used,
       n.last_seen,
       -- Readers show the newest row with attacks, at most a week older, when the newest row has none.
       CASE WHEN w.in_war AND n.war_attacks_used IS NULL THEN (
           SELECT o.war_attacks_used FROM player_snapshots AS o
           WHERE o.player_tag = w.tag AND o.ts >= greatest(n.ts, '0001-01-01') - interval '7 days' AND o.war_attacks_used IS NOT NULL
           ORDER BY o.ts DESC LIMIT 1
       ) END AS earlier_attacks
FROM unnest($1::text[], $2::timestamp[], $3::boolean[]) AS w (tag, at, in_war)
CROSS JOIN LATERAL (
    SELECT * FROM player_snapshots AS s WHERE s.player_tag = w.tag AND s.ts IS NOT NULL ORDER BY s.ts DESC LIMIT 1
) AS n
UNION ALL
SELECT 'clan', w.tag, n.id, n.ts,
       CASE WHEN n.ts >= w.at THEN (
           SELECT max(o.ts) FROM clan_snapshots AS o
           WHERE o.clan_tag = w.tag AND o.id <> n.id AND o.ts >= w.at AND o.ts < w.at + interval '1 millisecond'
       ) END,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM unnest($4::text[], $5::timestamp[]) AS w (tag, at)
CROSS JOIN LATERAL (
    SELECT s.id, s.ts FROM clan_snapshots AS s WHERE s.clan_tag = w.tag AND s.ts IS NOT NULL ORDER BY s.ts DESC LIMIT 1
) AS n
UNION ALL
SELECT 'war', w.tag, n.id, n.ts,
       CASE WHEN n.ts >= w.at THEN (
           SELECT max(o.ts) FROM war_snapshots AS o
           WHERE o.clan_tag = w.tag AND o.id <> n.id AND o.ts >= w.at AND o.ts < w.at + interval '1 millisecond'
       ) END,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM unnest($6::text[], $7::timestamp[]) AS w (tag, at)
CROSS JOIN LATERAL (
    SELECT s.id, s.ts FROM war_snapshots AS s WHERE s.clan_tag = w.tag AND s.ts IS NOT NULL ORDER BY s.ts DESC LIMIT 1
) AS n
