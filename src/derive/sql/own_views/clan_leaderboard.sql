-- Clans by their points, each by its newest snapshot. Numbers that the API left out, or that are none, are null.
CREATE MATERIALIZED VIEW IF NOT EXISTS refresh_worker.clan_leaderboard AS
SELECT rank() OVER (ORDER BY n.points DESC NULLS LAST) AS position,
       n.*
FROM (
    SELECT c.tag AS clan_tag, s.name, s.level, s.member_count,
           CASE WHEN json_typeof(s.data -> 'clanPoints') = 'number' THEN (s.data ->> 'clanPoints')::numeric END AS points,
           CASE WHEN json_typeof(s.data -> 'clanCapitalPoints') = 'number'
                THEN (s.data ->> 'clanCapitalPoints')::numeric END AS capital_points,
           CASE WHEN json_typeof(s.data -> 'warWinStreak') = 'number'
                THEN (s.data ->> 'warWinStreak')::numeric END AS war_win_streak,
           s.war_wins, s.war_losses, s.ts AS last_updated
    FROM clans AS c
    CROSS JOIN LATERAL (
        SELECT * FROM clan_snapshots AS o WHERE o.clan_tag = c.tag AND o.ts IS NOT NULL ORDER BY o.ts DESC LIMIT 1
    ) AS s
) AS n;
CREATE UNIQUE INDEX IF NOT EXISTS clan_leaderboard_key ON refresh_worker.clan_leaderboard (clan_tag);
CREATE INDEX IF NOT EXISTS ix_clan_leaderboard_position ON refresh_worker.clan_leaderboard (position);
COMMENT ON MATERIALIZED VIEW refresh_worker.clan_leaderboard IS 'Clans by their points, as of the last refresh of this view.';
