-- Clans by their points, each by its newest snapshot. Numbers that the API left out, or that are none, are null.
CREATE MATERIALIZED VIEW IF NOT EXISTS refresh_worker.clan_leaderboard AS
SELECT rank() OVER (ORDER BY n.points DESC NULLS LAST) AS position,
       n.*
FROM (
    SELECT c.tag AS clan_tag, s.name, s.level, s.member_count,
           CASE WHEN d."clanPoints"::text ~ '^-?[0-9.]{1,20}([eE][-+]?[0-9]{1,2})?$' THEN d."clanPoints"::text::numeric END
               AS points,
           CASE WHEN d."clanCapitalPoints"::text ~ '^-?[0-9.]{1,20}([eE][-+]?[0-9]{1,2})?$'
                THEN d."clanCapitalPoints"::text::numeric END AS capital_points,
           CASE WHEN d."warWinStreak"::text ~ '^-?[0-9.]{1,20}([eE][-+]?[0-9]{1,2})?$'
                THEN d."warWinStreak"::text::numeric END AS war_win_streak,
           s.war_wins, s.war_losses, s.ts AS last_updated
    FROM clans AS c
    CROSS JOIN LATERAL (
        SELECT o.name, o.level, o.member_count, o.war_wins, o.war_losses, o.ts, o.data::json AS data
        FROM clan_snapshots AS o WHERE o.clan_tag = c.tag AND o.ts IS NOT NULL ORDER BY o.ts DESC LIMIT 1
    ) AS s
    -- PostgreSQL stores `\u0000` and half a surrogate pair in a text of a document, and fails when it reads a key of it. Such a
    -- clan has no numbers; the others keep theirs. OFFSET 0: a document is unpacked and read once, not once a column.
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN json_typeof(s.data) <> 'object' THEN NULL
            WHEN strpos(s.data::text, E'\\u') = 0 THEN s.data
            WHEN regexp_replace(s.data::text, E'\\\\u[dD][89abAB][[:xdigit:]]{2}\\\\u[dD][c-fC-F][[:xdigit:]]{2}', '', 'g')
                 !~ E'\\\\u(0000|[dD][89a-fA-F])' THEN s.data
        END AS data
        OFFSET 0
    ) AS r
    CROSS JOIN LATERAL json_to_record(coalesce(r.data, '{}'))
        AS d ("clanPoints" json, "clanCapitalPoints" json, "warWinStreak" json)
) AS n;
CREATE UNIQUE INDEX IF NOT EXISTS clan_leaderboard_key ON refresh_worker.clan_leaderboard (clan_tag);
CREATE INDEX IF NOT EXISTS ix_clan_leaderboard_position ON refresh_worker.clan_leaderboard (position);
