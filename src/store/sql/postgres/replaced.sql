-- The documents that a batch replaces, by the ids of their rows: $1 clans, $2 players, $3 wars.
SELECT 'clan' AS kind, clan_tag::text AS tag, data::text AS document FROM clan_snapshots WHERE id = ANY ($1)
UNION ALL
SELECT 'player', player_tag::text, data::text FROM player_snapshots WHERE id = ANY ($2)
UNION ALL
SELECT 'war', clan_tag::text, data::text FROM war_snapshots WHERE id = ANY ($3)
