-- Clans by their points, each by its newest snapshot. Numbers that the API left out, or that are none, are null.
CREATE MATERIALIZED VIEW IF NOT EXISTS refresh_worker.clan_leaderboard AS
SELECT rank() OVER (ORDER BY n.points DESC NULLS LAST) AS position,
       n.*
FROM (
    SELECT c.tag AS clan_tag, s.name, s.level, s.member_count,
           CASE WHEN json_typeof(d.data -> 'clanPoints') = 'number' THEN (d.data ->> 'clanPoints')::numeric END AS points,
           CASE WHEN json_typeof(d.data -> 'clanCapitalPoints') = 'number'
                THEN (d.data ->> 'clanCapitalPoints')::numeric END AS capital_points,
           CASE WHEN json_typeof(d.data -> 'warWinStreak') = 'number'
                THEN (d.data ->> 'warWinStreak')::numeric END AS war_win_streak,
           s.war_wins, s.war_losses, s.ts AS last_updated
    FROM clans AS c
    CROSS JOIN LATERAL (
        SELECT * FROM clan_snapshots AS o WHERE o.clan_tag = c.tag AND o.ts IS NOT NULL ORDER BY o.ts DESC LIMIT 1
    ) AS s
    -- PostgreSQL stores `\u0000` and half a surrogate pair in a text of a document, and fails when it reads a key of it. Such a
    -- clan has no numbers; the others keep theirs.
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN strpos(s.data::text, '\u') = 0 THEN s.data
            WHEN regexp_replace(s.data::text, '\\u[dD][89abAB][[:xdigit:]]{2}\\u[dD][c-fC-F][[:xdigit:]]{2}', '', 'g')
                 !~ '\\u(0000|[dD][89a-fA-F])' THEN s.data
        END AS data
    ) AS d
) AS n;
CREATE UNIQUE INDEX IF NOT EXISTS clan_leaderboard_key ON refresh_worker.clan_leaderboard (clan_tag);
CREATE INDEX IF NOT EXISTS ix_clan_leaderboard_position ON refresh_worker.clan_leaderboard (position);
COMMENT ON MATERIALIZED VIEW refresh_worker.clan_leaderboard IS 'Clans by their points, as of the last refresh of this view.';
